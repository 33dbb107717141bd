"""The F-loss of DeepUSPS and its clamp, and the loss of soft labels, pixel by pixel in float64."""

import math

import numpy as np

EPSILON = 1e-5


def clamped(prediction: float, target: float, threshold: float) -> float:
    """One pixel of the asymmetric clamp."""
    if target > threshold and prediction > target:
        return 1.0
    if target < threshold and prediction < target:
        return 0.0
    return prediction


def f_loss(prediction_BHW: np.ndarray, target_BHW: np.ndarray, threshold: float, beta_squared: float) -> float:
    """1 - F_beta, mean over images."""
    losses = []
    for prediction_HW, target_HW in zip(prediction_BHW, target_BHW, strict=True):
        true_positive = false_positive = false_negative = 0.0
        for prediction, target in zip(prediction_HW.ravel().tolist(), target_HW.ravel().tolist(), strict=True):
            p = clamped(prediction, target, threshold)
            if target > threshold:
                true_positive += p
                false_negative += 1 - p
            else:
                false_positive += p
        precision = true_positive / (true_positive + false_positive + EPSILON)
        recall = true_positive / (true_positive + false_negative + EPSILON)
        f = (1 + beta_squared) * precision * recall / (beta_squared * precision + recall + EPSILON)
        losses.append(1 - f)
    return sum(losses) / len(losses)


def soft_label(target: float, threshold: float, softness: float) -> float:
    """One pixel."""
    return 1 / (1 + math.exp(-(target - threshold) / softness))


def soft_label_loss(prediction_BHW: np.ndarray, label_BHW: np.ndarray) -> float:
    """Cross-entropy, mean over all pixels, and 1 - IoU, mean over images."""
    entropies, losses = [], []
    for prediction_HW, label_HW in zip(prediction_BHW, label_BHW, strict=True):
        shared = either = 1.0
        for p, label in zip(prediction_HW.ravel().tolist(), label_HW.ravel().tolist(), strict=True):
            entropies.append(-label * math.log(p) - (1 - label) * math.log(1 - p))
            shared += p * label
            either += p + label - p * label
        losses.append(1 - shared / either)
    return sum(entropies) / len(entropies) + sum(losses) / len(losses)
