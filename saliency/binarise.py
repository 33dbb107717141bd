"""A soft map to a mask."""

import numpy as np

from backdrop.errors import UserError
from backdrop.stores.format.schema import Status


def quantise(saliency_HW: np.ndarray) -> np.ndarray:
    """A soft map, float (H, W) in [0, 1], as a store keeps it: uint8 (H, W), 255 = foreground, rounded to nearest."""
    return np.rint(np.clip(saliency_HW, 0, 1) * 255).astype(np.uint8)


def dequantise(soft_HW: np.ndarray) -> np.ndarray:
    """The soft map, float32 (H, W) in [0, 1], that an 8-bit one (uint8 (H, W), 255 = foreground) stands for."""
    return soft_HW.astype(np.float32) / 255


def binarise(saliency_HW: np.ndarray, threshold: float) -> tuple[np.ndarray, Status]:
    """Cut a soft map at a threshold and say whether the mask is usable.

    Args:
        saliency_HW: float, [0, 1].
        threshold: a pixel is foreground when its saliency is greater, [0, 1).

    Returns:
        mask_HW: uint8, 1 = foreground.
        status: OK, NO_FOREGROUND or ALL_FOREGROUND.

    Raises:
        UserError: the threshold is outside [0, 1).
    """
    if not 0 <= threshold < 1:
        raise UserError(f"threshold {threshold} is outside [0, 1): choose one of at least 0 and below 1, such as 0.9")
    mask_HW = (saliency_HW > threshold).astype(np.uint8)
    if not mask_HW.any():
        return mask_HW, Status.NO_FOREGROUND
    if mask_HW.all():
        return mask_HW, Status.ALL_FOREGROUND
    return mask_HW, Status.OK
