"""Grids of patches with an object put into them."""

import numpy as np


def planted(size: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    """Return a mask, bool (h, w), that is set in a box of top, left, height and width."""
    mask_hw = np.zeros(size, bool)
    mask_hw[box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = True
    return mask_hw
