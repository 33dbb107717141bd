"""Superpixels and the graphs over them, for every classical detector.

Shapes: N superpixels, H rows, W columns. Label images are int32 (H, W) with values 0..N-1, every value present.
"""

import numpy as np
from skimage.segmentation import slic

from backdrop.saliency.classical import _slic_kernels

SLIC_ITERATIONS = 10


def slic_labels(image_HWC: np.ndarray, num_superpixels: int, compactness: float) -> np.ndarray:
    """Cut an image into about `num_superpixels` connected regions of like colour.

    Args:
        image_HWC: uint8 RGB.
        num_superpixels: how many regions to aim for, >= 1.
        compactness: m of the paper: weight of position against Lab colour.

    Returns:
        labels_HW: int32, 0..N-1 without gaps.

    Source: Achanta et al., SLIC Superpixels, PAMI 2012, Eq. 3.
    """
    height, width = image_HWC.shape[:2]
    if num_superpixels <= 1 or height * width <= 1:
        return np.zeros((height, width), np.int32)
    labels_HW = slic(
        image_HWC, n_segments=num_superpixels, compactness=compactness, sigma=0, start_label=0, channel_axis=-1
    )
    # scikit-image may merge labels away while it enforces connectivity, so the labels are counted anew.
    _, dense = np.unique(labels_HW, return_inverse=True)
    return dense.reshape(height, width).astype(np.int32)


def fast_slic_labels(lab_HWC: np.ndarray, num_superpixels: int, compactness: float) -> np.ndarray:
    """SLIC for detectors that cut an image many times: about seven times as fast as scikit-image's, its own borders.

    Takes Lab as it is (scikit-image stretches the colours to the full range first); pieces below a quarter of the
    mean size join a neighbour, as in the authors' code. As in scikit-image, a centre searches +- 2 S (paper: +- S)
    and starts on a regular grid without the paper's move to the lowest gradient nearby.

    Args:
        lab_HWC: float32 CIE Lab.
        num_superpixels: how many regions to aim for, >= 1; no region is planned below 4 pixels.
        compactness: m of the paper: weight of position against Lab colour.

    Returns:
        labels_HW: int32, 0..N-1 without gaps, each region 4-connected.

    Source: Achanta et al., SLIC Superpixels, PAMI 2012, Algorithm 1, Eq. 3.
    """
    height, width = lab_HWC.shape[:2]
    step_px = max(np.sqrt(height * width / num_superpixels), 2.0)
    num_rows, num_columns = max(1, round(height / step_px)), max(1, round(width / step_px))
    rows = np.arange(height) * num_rows // height
    labels_HW = (rows[:, None] * num_columns + np.arange(width) * num_columns // width).astype(np.int32)
    lab_CHW = np.ascontiguousarray(np.moveaxis(lab_HWC, 2, 0), np.float32)
    centre = np.empty((num_rows * num_columns, 5), np.float32)
    _slic_kernels.move_centres(lab_CHW, labels_HW, centre)
    for _ in range(SLIC_ITERATIONS):
        _slic_kernels.assign_pixels(lab_CHW, centre, step_px, 1 / compactness**2, labels_HW)
        _slic_kernels.move_centres(lab_CHW, labels_HW, centre)
    connected_HW = np.empty_like(labels_HW)
    _slic_kernels.connect(labels_HW, int(step_px * step_px) // 4, connected_HW)
    return connected_HW


def mean_per_superpixel(values_HWC: np.ndarray, labels_HW: np.ndarray) -> np.ndarray:
    """Mean of each channel over each superpixel.

    Args:
        values_HWC: any real dtype (H, W, C).
        labels_HW: int32, 0..N-1.

    Returns:
        float64 (N, C).
    """
    labels = labels_HW.ravel()
    sizes = np.bincount(labels)
    channels = [np.bincount(labels, weights=values_HWC[..., c].ravel()) for c in range(values_HWC.shape[2])]
    return np.stack(channels, axis=1) / sizes[:, None]


def mean_position(labels_HW: np.ndarray) -> np.ndarray:
    """Mean (row / H, column / W) of each superpixel, float64 (N, 2) in [0, 1).

    Args:
        labels_HW: int32 (H, W), 0..N-1.
    """
    height, width = labels_HW.shape
    rows_HW, columns_HW = np.mgrid[0:height, 0:width]
    return mean_per_superpixel(np.stack([rows_HW / height, columns_HW / width], axis=2), labels_HW)


def adjacency(labels_HW: np.ndarray, *, diagonal: bool = False) -> np.ndarray:
    """Which superpixels touch: symmetric bool (N, N), False on the diagonal of the matrix.

    Args:
        labels_HW: int32 (H, W), 0..N-1.
        diagonal: whether touching at a corner counts (8-neighbourhood) or only along a side (4-neighbourhood).
    """
    num = int(labels_HW.max()) + 1
    touches = np.zeros((num, num), bool)
    pairs = [(labels_HW[:, :-1], labels_HW[:, 1:]), (labels_HW[:-1], labels_HW[1:])]
    if diagonal:
        pairs += [(labels_HW[:-1, :-1], labels_HW[1:, 1:]), (labels_HW[:-1, 1:], labels_HW[1:, :-1])]
    for first, second in pairs:
        touches[first, second] = True
        touches[second, first] = True
    np.fill_diagonal(touches, False)
    return touches


def two_ring(touches: np.ndarray) -> np.ndarray:
    """Neighbours and neighbours of neighbours: symmetric bool (N, N), False on the diagonal.

    Args:
        touches: bool (N, N), the 1-ring.
    """
    # float32 so that the product runs in BLAS; counts stay exact far beyond any number of superpixels
    steps = touches.astype(np.float32)
    reach = touches | (steps @ steps > 0)
    np.fill_diagonal(reach, False)
    return reach


def touches_border(labels_HW: np.ndarray, band_px: int) -> np.ndarray:
    """Which superpixels reach into a band along the image border: bool (N,).

    Args:
        labels_HW: int32 (H, W), 0..N-1.
        band_px: width of the band in pixels.
    """
    is_border = np.zeros(int(labels_HW.max()) + 1, bool)
    for band in (labels_HW[:band_px], labels_HW[-band_px:], labels_HW[:, :band_px], labels_HW[:, -band_px:]):
        is_border[band] = True
    return is_border


def pairwise_distance(points: np.ndarray) -> np.ndarray:
    """Euclidean distance between all rows: float64 (N, N).

    Args:
        points: float64 (N, D).
    """
    return np.sqrt(((points[:, None, :] - points[None, :, :]) ** 2).sum(axis=2))


def normalise(values: np.ndarray) -> np.ndarray:
    """Stretch to [0, 1] by minimum and maximum; a constant array becomes 0 (nothing stands out).

    Args:
        values: real array of any shape, finite.
    """
    low, high = values.min(), values.max()
    if high - low < 1e-12:
        return np.zeros_like(values)
    return (values - low) / (high - low)
