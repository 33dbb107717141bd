"""HS: hierarchical saliency.

Yan, Xu, Shi, Jia, "Hierarchical Saliency Detection", CVPR 2013. Small high-contrast patterns mislead contrast; so an
image is cut into regions at three scales, each layer is judged on its own, and the tree of regions decides together.

Symbols (paper -> here), N regions of a layer: R_i -> a label; w(R_i) -> `size` (N,), pixels; c_i -> `colour` (N, 3),
mean CIELUV; C_i -> `local_contrast`; H_i -> `location_heuristic`; s-bar_i -> `cues`; beta_l -> `LAYER_CONFIDENCE`;
lambda_l -> `LAYER_CONSISTENCY`; lambda of H_i -> `CENTRE_WEIGHT`; layers from fine to coarse.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from skimage.segmentation import watershed

from backdrop.saliency.classical import _hs_kernels
from backdrop.saliency.classical._bounded_size import at_bounded_size
from backdrop.saliency.classical._superpixels import mean_per_superpixel, mean_position, normalise

ALGORITHM_VERSION = 1  # raised by every change that can change a map
THRESHOLD = 0.3  # where maps are cut, see saliency/DETECTORS.md

# Paper: 3, 17, 33 px at 400 x 300. Ours: 7 in the finest layer, chosen on all of ecssd-dev out of 3, 5 and 7:
# correlation with the authors' maps .737, .756, .766. A likely cause: our over-segmentation keeps more slivers.
# Other sizes take these times the root of the ratio of longest sides: objects shrink with a picture, noise does not.
# Half of ecssd-dev at 200 px, root, ratio, unscaled: correlation .752, .749, .738; max-F .691, .684, .685; MAE .229,
# .224, .236. With the ratio, noise cuts plain objects apart in pictures below 200 px.
MIN_SCALES_PX = (7, 17, 33)
REFERENCE_SIDE_PX = 400
# The paper leaves the gradient open. Slopes below this (CIELUV units per pixel) are noise or shading and start no
# region, as the large plain regions in the authors' maps suggest; 2 out of 0 to 6, chosen on ecssd-dev likewise.
FLAT_GRADIENT = 2.0
SOBEL_GAIN = 8.0
SIGMA_SQUARED = 0.2
CENTRE_WEIGHT = 9.0
LAYER_CONFIDENCE = (0.5, 4.0, 2.0)
LAYER_CONSISTENCY = (4.0, 4.0)


def saliency(image_HWC: np.ndarray) -> np.ndarray:
    """Soft foreground map of an image.

    Args:
        image_HWC: uint8 RGB, any size from 1 x 1.

    Returns:
        saliency_HW: float32 in [0, 1]; all 0 where nothing stands out (a flat image, a single region).

    Source: Yan et al. 2013, section 3.
    """
    return at_bounded_size(_saliency_at_size, image_HWC)


def _saliency_at_size(image_HWC: np.ndarray) -> np.ndarray:
    luv_HWC = cv2.cvtColor(image_HWC.astype(np.float32) / 255, cv2.COLOR_RGB2LUV)
    size_factor = math.sqrt(max(image_HWC.shape[:2]) / REFERENCE_SIDE_PX)
    labels_HW = over_segmentation(luv_HWC)
    layers, parents = [], []
    for min_scale_px in MIN_SCALES_PX:
        parent = merge_small_regions(labels_HW, luv_HWC, round(min_scale_px * size_factor))
        labels_HW = parent[labels_HW]
        layers.append(labels_HW)
        parents.append(parent)
    cues = [layer_cue(layer_HW, luv_HWC) for layer_HW in layers]
    return normalise(infer_tree(cues, parents[1:]))[layers[0]]


def over_segmentation(luv_HWC: np.ndarray) -> np.ndarray:
    """Cut an image into the basins of its colour gradient, one per local minimum or plain.

    Args:
        luv_HWC: float32 CIELUV.

    Returns:
        labels_HW: int32, 0..N-1 without gaps, each region connected along sides.

    Source: Yan et al. 2013, section 3.1 (watershed; Sobel gradient over the three channels is our choice).
    """
    energy_HW = np.zeros(luv_HWC.shape[:2], np.float32)
    for channel_HW in cv2.split(luv_HWC):
        for x_order in (0, 1):
            slope_HW = cv2.Sobel(channel_HW, cv2.CV_32F, x_order, 1 - x_order, borderType=cv2.BORDER_REPLICATE)
            energy_HW += slope_HW**2
    gradient_HW = np.maximum(np.sqrt(energy_HW) / SOBEL_GAIN, FLAT_GRADIENT)
    labels_HW = watershed(gradient_HW).astype(np.int32)
    # basins count from 1; an image without any slope has none and is 0 everywhere
    return labels_HW - labels_HW.min()


def region_scale(labels_HW: np.ndarray) -> np.ndarray:
    """Scale of each region: the side of the largest square that fits inside, int32 (N,), in pixels.

    Args:
        labels_HW: int32, 0..N-1.

    Source: Yan et al. 2013, section 3.2, definition of scale; computed exactly in one pass instead of by box filters.
    """
    return _hs_kernels.region_scale(labels_HW, int(labels_HW.max()) + 1)


def merge_small_regions(labels_HW: np.ndarray, luv_HWC: np.ndarray, min_scale_px: int) -> np.ndarray:
    """Merge every region of too small a scale into the touching region of the nearest mean colour, smallest first.

    Mean colour, size and scale of the union replace those of its parts at once; the visits keep the order of the first
    scales (among equals: fewest pixels, then lowest label). What remains holds the scale asked for, or is one region.

    Args:
        labels_HW: int32, 0..N-1.
        luv_HWC: float32 CIELUV.
        min_scale_px: side of the square that every remaining region must hold.

    Returns:
        parent: int32 (N,), for each region the merged one it belongs to, 0..M-1 without gaps.

    Source: Yan et al. 2013, section 3.1.
    """
    size = np.bincount(labels_HW.ravel())
    scale = region_scale(labels_HW)
    order = np.lexsort((size, scale))
    colour = mean_per_superpixel(luv_HWC, labels_HW)
    root = _hs_kernels.merge(
        labels_HW, region_edges(labels_HW), order, scale, size.astype(np.float64), colour, min_scale_px
    )
    return np.unique(root, return_inverse=True)[1].astype(np.int32)


def region_edges(labels_HW: np.ndarray) -> np.ndarray:
    """Pairs of regions that touch along a side, both directions, with repeats: int32 (E, 2).

    Args:
        labels_HW: int32, 0..N-1.
    """
    pairs = []
    for first_HW, second_HW in ((labels_HW[:, :-1], labels_HW[:, 1:]), (labels_HW[:-1], labels_HW[1:])):
        differs_HW = first_HW != second_HW
        first, second = first_HW[differs_HW], second_HW[differs_HW]
        pairs += [np.stack([first, second], axis=1), np.stack([second, first], axis=1)]
    return np.concatenate(pairs)


def layer_cue(labels_HW: np.ndarray, luv_HWC: np.ndarray) -> np.ndarray:
    """Initial saliency of the regions of one layer: contrast times location (Eq. 3), float64 (N,) in [0, 1].

    Args:
        labels_HW: int32, 0..N-1.
        luv_HWC: float32 CIELUV.
    """
    size = np.bincount(labels_HW.ravel()).astype(np.float64)
    contrast = local_contrast(mean_per_superpixel(luv_HWC, labels_HW), mean_position(labels_HW), size)
    # Each layer is stretched, so that the layers' confidences compare like with like.
    return normalise(normalise(contrast) * location_heuristic(labels_HW))


def local_contrast(colour: np.ndarray, position: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Colour difference to all other regions, weighted by their size and nearness (Eq. 1), float64 (N,), >= 0.

    Args:
        colour: float64 (N, 3), CIELUV.
        position: float64 (N, 2), sides of the image being 1.
        size: float64 (N,), pixels.
    """
    return _hs_kernels.contrast(colour, position, size, SIGMA_SQUARED)


def location_heuristic(labels_HW: np.ndarray) -> np.ndarray:
    """How near the image centre the pixels of a region are on average (Eq. 2), float64 (N,) in (0, 1].

    Args:
        labels_HW: int32, 0..N-1.
    """
    height, width = labels_HW.shape
    row_weight = np.exp(-CENTRE_WEIGHT * ((np.arange(height) + 0.5) / height - 0.5) ** 2)
    column_weight = np.exp(-CENTRE_WEIGHT * ((np.arange(width) + 0.5) / width - 0.5) ** 2)
    return mean_per_superpixel(np.outer(row_weight, column_weight)[..., None], labels_HW)[:, 0]


def infer_tree(cues: Sequence[np.ndarray], parents: Sequence[np.ndarray]) -> np.ndarray:
    """Saliency of the finest layer that minimises the energy over the whole tree of regions (Eq. 4 to 6).

    The energy sum_l beta_l sum_i (s_i - cue_i)^2 + sum_l lambda_l sum_i (s_i - s_parent(i))^2 is quadratic and its
    graph is a tree: eliminating the layers upwards and substituting back downwards (the paper's belief propagation)
    solves its linear system exactly, in one visit per region each way.

    Args:
        cues: three float64 (N_l,), finest layer first, in [0, 1].
        parents: two int arrays (N_l,), the region of the next layer that each region lies in.

    Returns:
        float64 (N_1,), between the least and the greatest cue.
    """
    weights = [np.full(len(cues[0]), LAYER_CONFIDENCE[0])]
    centres = [cues[0]]
    for confidence, consistency, cue, parent in zip(
        LAYER_CONFIDENCE[1:], LAYER_CONSISTENCY, cues[1:], parents, strict=True
    ):
        # a region and its subtree pull at the parent like springs in series
        pull = weights[-1] * consistency / (weights[-1] + consistency)
        weight = confidence + np.bincount(parent, pull, minlength=len(cue))
        centres.append((confidence * cue + np.bincount(parent, pull * centres[-1], minlength=len(cue))) / weight)
        weights.append(weight)
    solution = centres.pop()
    for weight, centre, consistency, parent in reversed(
        list(zip(weights[:-1], centres, LAYER_CONSISTENCY, parents, strict=True))
    ):
        solution = (weight * centre + consistency * solution[parent]) / (weight + consistency)
    return solution
