"""Softmax regression by momentum SGD in loops over examples and float64, and the optimum that it goes to."""

import numpy as np


def gradient(
    weight_CD: np.ndarray, bias_C: np.ndarray, feature_BD: np.ndarray, label_B: np.ndarray, weight_decay: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the mean cross-entropy, without the decay, and the gradients with it, of weights and biases alike."""
    loss, by_weight, by_bias = 0.0, weight_decay * weight_CD, weight_decay * bias_C
    for feature, label in zip(feature_BD.astype(np.float64), label_B, strict=True):
        logits = weight_CD @ feature + bias_C
        probability = np.exp(logits - logits.max())
        probability /= probability.sum()
        loss -= np.log(probability[label]) / len(label_B)
        error = probability - (np.arange(len(bias_C)) == label)
        by_weight = by_weight + np.outer(error, feature) / len(label_B)
        by_bias = by_bias + error / len(label_B)
    return loss, by_weight, by_bias


def sgd(
    weight_CD: np.ndarray,
    bias_C: np.ndarray,
    steps: list[tuple[np.ndarray, np.ndarray]],
    rates: list[float],
    *,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and biases after the steps: v = m v + g; w = w - rate (v, or g + m v with Nesterov)."""
    values, speeds = [weight_CD.astype(np.float64), bias_C.astype(np.float64)], [0.0, 0.0]
    for (feature_BD, label_B), rate in zip(steps, rates, strict=True):
        _, *slopes = gradient(values[0], values[1], feature_BD, label_B, weight_decay)
        for number, slope in enumerate(slopes):
            speeds[number] = momentum * speeds[number] + slope
            move = slope + momentum * speeds[number] if nesterov else speeds[number]
            values[number] = values[number] - rate * move
    return values[0], values[1]


def optimum(feature_ND: np.ndarray, label_N: np.ndarray, num_classes: int, weight_decay: float) -> float:
    """Return the least mean cross-entropy plus weight_decay / 2 times the squared weights and biases, by Newton."""
    num_features = feature_ND.shape[1] + 1
    design_ND = np.hstack([feature_ND.astype(np.float64), np.ones((len(feature_ND), 1))])
    weight = np.zeros((num_classes, num_features))
    value = np.inf
    for _ in range(50):
        logits = design_ND @ weight.T
        probability = np.exp(logits - logits.max(axis=1, keepdims=True))
        probability /= probability.sum(axis=1, keepdims=True)
        value = -np.log(probability[np.arange(len(label_N)), label_N]).mean() + weight_decay / 2 * (weight**2).sum()
        slope = (probability - np.eye(num_classes)[label_N]).T @ design_ND / len(label_N) + weight_decay * weight
        curvature = weight_decay * np.eye(weight.size)
        for design, p in zip(design_ND, probability, strict=True):
            curvature += np.kron(np.diag(p) - np.outer(p, p), np.outer(design, design)) / len(label_N)
        weight -= np.linalg.solve(curvature, slope.ravel()).reshape(weight.shape)
    return float(value)
