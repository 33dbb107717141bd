"""LOST: the object is what is like the patch that is like the fewest others. No training.

Simeoni et al. 2021, "Localizing Objects with Self-Supervised Transformers and no Labels", section 3. Shapes: h w rows
and columns of patches, N = h * w, D width.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import label

from backdrop.saliency.features.regions import has_corners_of_background, largest_region

# Of the patches with the fewest similar ones, how many may take part (k of the paper).
NUM_LOWEST = 100


@dataclass(frozen=True, kw_only=True)
class Lost:
    """The object of one image.

    degree_N: of each patch, how many others have a positive product with it. seed: the first of those with the fewest.
    similar_N: bool, the patches that speak for the object. positive_hw: bool, what they are like in sum. component_hw:
    bool, the object. is_flipped: whether the corner rule took the other side.
    """

    degree_N: np.ndarray
    seed: int
    similar_N: np.ndarray
    positive_hw: np.ndarray
    component_hw: np.ndarray
    is_flipped: bool


def lost(
    keys_ND: np.ndarray, size: tuple[int, int], *, num_lowest: int = NUM_LOWEST, has_corner_rule: bool = True
) -> Lost | None:
    """Find the object of an image.

    Args:
        keys_ND: float, not normalised.
        size: rows and columns of patches.
        num_lowest: of the patches with the fewest similar ones; of equals the first, which the paper leaves open.
        has_corner_rule: whether a side with three or more of the four corners is the background, which the paper does
            not say: its object is what is rarer. The largest region of the other side is taken then.

    Returns: None where nothing can be told apart: every patch is like every other, or none like any.
    """
    product_NN = keys_ND @ keys_ND.T
    is_like_NN = product_NN > 0
    np.fill_diagonal(is_like_NN, val=False)
    degree_N = is_like_NN.sum(axis=1)
    if degree_N.min() == len(keys_ND) - 1 or not degree_N.any():
        return None
    by_degree_N = np.argsort(degree_N, kind="stable")
    seed = int(by_degree_N[0])
    similar_N = np.zeros(len(keys_ND), bool)
    similar_N[by_degree_N[:num_lowest]] = True
    similar_N &= product_NN[seed] > 0
    positive_hw = (product_NN[similar_N].sum(axis=0) > 0).reshape(size)
    is_flipped = has_corner_rule and has_corners_of_background(positive_hw)
    labels_hw, _ = label(positive_hw)
    component_hw = largest_region(~positive_hw) if is_flipped else (labels_hw == labels_hw.flat[seed]) & positive_hw
    return Lost(
        degree_N=degree_N,
        seed=seed,
        similar_N=similar_N,
        positive_hw=positive_hw,
        component_hw=component_hw,
        is_flipped=is_flipped,
    )
