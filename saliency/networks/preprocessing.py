"""An image as the trained detector sees it, the same in training and in use."""

import cv2
import numpy as np


def resize_to_square(image_HWC: np.ndarray, side_px: int) -> np.ndarray:
    """Resize to a square, bicubic, the aspect ratio not kept (as DeepUSPS does): uint8 (side_px, side_px, 3).

    Args:
        image_HWC: uint8 RGB.
        side_px: of the square.
    """
    return cv2.resize(image_HWC, (side_px, side_px), interpolation=cv2.INTER_CUBIC)
