"""The targets of FOUND's head: masks of patches drawn to the image's edges and back. Runs in workers; no torch.

Shapes: S side of the image in pixels, s in patches.
"""

import numpy as np

from backdrop.saliency.features.bilateral_solver import BilateralSolver
from backdrop.saliency.features.regions import enlarged, published_regions, refined_or_rough


def refined_targets(image_SSC: np.ndarray, masks_ss: list[np.ndarray]) -> list[np.ndarray]:
    """Refine several masks of one image.

    A patch of the result is foreground where any of the four pixels in its middle is: a slight dilation, as bilinear
    shrinking and "not zero" give in the published code.

    Args: image_SSC: uint8 RGB. masks_ss: bool.
    Returns: bool (s, s), one each.
    """
    solver = BilateralSolver(image_SSC)
    return [_refined(solver, mask_ss, image_SSC.shape[0]) for mask_ss in masks_ss]


def _refined(solver: BilateralSolver, mask_ss: np.ndarray, side_px: int) -> np.ndarray:
    rough_SS = enlarged(mask_ss, (side_px, side_px))
    _, refined_SS = published_regions(solver.solve(rough_SS))
    target_SS = refined_or_rough(refined_SS, rough_SS > 0.5)
    side = len(mask_ss)
    patch_px = side_px // side
    middle = slice(patch_px // 2 - 1, patch_px // 2 + 1)
    middle_s2s2: np.ndarray = target_SS.reshape(side, patch_px, side, patch_px)[:, middle, :, middle]
    return np.asarray(middle_s2s2.any(axis=(1, 3)))
