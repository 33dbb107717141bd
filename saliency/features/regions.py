"""Masks of patches to masks of pixels, and connected regions, as TokenCut and FOUND choose among them, and as we do."""

import cv2
import numpy as np
from scipy.ndimage import binary_fill_holes

# A refined mask that shares less with the rough one has lost the object, and the rough one stays (TokenCut, FOUND).
MIN_IOU = 0.5


# Corners that make a side the background; of a large object rarely more than two are seen (CutLER).
NUM_CORNERS = 3


def has_corners_of_background(mask_hw: np.ndarray) -> bool:
    """Tell whether a side has so many of the four corners that it is the background. Args: mask_hw: bool."""
    return int(mask_hw[[0, 0, -1, -1], [0, -1, 0, -1]].sum()) >= NUM_CORNERS


def enlarged(grid_hw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarge a map of patches bilinearly to an image's size: float32 (H, W).

    Args: grid_hw: bool or float. size: H and W.
    """
    height, width = size
    return cv2.resize(grid_hw.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)


def published_regions(soft_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Choose regions as the published codes do: of the map above 0.5, holes filled, joined by sides of pixels.

    The background counts as one region: an object that covers more than half of the image is taken for it.
    Args: soft_HW: float, [0, 1].
    Returns: bool (H, W) each: the second largest region, everything where there is no second; all but the largest.
    """
    labels_HW, counts = _labelled(binary_fill_holes(soft_HW > 0.5))
    by_size = np.argsort(-counts, kind="stable")
    largest_HW = labels_HW == by_size[1] if np.count_nonzero(counts) > 1 else np.ones(soft_HW.shape, bool)
    return largest_HW, labels_HW != by_size[0]


def largest_region(mask_HW: np.ndarray) -> np.ndarray:
    """Keep the largest region of a mask, joined by sides of pixels; the background is none. Args: mask_HW: bool."""
    labels_HW, counts = _labelled(mask_HW)
    return (labels_HW == 1 + np.argmax(counts[1:])) if len(counts) > 1 else np.zeros(mask_HW.shape, bool)


def intersection_over_union(one_HW: np.ndarray, other_HW: np.ndarray) -> float:
    """Return what two masks share, in [0, 1]; 1 where both are empty. Args: bool, of one shape."""
    union = np.count_nonzero(one_HW | other_HW)
    return np.count_nonzero(one_HW & other_HW) / union if union else 1.0


def refined_or_rough(refined_HW: np.ndarray, rough_HW: np.ndarray) -> np.ndarray:
    """Return the refined mask, or the rough one where they share too little. Args: bool, of one shape."""
    return refined_HW if intersection_over_union(refined_HW, rough_HW) > MIN_IOU else rough_HW


def _labelled(mask_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the regions from 1, 0 = background; and their sizes, the background's first."""
    num, labels_HW = cv2.connectedComponents(mask_HW.astype(np.uint8), connectivity=4)
    return labels_HW, np.bincount(labels_HW.ravel(), minlength=num)
