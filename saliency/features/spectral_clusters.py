"""SelfMask's clusters: the patches of an image in k parts, by k-means on the first eigenvectors of their likeness.

Shin et al. 2022, "Unsupervised Salient Object Detection with Spectral Cluster Voting", section 3.1. Shapes: h w rows
and columns of the map, N = h * w, D channels, k parts.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

NUMS_OF_PARTS = (2, 3, 4)
ENLARGEMENT = 2
NUM_STARTS = 10
MAX_STEPS = 300
# Of the eigenvectors: clusters are further apart.
TOLERANCE = 1e-8
# Rows of the likeness looked at at once, to find its smallest value without holding all of it.
_ROWS_AT_ONCE = 1024
# A likeness that varies less is that of equal vectors, rounded.
_MIN_RANGE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Parts of one map.

    eigenvalues: float (k), the lowest. labels_hw: int, parts numbered as they first appear by row.
    """

    eigenvalues: np.ndarray
    labels_hw: np.ndarray


def doubled(map_hwD: np.ndarray) -> np.ndarray:
    """Enlarge a map of features to twice its rows and columns: bilinear, first and last samples in place.

    Args: map_hwD: float. Returns: float64 (2h, 2w, D).
    """
    return _stretched(_stretched(map_hwD.astype(np.float64), 0), 1)


def _stretched(map_hwD: np.ndarray, axis: int) -> np.ndarray:
    length = map_hwD.shape[axis]
    place = np.linspace(0, length - 1, ENLARGEMENT * length)
    below = np.minimum(place.astype(int), max(length - 2, 0))
    above = np.minimum(below + 1, length - 1)
    share = (place - below).reshape([-1 if each == axis else 1 for each in range(3)])
    return np.take(map_hwD, below, axis) * (1 - share) + np.take(map_hwD, above, axis) * share


def spectral_clusters(map_hwD: np.ndarray, nums: tuple[int, ...] = NUMS_OF_PARTS) -> list[Clusters]:
    """Divide a map of features into parts, once for each number of them.

    The likeness is the cosine, brought to [0, 1]; the vectors are those of the k smallest eigenvalues of
    (D - A) v = lambda D v, the constant one among them. A is never held: it is a product of what is smaller.

    Args: map_hwD: float. nums: of parts.
    Returns: one for each number; [] where nothing can be told apart, or the map has no more cells than parts.
    """
    size, num = map_hwD.shape[:2], map_hwD.shape[0] * map_hwD.shape[1]
    norm_hw1 = np.maximum(np.linalg.norm(map_hwD, axis=2, keepdims=True), np.finfo(np.float64).tiny)
    unit_ND = (map_hwD / norm_hw1).reshape(num, -1)
    ends = [(rows @ unit_ND.T) for rows in np.array_split(unit_ND, -(-num // _ROWS_AT_ONCE))]
    lowest, highest = min(part.min() for part in ends), max(part.max() for part in ends)
    if highest - lowest < _MIN_RANGE or num <= max(nums) + 1:
        return []
    values, vectors_Nk = _lowest_eigenvectors(unit_ND, float(lowest), float(highest), max(nums))
    return [
        Clusters(eigenvalues=values[:k], labels_hw=_numbered(k_means(vectors_Nk[:, :k], k)).reshape(size)) for k in nums
    ]


def _lowest_eigenvectors(
    unit_ND: np.ndarray, lowest: float, highest: float, num_vectors: int
) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of D^-1/2 A D^-1/2 with the largest eigenvalues, by Lanczos, as those of the generalised problem."""
    num = len(unit_ND)

    def product(v_N: np.ndarray) -> np.ndarray:
        v_N = v_N.ravel()
        return (unit_ND @ (unit_ND.T @ v_N) - lowest * v_N.sum()) / (highest - lowest)

    root_N = np.sqrt(product(np.ones(num)))
    scaled = LinearOperator((num, num), matvec=lambda v_N: product(v_N.ravel() / root_N) / root_N, dtype=np.float64)
    # Any start that is not orthogonal to the answer; always the same, so that equal images have equal maps.
    start_N = np.cos(np.arange(1, num + 1))
    try:
        values, vectors_Nk = eigsh(scaled, k=num_vectors, which="LA", v0=start_N, tol=TOLERANCE)
    except ArpackNoConvergence:
        values, vectors_Nk = eigsh(scaled @ np.eye(num), k=num_vectors, which="LA", tol=1e-9)
    order = np.argsort(-values)
    return 1 - values[order], vectors_Nk[:, order] / root_N[:, None]


def k_means(points_NE: np.ndarray, k: int) -> np.ndarray:
    """Divide points into k groups about their means, the best of ten starts; always the same for the same points.

    Args: points_NE: float. k: of groups.
    Returns: int (N), the group of each.
    """
    best, best_cost = np.zeros(len(points_NE), int), np.inf
    for start in range(NUM_STARTS):
        centres_kE = _spread_centres(points_NE, k, np.random.default_rng([start, k]))
        labels_N, cost = _settled(points_NE, centres_kE)
        if cost < best_cost * (1 - 1e-9):
            best, best_cost = labels_N, cost
    return best


def _spread_centres(points_NE: np.ndarray, k: int, generator: np.random.Generator) -> np.ndarray:
    """Each next centre is a point drawn by its squared distance to the nearest one (Arthur and Vassilvitskii 2007)."""
    centres = [points_NE[generator.integers(len(points_NE))]]
    while len(centres) < k:
        nearest_N = _squared_distances(points_NE, np.stack(centres)).min(axis=1)
        total = nearest_N.sum()
        drawn = generator.choice(len(points_NE), p=nearest_N / total) if total else generator.integers(len(points_NE))
        centres.append(points_NE[drawn])
    return np.stack(centres)


def _settled(points_NE: np.ndarray, centres_kE: np.ndarray) -> tuple[np.ndarray, float]:
    """Lloyd's steps until no point changes its group."""
    labels_N = np.full(len(points_NE), -1)
    for _ in range(MAX_STEPS):
        distances_Nk = _squared_distances(points_NE, centres_kE)
        moved_N = distances_Nk.argmin(axis=1)
        if np.array_equal(moved_N, labels_N):
            break
        labels_N = moved_N
        centres_kE = np.stack(
            [
                points_NE[labels_N == group].mean(axis=0) if (labels_N == group).any() else centre_E
                for group, centre_E in enumerate(centres_kE)
            ]
        )
    return labels_N, float(_squared_distances(points_NE, centres_kE).min(axis=1).sum())


def _squared_distances(points_NE: np.ndarray, centres_kE: np.ndarray) -> np.ndarray:
    return ((points_NE[:, None] - centres_kE) ** 2).sum(axis=2)


def _numbered(labels_N: np.ndarray) -> np.ndarray:
    """Number groups as they first appear."""
    _, first, group_N = np.unique(labels_N, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[group_N]
