"""The F-loss of DeepUSPS and its clamp, pixel by pixel in float64."""

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
