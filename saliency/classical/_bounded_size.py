"""Run a detector at a bounded size: what bounds the cost of one very large photograph."""

from collections.abc import Callable

import cv2
import numpy as np

MAX_SIDE_PX = 500


def at_bounded_size(detect: Callable[[np.ndarray], np.ndarray], image_HWC: np.ndarray) -> np.ndarray:
    """Detect on the image shrunk to at most `MAX_SIDE_PX` and bring the map back bilinearly.

    The papers detect at native size on images of 300 to 500 px; above that the number of superpixels, and with it the
    cost, would grow without bound. This is our departure; images up to 500 px are untouched by it.

    Args:
        detect: image_HWC uint8 -> map_HW real, any range inside [0, 1].
        image_HWC: uint8 RGB, at least 1 x 1.

    Returns:
        saliency_HW: float32 in [0, 1], the size of `image_HWC`.
    """
    height, width = image_HWC.shape[:2]
    scale = MAX_SIDE_PX / max(height, width)
    if scale >= 1:
        return np.clip(detect(np.ascontiguousarray(image_HWC)), 0, 1).astype(np.float32)
    small_size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small_HWC = cv2.resize(image_HWC, small_size, interpolation=cv2.INTER_AREA)
    small_HW = detect(small_HWC).astype(np.float32)
    return np.clip(cv2.resize(small_HW, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)
