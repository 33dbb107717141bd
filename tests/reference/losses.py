"""Slow float64 restatements of the losses, one loop per index of the equation."""

import math

import numpy as np


def info_nce(query, key, queue, negatives, temperature) -> float:
    """He et al. 2020, Eq. 1: the mean of -log exp(q.k+/tau) / sum over all keys exp(q.k/tau)."""
    total = 0.0
    for b in range(len(query)):
        keys = [key[b], *queue] + [negative[b] for negative in negatives]
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


def rotation_prediction(logits, num_images) -> float:
    """Gidaris et al. 2018, Eq. 2 and 3: logits of all images turned by 0, then of all turned by 90 degrees, ..."""
    total = 0.0
    for turns in range(4):
        for image in range(num_images):
            row = logits[turns * num_images + image]
            total -= row[turns] - math.log(sum(math.exp(x) for x in row))
    return total / (4 * num_images)


def cross_entropy(logits, labels) -> float:
    """The mean of -log softmax at the label."""
    terms = [math.log(sum(math.exp(x) for x in row)) - row[label] for row, label in zip(logits, labels, strict=True)]
    return sum(terms) / len(terms)


def head_and_gradient(weight, bias, pooled, keys) -> tuple[np.ndarray, np.ndarray]:
    """A linear head's q . k with q of unit length, and its derivative with respect to the pooled features, by hand.

    With z = W p + b and q = z / |z|: d(q . k)/dz = (k - (q . k) q) / |z|, and times W on the left for dp.
    """
    similarity, gradient = np.zeros(len(pooled)), np.zeros_like(pooled)
    for row in range(len(pooled)):
        z = weight @ pooled[row] + bias
        length = math.sqrt(sum(x * x for x in z))
        q = z / length
        similarity[row] = sum(x * y for x, y in zip(q, keys[row], strict=True))
        gradient[row] = weight.T @ ((keys[row] - similarity[row] * q) / length)
    return similarity, gradient


def cast_loss(weight, bias, feature_map, keys, mask) -> float:
    """Selvaraju et al. 2021, Eq. 1, 2 and 4 of a linear head, the mean over images."""
    batch_size, num_features, height, width = feature_map.shape
    pooled = np.array([[feature_map[b, n].mean() for n in range(num_features)] for b in range(batch_size)])
    # d/dA is the same at each position, d/dp / (H W); the sum over positions is d/dp.
    _, alpha = head_and_gradient(weight, bias, pooled, keys)
    cam = grad_cam(alpha, feature_map)
    losses = [attention_loss(cam[b], area_average(mask[b], height, width)) for b in range(batch_size)]
    return sum(losses) / batch_size


def released_cast_loss(alpha, feature_map, mask) -> float:
    """What salesforce/CAST@fcc4adf computes of the same alpha: see trainer/losses/saliency_attention.py."""
    batch_size, num_features, height, width = feature_map.shape
    cams, targets = [], []
    for b in range(batch_size):
        cam = np.zeros((height, width))
        for i in range(height):
            for j in range(width):
                cam[i, j] = sum(alpha[b, n] * feature_map[b, n, i, j] for n in range(num_features))
        for _ in range(2):
            cam = cam - cam.min()
            cam = cam / (cam.max() + 1e-7)
        cams.append(cam)
        targets.append(corner_sampled(mask[b], height, width))
    return attention_loss(np.array(cams), np.array(targets))


def corner_sampled(mask, rows, columns) -> np.ndarray:
    """Bilinear values of a mask (H, W) at points spread evenly from its first pixel's middle to its last one's."""
    target = np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            y, x = i * (mask.shape[0] - 1) / (rows - 1), j * (mask.shape[1] - 1) / (columns - 1)
            top, left = min(int(y), mask.shape[0] - 2), min(int(x), mask.shape[1] - 2)
            above = mask[top, left] * (left + 1 - x) + mask[top, left + 1] * (x - left)
            below = mask[top + 1, left] * (left + 1 - x) + mask[top + 1, left + 1] * (x - left)
            target[i, j] = above * (top + 1 - y) + below * (y - top)
    return target


def overlap(query_box, is_flipped, key_box, side_px) -> np.ndarray:
    """Which pixels of a query's view have their middle inside the key's box; one pixel at a time."""
    top, left, height, width = query_box
    key_top, key_left, key_height, key_width = key_box
    inside = np.zeros((side_px, side_px))
    for i in range(side_px):
        for j in range(side_px):
            column = side_px - 1 - j if is_flipped else j
            y, x = top + height * (i + 0.5) / side_px, left + width * (column + 0.5) / side_px
            inside[i, j] = key_top <= y < key_top + key_height and key_left <= x < key_left + key_width
    return inside
