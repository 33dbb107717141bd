"""MC: saliency by absorption in a Markov chain.

Jiang, Zhang, Lu, Yang, Yang, "Saliency Detection via Absorbing Markov Chain", ICCV 2013. A random walk over the
superpixels moves between like colours and ends in copies of the border superpixels; what takes long to be absorbed is
unlike the border and is salient.

Symbols (paper -> here), N superpixels: w_ij -> `affinity` (N, N); (I - Q)^-1 c -> `absorbed_time` (N,); pi ->
degrees, `affinity.sum(axis=1)`; g (Eq. 9) -> `centredness`.
Constants and steps that the paper leaves open are those of the authors' published code.
"""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from skimage.color import rgb2lab

from backdrop.saliency.classical._bounded_size import at_bounded_size
from backdrop.saliency.classical._superpixels import (
    adjacency,
    mean_per_superpixel,
    normalise,
    pairwise_distance,
    slic_labels,
    touches_border,
    two_ring,
)

ALGORITHM_VERSION = 1  # raised by every change that can change a map
THRESHOLD = 0.3  # where maps are cut, see saliency/DETECTORS.md

NUM_SUPERPIXELS = 250
COMPACTNESS = 20.0
FLAT_LAB = 1e-3  # no two linked superpixels differ by more: nothing stands out
AFFINITY_FALLOFF = 10.0
LEAST_AFFINITY = 1e-5
ISOLATED_DEGREE = 1.1
FRAME_AFFINITY = 13.0
NUM_BINS = 10
CENTRED_HISTOGRAM = 2.0
OUTLIER_SALIENCY = 0.3


def saliency(image_HWC: np.ndarray) -> np.ndarray:
    """Soft foreground map of an image.

    Args:
        image_HWC: uint8 RGB, any size from 1 x 1.

    Returns:
        saliency_HW: float32 in [0, 1]; all 0 where nothing stands out (a flat image, a single superpixel).

    Source: Jiang et al. 2013, sections 3 to 5.
    """
    return at_bounded_size(_saliency_at_size, image_HWC)


def _saliency_at_size(image_HWC: np.ndarray) -> np.ndarray:
    lab_HWC = rgb2lab((image_HWC / np.float32(255)).astype(np.float32))
    labels_HW = slic_labels(image_HWC, NUM_SUPERPIXELS, COMPACTNESS)
    return superpixel_saliency(mean_per_superpixel(lab_HWC, labels_HW), labels_HW)[labels_HW]


def superpixel_saliency(colour: np.ndarray, labels_HW: np.ndarray) -> np.ndarray:
    """Saliency of each superpixel, float64 (N,) in [0, 1].

    Args:
        colour: float64 (N, 3), mean Lab.
        labels_HW: int32, 0..N-1.
    """
    touches = adjacency(labels_HW, diagonal=True)
    colour_distance = pairwise_distance(colour)
    linked = two_ring(touches | opposite_borders(labels_HW))
    if not linked.any() or colour_distance[linked].max() < FLAT_LAB:
        return np.zeros(len(colour))
    affinity = colour_affinity(colour_distance, linked)
    is_isolated = affinity.sum(axis=1) < ISOLATED_DEGREE
    is_border, is_frame = border_without_frame(affinity, touches, touches_border(labels_HW, 1))
    return chain_saliency(affinity, touches, is_border, is_frame, is_isolated)


def opposite_borders(labels_HW: np.ndarray) -> np.ndarray:
    """Which superpixels face each other across the image, in the same row or column of pixels: bool (N, N), symmetric.

    Args:
        labels_HW: int32, 0..N-1.
    """
    num = int(labels_HW.max()) + 1
    faces = np.zeros((num, num), bool)
    faces[labels_HW[0], labels_HW[-1]] = True
    faces[labels_HW[:, 0], labels_HW[:, -1]] = True
    faces |= faces.T
    np.fill_diagonal(faces, False)
    return faces


def colour_affinity(colour_distance: np.ndarray, linked: np.ndarray) -> np.ndarray:
    """Edge weights of Eq. 5, exp(-10 d) with d stretched to [0, 1] over the edges; 1 on the diagonal, 0 off the graph.

    Args:
        colour_distance: float64 (N, N).
        linked: bool (N, N), symmetric, False on the diagonal.

    Returns:
        float64 (N, N).
    """
    affinity = np.eye(len(linked))
    affinity[linked] = np.exp(-AFFINITY_FALLOFF * normalise(colour_distance[linked])) + LEAST_AFFINITY
    return affinity


def border_without_frame(
    affinity: np.ndarray, touches: np.ndarray, is_border: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Step over an artificial frame: border superpixels that are hardly like what they enclose (authors' code).

    Args:
        affinity: float64 (N, N).
        touches: bool (N, N), 1-ring.
        is_border: bool (N,), touches the image border.

    Returns:
        is_border, is_frame: bool (N,). With a frame, the border is what lies next to it.
    """
    inward = touches & is_border[:, None] & ~is_border[None, :]
    if affinity[inward].sum() > FRAME_AFFINITY or not inward.any():
        return is_border, np.zeros_like(is_border)
    return inward.any(axis=0), is_border


def chain_saliency(
    affinity: np.ndarray, touches: np.ndarray, is_border: np.ndarray, is_frame: np.ndarray, is_isolated: np.ndarray
) -> np.ndarray:
    """Saliency from the absorbed time, once more with the equilibrium weights where the first result is undecided.

    Args:
        affinity: float64 (N, N).
        touches: bool (N, N), 1-ring.
        is_border: bool (N,), where absorbing copies are.
        is_frame: bool (N,), left out, saliency 0.
        is_isolated: bool (N,), left out of the chain, salient beside what is.

    Returns:
        float64 (N,) in [0, 1].
    """
    result = np.zeros(len(affinity))
    in_chain = ~is_frame & ~is_isolated
    is_absorbed = reaches(affinity, is_border & in_chain, in_chain)
    if not is_absorbed.any():
        return result
    kept = np.flatnonzero(is_absorbed)
    absorbs = is_border[kept]
    # What isolated superpixels cut off from the border is never absorbed: salient beyond all measure.
    result[in_chain & ~is_absorbed] = 1.0
    affinity = affinity[np.ix_(kept, kept)]
    result[kept] = normalise(absorbed_time(affinity, absorbs, np.ones(len(kept))))
    if centredness(result[kept]) >= CENTRED_HISTOGRAM:
        rarity = 1 / affinity.sum(axis=1)
        result[kept] = normalise(absorbed_time(affinity, absorbs, rarity / rarity.sum()))
    beside_salient = (touches & (result > OUTLIER_SALIENCY)[None, :]).any(axis=1)
    result[is_isolated & ~is_frame & beside_salient] = 1.0
    return result


def reaches(affinity: np.ndarray, is_target: np.ndarray, may_pass: np.ndarray) -> np.ndarray:
    """Which superpixels are linked, over those that may be passed, with a target: bool (N,).

    Args:
        affinity: float64 (N, N), 0 where there is no link.
        is_target: bool (N,).
        may_pass: bool (N,), False for what is not part of the graph.
    """
    linked = (affinity > 0) & may_pass[:, None] & may_pass[None, :]
    _, part = connected_components(csr_array(linked), directed=False)
    return may_pass & np.isin(part, part[is_target])


def absorbed_time(affinity: np.ndarray, absorbs: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted number of steps before absorption, from each superpixel (Eq. 3 and 8).

    Every border superpixel has an absorbing copy with the same affinities; all superpixels themselves are transient.

    Args:
        affinity: float64 (N, N), symmetric, 1 on the diagonal.
        absorbs: bool (N,), True somewhere.
        weight: float64 (N,), what a visit to a superpixel counts.

    Returns:
        float64 (N,).
    """
    total = affinity.sum(axis=1) + affinity[:, absorbs].sum(axis=1)
    # (I - W / total) y = weight, each row times its total: symmetric and well scaled
    return np.linalg.solve(np.diag(total) - affinity, total * weight)


def centredness(saliency_N: np.ndarray) -> float:
    """How far the values lie from both ends, 1 (all at an end) to NUM_BINS / 2 (Eq. 9).

    Args:
        saliency_N: float64 (N,) in [0, 1].
    """
    share = np.histogram(saliency_N, bins=NUM_BINS, range=(0, 1))[0] / len(saliency_N)
    bins = np.arange(1, NUM_BINS + 1)
    return float(share @ np.minimum(bins, NUM_BINS + 1 - bins))
