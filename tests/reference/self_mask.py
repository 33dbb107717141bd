"""SelfMask's clusters and vote in float64 loops and a dense generalised eigen-solve. Shin et al. 2022, section 3."""

import numpy as np
import scipy.linalg


def lowest_eigenvectors(features_ND: np.ndarray, num_vectors: int) -> tuple[np.ndarray, np.ndarray]:
    """The lowest eigenvalues of (D - A, D) with their vectors, (N, k); A: cosines brought to [0, 1]."""
    num = len(features_ND)
    likeness = np.zeros((num, num))
    for i in range(num):
        for j in range(num):
            norms = np.sqrt((features_ND[i] @ features_ND[i]) * (features_ND[j] @ features_ND[j]))
            likeness[i, j] = features_ND[i] @ features_ND[j] / norms
    likeness = (likeness - likeness.min()) / (likeness.max() - likeness.min())
    degree = np.diag(likeness.sum(axis=1))
    values, vectors = scipy.linalg.eigh(degree - likeness, degree)
    return values[:num_vectors], vectors[:, :num_vectors]


def cost(points_NE: np.ndarray, labels_N: np.ndarray) -> float:
    """Sum of squared distances of points to the means of their groups, what k-means makes small."""
    total = 0.0
    for group in set(labels_N.tolist()):
        own = points_NE[labels_N == group]
        total += ((own - own.mean(axis=0)) ** 2).sum()
    return total


def vote(regions: list[np.ndarray]) -> int:
    """The number of the region that agrees most with those that do not reach two opposite borders."""
    kept = [i for i, region in enumerate(regions) if region.any() and not _spans(region)]
    kept = kept or [i for i, region in enumerate(regions) if region.any()]
    scores = [sum((regions[i] & regions[j]).sum() / (regions[i] | regions[j]).sum() for j in kept) for i in kept]
    return kept[scores.index(max(scores))]


def _spans(region: np.ndarray) -> bool:
    rows, columns = np.nonzero(region)
    height, width = region.shape
    return bool(rows.min() == 0 and rows.max() == height - 1) or bool(columns.min() == 0 and columns.max() == width - 1)
