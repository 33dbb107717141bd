"""The soft F-measure loss of DeepUSPS and the clamp that makes noisy targets forgiving; ours, of soft labels.

Shapes: B images, H rows, W columns. Predictions p and soft targets t are probabilities of foreground.
Source: Nguyen et al., "DeepUSPS: Deep Robust Unsupervised Saliency Prediction With Self-Supervision", NeurIPS 2019,
section 3; where the paper is silent, the authors' published code.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

EPSILON = 1e-5


def asymmetric_clamp(prediction_BHW: Tensor, target_BHW: Tensor, threshold: float) -> Tensor:
    """Make it free to be more certain than the soft target on the target's own side of the threshold.

    Where t > threshold and p > t, p becomes 1; where t < threshold and p < t, p becomes 0. Those pixels pass no
    gradient; all others are unchanged.

    Args:
        prediction_BHW: float, [0, 1].
        target_BHW: float, [0, 1], the continuous pseudo-label.
        threshold: what parts foreground from background in the target.

    Returns:
        float (B, H, W) in [0, 1].
    """
    is_sure_foreground = (target_BHW > threshold) & (prediction_BHW > target_BHW)
    is_sure_background = (target_BHW < threshold) & (prediction_BHW < target_BHW)
    clamped_BHW = torch.where(is_sure_foreground, torch.ones_like(prediction_BHW), prediction_BHW)
    return torch.where(is_sure_background, torch.zeros_like(prediction_BHW), clamped_BHW)


def f_loss(prediction_BHW: Tensor, target_BHW: Tensor, threshold: float, beta_squared: float) -> Tensor:
    """1 - F_beta of the clamped prediction against the binarised target, mean over images.

    Args:
        prediction_BHW: float, [0, 1].
        target_BHW: float, [0, 1]; binarised here as t > threshold.
        threshold: of the target.
        beta_squared: weight of recall against precision; the authors' code has 1 in stage 1 and 4 in stage 2.

    Returns:
        scalar.
    """
    clamped_BHW = asymmetric_clamp(prediction_BHW, target_BHW, threshold)
    label_BHW = (target_BHW > threshold).to(clamped_BHW.dtype)
    true_positive_B = (clamped_BHW * label_BHW).sum(dim=(1, 2))
    false_positive_B = (clamped_BHW * (1 - label_BHW)).sum(dim=(1, 2))
    false_negative_B = ((1 - clamped_BHW) * label_BHW).sum(dim=(1, 2))
    precision_B = true_positive_B / (true_positive_B + false_positive_B + EPSILON)
    recall_B = true_positive_B / (true_positive_B + false_negative_B + EPSILON)
    f_B = (1 + beta_squared) * precision_B * recall_B / (beta_squared * precision_B + recall_B + EPSILON)
    return (1 - f_B).mean()


def mean_f_loss(
    prediction_BHW: Tensor, targets_MBHW: Sequence[Tensor], thresholds_M: Sequence[float], beta_squared: float
) -> Tensor:
    """Mean of the F-losses against several targets: the inter-method consistency of stage 2.

    Args:
        prediction_BHW: float, [0, 1].
        targets_MBHW: M soft targets, each float (B, H, W).
        thresholds_M: one threshold per target.
        beta_squared: as in `f_loss`.

    Returns:
        scalar.
    """
    losses = [
        f_loss(prediction_BHW, target_BHW, threshold, beta_squared)
        for target_BHW, threshold in zip(targets_MBHW, thresholds_M, strict=True)
    ]
    return torch.stack(losses).mean()


def soft_label(target_BHW: Tensor, threshold: float, softness: float) -> Tensor:
    """A label that is unsure near the threshold: logistic((t - threshold) / softness), float (B, H, W) in [0, 1].

    Ours: a cut label is as sure of what is barely above the threshold as of what all detectors agree on.

    Args:
        target_BHW: float, [0, 1].
        threshold: of the target.
        softness: in units of the target, above 0.
    """
    return ((target_BHW - threshold) / softness).sigmoid()


def soft_label_loss(prediction_BHW: Tensor, label_BHW: Tensor) -> Tensor:
    """Cross-entropy, mean over pixels, and 1 - IoU, mean over images, with a soft label.

    Two of the three losses of Qin et al., "BASNet", CVPR 2019, section 3.4.

    Args:
        prediction_BHW: float, [0, 1].
        label_BHW: float, [0, 1].

    Returns:
        scalar.
    """
    shared_B = (prediction_BHW * label_BHW).sum(dim=(1, 2))
    either_B = (prediction_BHW + label_BHW).sum(dim=(1, 2)) - shared_B
    # One more pixel in both: an image without any foreground has an IoU, too.
    iou_B = (shared_B + 1) / (either_B + 1)
    return functional.binary_cross_entropy(prediction_BHW, label_BHW) + (1 - iou_B).mean()
