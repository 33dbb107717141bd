"""RBD: saliency optimisation from robust background detection.

Zhu, Liang, Wei, Sun, "Saliency Optimization from Robust Background Detection", CVPR 2014. An image region is
background when it is heavily connected to the image border; that boundary connectivity weights a contrast measure, and
a least-squares problem over the superpixel graph makes the map clean.

Symbols (paper -> here), N superpixels: d_app -> `colour_distance` (N, N), Lab; d_geo -> `geodesic` (N, N);
BndCon -> `connectivity` (N,); w_bg -> `background` (N,); wCtr -> `contrast` (N,); sigma_clr -> `sigma_geodesic`.
Constants that the paper leaves open are those of the authors' published code.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from skimage.color import rgb2lab
from skimage.filters import threshold_otsu

from backdrop.saliency.classical._bounded_size import at_bounded_size
from backdrop.saliency.classical._superpixels import (
    adjacency,
    mean_per_superpixel,
    mean_position,
    normalise,
    pairwise_distance,
    slic_labels,
    touches_border,
    two_ring,
)

ALGORITHM_VERSION = 1  # raised by every change that can change a map
THRESHOLD = 0.2  # where maps are cut, see saliency/DETECTORS.md

PIXELS_PER_SUPERPIXEL = 600
COMPACTNESS = 20.0
BORDER_BAND_PX = 8
MAX_FRAME_PX = 30
FRAME_EDGE_DENSITY = 0.6
SIGMA_POSITION = 0.4
SIGMA_CONNECTIVITY = 1.0
CERTAIN_CONNECTIVITY = 3.0
CERTAIN_BACKGROUND_WEIGHT = 1000.0
BACKGROUND_FACTOR = 5.0
SMOOTHNESS_FLOOR = 0.1


def saliency(image_HWC: np.ndarray) -> np.ndarray:
    """Soft foreground map of an image.

    Args:
        image_HWC: uint8 RGB, any size from 1 x 1.

    Returns:
        saliency_HW: float32 in [0, 1]; all 0 where nothing stands out (a flat image, a single superpixel).

    Source: Zhu et al. 2014, sections 3 to 5.
    """
    return at_bounded_size(_saliency_at_size, image_HWC)


def _saliency_at_size(image_HWC: np.ndarray) -> np.ndarray:
    top, left, height, width = box_without_frame(image_HWC)
    inner_HWC = image_HWC[top : top + height, left : left + width]
    map_HW = np.zeros(image_HWC.shape[:2])
    labels_HW = slic_labels(inner_HWC, round(height * width / PIXELS_PER_SUPERPIXEL), COMPACTNESS)
    if labels_HW.max() > 0:
        map_HW[top : top + height, left : left + width] = superpixel_saliency(inner_HWC, labels_HW)[labels_HW]
    return map_HW


def box_without_frame(image_HWC: np.ndarray) -> tuple[int, int, int, int]:
    """Box (top, left, height, width) of the picture inside an artificial frame; the whole image when there is none.

    A frame shows as a row or column near the border that is almost all edge. Once one side has a frame, sides
    without one are given the widest frame found, as the authors' code does.

    Args:
        image_HWC: uint8 RGB.
    """
    height, width = image_HWC.shape[:2]
    whole = (0, 0, height, width)
    # Two bands must leave a picture between them; what is smaller has no frame.
    if min(height, width) < 4 * MAX_FRAME_PX:
        return whole
    is_edge_HW = _sobel_edges(image_HWC)
    bands = (is_edge_HW, is_edge_HW[::-1], is_edge_HW.T, is_edge_HW.T[::-1])
    widths = [_frame_width(band) for band in bands]
    if max(widths) == 0:
        return whole
    top, bottom, left, right = (found or max(widths) for found in widths)
    return top, left, height - top - bottom, width - left - right


def _sobel_edges(image_HWC: np.ndarray) -> np.ndarray:
    grey_HW = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY).astype(np.float32)
    energy_HW = cv2.Sobel(grey_HW, cv2.CV_32F, 1, 0) ** 2 + cv2.Sobel(grey_HW, cv2.CV_32F, 0, 1) ** 2
    # the usual automatic threshold of a Sobel detector: twice the root mean square of the gradient
    return energy_HW > 4 * energy_HW.mean()


def _frame_width(is_edge_from_border: np.ndarray) -> int:
    dense = is_edge_from_border[:MAX_FRAME_PX].mean(axis=1) > FRAME_EDGE_DENSITY
    return int(np.flatnonzero(dense)[-1]) + 1 if dense.any() else 0


def superpixel_saliency(image_HWC: np.ndarray, labels_HW: np.ndarray) -> np.ndarray:
    """Saliency of each superpixel, float64 (N,) in [0, 1].

    Args:
        image_HWC: uint8 RGB.
        labels_HW: int32, 0..N-1, N >= 2.
    """
    colour_distance = pairwise_distance(mean_lab(image_HWC, labels_HW))
    position_distance = pairwise_distance(mean_position(labels_HW))
    touches = adjacency(labels_HW)
    near = two_ring(touches)
    is_border = touches_border(labels_HW, BORDER_BAND_PX)
    scales = colour_scales(colour_distance, touches, near)
    geodesic = geodesic_distance(colour_distance, touches, is_border, scales.clip)
    connectivity = boundary_connectivity(geodesic, is_border, scales.sigma_geodesic)
    contrast = background_weighted_contrast(colour_distance, position_distance, connectivity)
    return optimise(colour_distance, touches, near, is_border, connectivity, contrast, scales.sigma_neighbour)


def mean_lab(image_HWC: np.ndarray, labels_HW: np.ndarray) -> np.ndarray:
    """Lab of each superpixel's mean RGB (the authors average first and convert then), float64 (N, 3).

    Args:
        image_HWC: uint8 RGB.
        labels_HW: int32, 0..N-1.
    """
    return rgb2lab(mean_per_superpixel(image_HWC, labels_HW)[None] / 255.0)[0]


@dataclass(frozen=True, kw_only=True)
class ColourScales:
    """Colour scales of one image, in Lab units; the authors' code fits them to the image (paper: fixed 10 and 7)."""

    clip: float
    # differences below this are noise and cost nothing on a path
    sigma_geodesic: float
    # sigma_clr of Eq. 4
    sigma_neighbour: float
    # sigma of the smoothness weight, Eq. 10


def colour_scales(colour_distance: np.ndarray, touches: np.ndarray, near: np.ndarray) -> ColourScales:
    """Fit the colour scales to the differences between neighbouring superpixels.

    Args:
        colour_distance: float64 (N, N).
        touches: bool (N, N), 1-ring.
        near: bool (N, N), 2-ring.
    """
    nearest_1 = np.where(touches, colour_distance, np.inf).min(axis=1).mean()
    nearest_2 = np.where(near, colour_distance, np.inf).min(axis=1).mean()
    edges = np.sort(colour_distance[np.triu(touches)])[::-1]
    strongest = edges[: max(1, round(0.01 * edges.size))].mean()
    return ColourScales(
        clip=nearest_2,
        sigma_geodesic=max(5.0, min(10.0, 3 * nearest_1, strongest / 10)),
        sigma_neighbour=min(3 * nearest_1, 0.2 * strongest, 20.0),
    )


def geodesic_distance(
    colour_distance: np.ndarray, touches: np.ndarray, is_border: np.ndarray, clip: float
) -> np.ndarray:
    """Length of the shortest path between superpixels, all border superpixels being neighbours of each other (Eq. 2).

    Args:
        colour_distance: float64 (N, N).
        touches: bool (N, N).
        is_border: bool (N,).
        clip: colour difference that costs nothing.

    Returns:
        float64 (N, N).
    """
    linked = touches | (is_border[:, None] & is_border[None, :])
    rows, columns = np.nonzero(linked)
    # scipy takes an explicit zero for a missing edge; 1e-9 keeps free edges in the graph
    cost = np.maximum(colour_distance[rows, columns] - clip, 0) + 1e-9
    num = len(is_border)
    return dijkstra(csr_array((cost, (rows, columns)), shape=(num, num)), directed=True)


def _gaussian(distance: np.ndarray, sigma: float) -> np.ndarray:
    """exp(-d^2 / 2 sigma^2), cut to 0 beyond 3 sigma as the authors' code does."""
    weight = np.exp(-(distance**2) / (2 * max(sigma, 1e-6) ** 2))
    weight[distance > 3 * sigma] = 0
    return weight


def boundary_connectivity(geodesic: np.ndarray, is_border: np.ndarray, sigma: float) -> np.ndarray:
    """Length on the image border over the root of the spanning area (Eq. 3 to 6), float64 (N,), >= 0.

    Args:
        geodesic: float64 (N, N).
        is_border: bool (N,).
        sigma: sigma_clr, Lab units.
    """
    belongs = _gaussian(geodesic, sigma)
    return belongs[:, is_border].sum(axis=1) / np.sqrt(belongs.sum(axis=1))


def background_probability(connectivity: np.ndarray) -> np.ndarray:
    """w_bg of Eq. 7, float64 (N,) in [0, 1).

    Args:
        connectivity: float64 (N,).
    """
    return 1 - np.exp(-(connectivity**2) / (2 * SIGMA_CONNECTIVITY**2))


def background_weighted_contrast(
    colour_distance: np.ndarray, position_distance: np.ndarray, connectivity: np.ndarray
) -> np.ndarray:
    """Contrast against what is probably background (Eq. 8), stretched to [0, 1] and 0 below its Otsu threshold.

    Args:
        colour_distance: float64 (N, N).
        position_distance: float64 (N, N), sides of the image being 1.
        connectivity: float64 (N,).

    Returns:
        float64 (N,) in [0, 1].
    """
    weight = _gaussian(position_distance, SIGMA_POSITION)
    contrast = normalise((colour_distance * weight) @ background_probability(connectivity))
    if contrast.max() == 0:
        return contrast
    return np.where(contrast < threshold_otsu(contrast), 0.0, contrast)


def optimise(
    colour_distance: np.ndarray,
    touches: np.ndarray,
    near: np.ndarray,
    is_border: np.ndarray,
    connectivity: np.ndarray,
    contrast: np.ndarray,
    sigma_neighbour: float,
) -> np.ndarray:
    """Least-squares map: background near 0, contrasting regions near 1, like neighbours alike (Eq. 9 and 10).

    Args:
        colour_distance: float64 (N, N).
        touches: bool (N, N), 1-ring.
        near: bool (N, N), 2-ring.
        is_border: bool (N,).
        connectivity: float64 (N,).
        contrast: float64 (N,) in [0, 1], the foreground weight.
        sigma_neighbour: sigma of the smoothness weight, Lab units.

    Returns:
        float64 (N,) in [0, 1].
    """
    if contrast.max() == 0:
        return contrast
    identity = np.eye(len(contrast), dtype=bool)
    linked = near | (is_border[:, None] & is_border[None, :]) | identity
    smoothness = np.where(linked, _gaussian(colour_distance, sigma_neighbour), 0)
    # Paper: mu = 0.1 on every weight; authors' code: 0.1 on the 1-ring and the diagonal. We follow the code.
    smoothness += SMOOTHNESS_FLOOR * (touches | identity)
    background = background_probability(connectivity)
    background[connectivity > CERTAIN_CONNECTIVITY] = CERTAIN_BACKGROUND_WEIGHT
    laplacian = np.diag(smoothness.sum(axis=1)) - smoothness
    system = laplacian + np.diag(BACKGROUND_FACTOR * background + contrast)
    return normalise(np.linalg.solve(system, contrast))
