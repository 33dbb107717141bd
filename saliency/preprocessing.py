"""An image as the trained detector sees it, the same in training and in use."""

import cv2
import numpy as np

IMAGENET_MEAN_RGB = (0.485, 0.456, 0.406)
IMAGENET_STD_RGB = (0.229, 0.224, 0.225)


def squash(image_HWC: np.ndarray, side_px: int) -> np.ndarray:
    """Resize to a square, bicubic, the aspect ratio not kept (as DeepUSPS does): uint8 (side_px, side_px, 3).

    Args:
        image_HWC: uint8 RGB.
        side_px: of the square.
    """
    return cv2.resize(image_HWC, (side_px, side_px), interpolation=cv2.INTER_CUBIC)


def normalise_images(images_BHWC: np.ndarray, mean_RGB: tuple[float, ...], std_RGB: tuple[float, ...]) -> np.ndarray:
    """Scale to [0, 1], subtract the mean, divide by the deviation, channels first: float32 (B, 3, H, W).

    Args:
        images_BHWC: uint8 RGB.
        mean_RGB: of the channels, [0, 1].
        std_RGB: of the channels.
    """
    mean, std = np.array(mean_RGB, np.float32), np.array(std_RGB, np.float32)
    normalised_BHWC = (images_BHWC.astype(np.float32) / 255 - mean) / std
    return np.ascontiguousarray(normalised_BHWC.transpose(0, 3, 1, 2))
