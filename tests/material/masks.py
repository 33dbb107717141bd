"""The loader's kernel that cuts masks, called with arrays."""

import numpy as np

from backdrop.pipeline.beton.scene import encode_runs
from backdrop.pipeline.loader import _mask_kernels as kernels


def crop(mask_HW: np.ndarray, box: tuple[int, ...], side: int, is_flipped: bool) -> np.ndarray:
    """Cut a box (top, left, height, width) out of a mask, uint8 {0, 1}; returns uint8 (side, ceil(side / 8)), bits."""
    height, width = mask_HW.shape
    memory = kernels.make_mask_memory(height, width, side)
    mask = kernels.edges_of(encode_runs(np.packbits(mask_HW, axis=1), width), height, width, memory.first)
    out = np.full((side, (side + 7) // 8), 7, np.uint8)
    kernels.crop_mask(mask, kernels.Window(*box, is_flipped), out, memory)
    return out
