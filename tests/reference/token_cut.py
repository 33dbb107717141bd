"""TokenCut in float64 loops and a dense generalised eigen-solve. Wang et al. 2022, section 3."""

import numpy as np
import scipy.linalg


def second_vector(keys_ND: np.ndarray, tau: float = 0.2, epsilon: float = 1e-5) -> tuple[float, np.ndarray]:
    """The second smallest lambda of (D - W) v = lambda D v, and v: v'Dv = 1, its largest absolute value positive."""
    num = len(keys_ND)
    weights = np.full((num, num), epsilon)
    for i in range(num):
        for j in range(num):
            cosine = keys_ND[i] @ keys_ND[j] / np.sqrt((keys_ND[i] @ keys_ND[i]) * (keys_ND[j] @ keys_ND[j]))
            if i == j or cosine > tau:
                weights[i, j] = 1
    degree = np.diag(weights.sum(axis=1))
    values, vectors = scipy.linalg.eigh(degree - weights, degree)
    vector = vectors[:, 1]
    return float(values[1]), vector * np.sign(vector[np.argmax(np.abs(vector))])


def component(mask_hw: np.ndarray, seed: int) -> np.ndarray:
    """What hangs together with a seed by sides, by walking from it."""
    height, width = mask_hw.shape
    found, waiting = np.zeros_like(mask_hw), [divmod(seed, width)]
    while waiting:
        row, column = waiting.pop()
        if 0 <= row < height and 0 <= column < width and mask_hw[row, column] and not found[row, column]:
            found[row, column] = True
            waiting += [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
    return found
