"""A rough mask of patches drawn to the edges of its image by the bilateral solver, as a mask and not as a soft map.

The solver's own map is soft and hardly ever near 1: cut at a high threshold nothing would be left of it. H rows, W
columns.
"""

import math

import cv2
import numpy as np
from scipy.ndimage import binary_fill_holes

from backdrop.saliency.features.bilateral_solver import BilateralSolver
from backdrop.saliency.features.regions import enlarged, largest_region, refined_or_rough

# Ours: larger images are solved at a smaller size, for five numbers a pixel.
MAX_PIXELS = 2**20


def refined_by_solver(image_HWC: np.ndarray, rough_HW: np.ndarray, *, is_single: bool) -> np.ndarray:
    """Draw a mask to the edges; the rough one stays where nothing better comes out.

    Args:
        image_HWC: uint8 RGB.
        rough_HW: bool.
        is_single: keep the largest region alone. The published code would take the background of a large object.

    Returns: bool (H, W).
    """
    height, width = image_HWC.shape[:2]
    scale = math.sqrt(MAX_PIXELS / (height * width))
    small_HWC: np.ndarray = image_HWC
    target_HW: np.ndarray = rough_HW.astype(np.float32)
    if scale < 1:
        size = (max(1, int(width * scale)), max(1, int(height * scale)))
        small_HWC = cv2.resize(image_HWC, size, interpolation=cv2.INTER_AREA)
        target_HW = cv2.resize(rough_HW.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    soft_HW = BilateralSolver(small_HWC).solve(target_HW)
    refined_HW = binary_fill_holes(enlarged(soft_HW, (height, width)) > 0.5 if scale < 1 else soft_HW > 0.5)
    return refined_or_rough(largest_region(refined_HW) if is_single else refined_HW, rough_HW)
