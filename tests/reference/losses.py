"""Slow float64 restatements of the losses, one loop per index of the equation."""

import math

import numpy as np


def info_nce(query, key, queue, negatives, temperature) -> float:
    """He et al. 2020, Eq. 1: the mean of -log exp(q.k+/tau) / sum over all keys exp(q.k/tau)."""
    total = 0.0
    for b in range(len(query)):
        keys = [key[b], *queue] + ([] if negatives is None else [negatives[b]])
        exponentials = [math.exp(sum(x * y for x, y in zip(query[b], k, strict=True)) / temperature) for k in keys]
        total -= math.log(exponentials[0] / sum(exponentials))
    return total / len(query)


def byol_regression(prediction, target) -> float:
    """Grill et al. 2020, Eq. 2: the mean squared distance of the two unit vectors."""
    total = 0.0
    for p, t in zip(prediction, target, strict=True):
        p_norm, t_norm = math.sqrt(sum(x * x for x in p)), math.sqrt(sum(x * x for x in t))
        total += sum((x / p_norm - y / t_norm) ** 2 for x, y in zip(p, t, strict=True))
    return total / len(prediction)


def swapped_prediction(codes, scores, temperature) -> float:
    """Caron et al. 2020, Eq. 2 and 6: cross-entropy of each code with each other view's softmax, averaged."""
    terms = []
    for s in range(len(codes)):
        for t in range(len(scores)):
            if s == t:
                continue
            for b in range(len(codes[s])):
                exponentials = [math.exp(x / temperature) for x in scores[t][b]]
                probabilities = [x / sum(exponentials) for x in exponentials]
                terms.append(-sum(q * math.log(p) for q, p in zip(codes[s][b], probabilities, strict=True)))
    return sum(terms) / len(terms)


def sinkhorn(scores, epsilon, num_iterations) -> np.ndarray:
    """Cuturi 2013: scale columns to 1 / K, rows to 1 / B, in turn; rows then sum to 1."""
    batch_size, num_prototypes = scores.shape
    q = np.array([[math.exp(scores[b, k] / epsilon) for k in range(num_prototypes)] for b in range(batch_size)])
    for _ in range(num_iterations):
        for k in range(num_prototypes):
            q[:, k] /= q[:, k].sum() * num_prototypes
        for b in range(batch_size):
            q[b] /= q[b].sum() * batch_size
    return q * batch_size


def grad_cam(alpha, feature_map) -> np.ndarray:
    """Selvaraju et al. 2021, Eq. 2."""
    batch_size, num_features, height, width = feature_map.shape
    cam = np.zeros((batch_size, height, width))
    for b in range(batch_size):
        for i in range(height):
            for j in range(width):
                cam[b, i, j] = max(0.0, sum(alpha[b, n] * feature_map[b, n, i, j] for n in range(num_features)))
    return cam


def area_average(mask, rows, columns) -> np.ndarray:
    """Mean of a mask (H, W) over each cell of a grid that divides it."""
    height, width = mask.shape[0] // rows, mask.shape[1] // columns
    return np.array(
        [
            [mask[i * height : (i + 1) * height, j * width : (j + 1) * width].mean() for j in range(columns)]
            for i in range(rows)
        ]
    )


def attention_loss(cam, target) -> float:
    """Selvaraju et al. 2021, Eq. 4, for one image."""
    dot = sum(g * m for g, m in zip(cam.ravel(), target.ravel(), strict=True))
    norms = math.sqrt(sum(g * g for g in cam.ravel())) * math.sqrt(sum(m * m for m in target.ravel()))
    return 1.0 - (dot / norms if norms else 0.0)
