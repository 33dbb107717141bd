"""MaskCut: TokenCut again and again, each time without the patches of the objects found before. No training.

Wang et al. 2023, "Cut and Learn for Unsupervised Object Detection and Instance Segmentation" (CutLER), section 3.1.
Shapes: K objects, h w rows and columns of patches, N = h * w, D width.
"""

import numpy as np

from backdrop.saliency.features.regions import intersection_over_union
from backdrop.saliency.features.token_cut import token_cut

NUM_OBJECTS = 3
# Of CutLER's own run; TokenCut's is .2.
TAU = 0.15
# A later object that shares more with the one before, or has no more of the image, is none.
MAX_IOU = 0.5
MIN_SHARE = 0.01


def mask_cut(
    keys_ND: np.ndarray, size: tuple[int, int], *, tau: float = TAU, num_objects: int = NUM_OBJECTS
) -> np.ndarray:
    """Find the objects of an image, the one that stands out most first.

    Args:
        keys_ND: float, not normalised.
        size: rows and columns of patches.
        tau: cosine above which two patches are alike.
        num_objects: at most.

    Returns: bool (K, h, w), none of which overlap; K = 0 where nothing can be told apart.
    """
    masks: list[np.ndarray] = []
    left_ND, before_hw, taken_hw = keys_ND.copy(), np.zeros(size, bool), np.zeros(size, bool)
    for _ in range(num_objects):
        cut = token_cut(left_ND, size, tau=tau)
        if cut is None:
            break
        # What was found is like nothing any more. As published, also where it is not kept as an object.
        left_ND[cut.component_hw.ravel()] = 0
        is_object = not masks or (
            intersection_over_union(cut.component_hw, before_hw) <= MAX_IOU and cut.component_hw.mean() > MIN_SHARE
        )
        if is_object:
            masks.append(cut.component_hw & ~taken_hw)
            taken_hw |= cut.component_hw
            before_hw = cut.component_hw
    return np.stack(masks) if masks else np.zeros((0, *size), bool)
