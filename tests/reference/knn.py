"""The weighted nearest-neighbour vote in loops and float64 (Wu et al. 2018, section 3.4)."""

import math

import numpy as np


def knn_predictions(
    train_ND: np.ndarray, train_label_N: np.ndarray, test_MD: np.ndarray, num_classes: int, k: int, temperature: float
) -> np.ndarray:
    """Return the ranking of classes (M, C) of each test image: most votes first, lower class first among equals."""
    rankings = []
    for test in test_MD.astype(np.float64):
        similarities = []
        for row, train in enumerate(train_ND.astype(np.float64)):
            cosine = float(np.dot(test, train)) / math.sqrt(float(np.dot(test, test)) * float(np.dot(train, train)))
            similarities.append((-cosine, row))
        vote = [0.0] * num_classes
        for negative_cosine, row in sorted(similarities)[:k]:
            vote[train_label_N[row]] += math.exp(-negative_cosine / temperature)
        rankings.append(sorted(range(num_classes), key=lambda label: (-vote[label], label)))
    return np.array(rankings)
