"""LOST in float64 loops. Simeoni et al. 2021, section 3."""

import numpy as np

from tests.reference.token_cut import component


def lost(keys_ND: np.ndarray, size: tuple[int, int], num_lowest: int = 100) -> tuple[list[int], int, np.ndarray]:
    """Degrees, the seed and the object's patches (bool, h x w)."""
    num = len(keys_ND)
    product = [[float(keys_ND[i] @ keys_ND[j]) for j in range(num)] for i in range(num)]
    degrees = [sum(product[i][j] > 0 for j in range(num) if j != i) for i in range(num)]
    by_degree = sorted(range(num), key=lambda i: (degrees[i], i))
    seed = by_degree[0]
    similar = [i for i in by_degree[:num_lowest] if product[seed][i] > 0]
    positive = [sum(product[i][j] for i in similar) > 0 for j in range(num)]
    return degrees, seed, component(np.array(positive).reshape(size), seed)
