"""DSR: saliency by dense and sparse reconstruction.

Li, Lu, Zhang, Ruan, Yang, "Saliency Detection via Dense and Sparse Reconstruction", ICCV 2013. The superpixels at the
image border are templates of the background; what they reconstruct badly is salient. Two reconstructions, by their
principal components (dense) and by few of them (sparse), are smoothed, taken over eight scales, weighted towards the
object's place and fused by Bayes' rule.

Symbols (paper -> here), N superpixels, M templates, D = 8 features: x_i -> rows of `feature` (N, D); B -> `template`
(M, D); epsilon^s, epsilon^d -> `sparse_error`, `dense_error` (N,); tau -> 1 - OWN_SHARE; E -> `integrated_EHW`.
Constants and steps that the paper leaves open are those of the authors' published code.
"""

import numpy as np
from skimage.color import rgb2lab

from backdrop.saliency.classical import _dsr_kernels
from backdrop.saliency.classical._bounded_size import at_bounded_size
from backdrop.saliency.classical._superpixels import fast_slic_labels, mean_per_superpixel, normalise, touches_border

ALGORITHM_VERSION = 1  # raised by every change that can change a map
THRESHOLD = 0.15  # where maps are cut, see saliency/DETECTORS.md

SCALES = ((50, 10.0), (100, 10.0), (150, 20.0), (200, 20.0), (250, 25.0), (300, 25.0), (350, 30.0), (400, 30.0))
# number of superpixels and their compactness
FLAT_LAB = 0.05  # a Lab channel whose values span less holds nothing but rounding
PENALTY = 0.01
KEPT_ENERGY = 0.95
NUM_CLUSTERS = 8
MAX_K_MEANS_ITERATIONS = 100
OWN_SHARE = 0.5
SIGMA_OBJECT = 0.25
NUM_BINS = 60


def saliency(image_HWC: np.ndarray) -> np.ndarray:
    """Soft foreground map of an image.

    Args:
        image_HWC: uint8 RGB, any size from 1 x 1.

    Returns:
        saliency_HW: float32 in [0, 1]; all 0 where nothing stands out (a flat image, a single superpixel).

    Source: Li et al. 2013, sections 3 to 5.
    """
    return at_bounded_size(_saliency_at_size, image_HWC)


def _saliency_at_size(image_HWC: np.ndarray) -> np.ndarray:
    rgb_HWC = (image_HWC / np.float32(255)).astype(np.float32)
    lab_HWC = rgb2lab(rgb_HWC)
    if np.ptp(lab_HWC, axis=(0, 1)).max() < FLAT_LAB:
        return np.zeros(image_HWC.shape[:2])
    feature_HWD = pixel_features(rgb_HWC, lab_HWC)
    total_EHW, weight_HW = np.zeros((2, *image_HWC.shape[:2])), np.zeros(image_HWC.shape[:2])
    for num_superpixels, compactness in SCALES:
        labels_HW = fast_slic_labels(lab_HWC, num_superpixels, compactness)
        feature = mean_per_superpixel(feature_HWD, labels_HW)
        error = superpixel_errors(feature, touches_border(labels_HW, 1))
        _dsr_kernels.add_scale(feature_HWD, labels_HW, feature.astype(np.float32), error, total_EHW, weight_HW)
    sparse_HW, dense_HW = (object_biased(normalise(error_HW / weight_HW)) for error_HW in total_EHW)
    return normalise(posterior(sparse_HW, dense_HW) + posterior(dense_HW, sparse_HW))


def pixel_features(rgb_HWC: np.ndarray, lab_HWC: np.ndarray) -> np.ndarray:
    """RGB, Lab with each channel stretched over the image, column / W and row / H: float32 (H, W, 8) in [0, 1].

    Args:
        rgb_HWC: float32 in [0, 1].
        lab_HWC: float32 CIE Lab.
    """
    height, width = rgb_HWC.shape[:2]
    feature_HWD = np.zeros((height, width, 8), np.float32)
    feature_HWD[..., :3] = rgb_HWC
    for channel in range(3):
        # Ours: a grey image has no chroma, and the rounding of its conversion is not stretched to a feature.
        if np.ptp(lab_HWC[..., channel]) >= FLAT_LAB:
            feature_HWD[..., 3 + channel] = normalise(lab_HWC[..., channel])
    feature_HWD[..., 6] = np.arange(width) / width
    feature_HWD[..., 7] = np.arange(height)[:, None] / height
    return feature_HWD


def superpixel_errors(feature: np.ndarray, is_border: np.ndarray) -> np.ndarray:
    """Sparse and dense reconstruction error of each superpixel at one scale, propagated: float64 (N, 2) in [0, 1].

    Args:
        feature: float64 (N, D).
        is_border: bool (N,), which are templates.
    """
    cluster = feature_clusters(feature)
    errors = [sparse_error(feature, is_border), dense_error(feature, is_border)]
    return np.stack([normalise(propagate(feature, cluster, normalise(error))) for error in errors], axis=1)


def sparse_error(feature: np.ndarray, is_border: np.ndarray) -> np.ndarray:
    """Squared error of the reconstruction by few templates, of features scaled to length 1 (Eq. 4 and 5).

    Args:
        feature: float64 (N, D).
        is_border: bool (N,), which are templates, at least one.

    Returns:
        float64 (N,).
    """
    sample = feature / np.maximum(np.linalg.norm(feature, axis=1, keepdims=True), 1e-12)
    template = sample[is_border]
    error = np.empty(len(sample))
    _dsr_kernels.sparse_errors(sample, template, template @ template.T, sample @ template.T, PENALTY, error)
    return error


def dense_error(feature: np.ndarray, is_border: np.ndarray) -> np.ndarray:
    """Length of what the principal components of the templates leave of each superpixel (Eq. 1 and 2).

    As in the authors' code, the superpixels are centred by their own mean, not by that of the templates, the error is
    a length (paper: its square), and one component more is kept than 95 % of the energy needs.

    Args:
        feature: float64 (N, D).
        is_border: bool (N,), which are templates, at least one.

    Returns:
        float64 (N,).
    """
    template = feature[is_border]
    template = template - template.mean(axis=0)
    energy, component = np.linalg.eigh(template.T @ template)
    energy, component = np.maximum(energy[::-1], 0), component[:, ::-1]
    # templates all alike have no direction; they are their mean
    share = np.cumsum(energy) / max(energy.sum(), 1e-12)
    num_kept = min(int(np.searchsorted(share, KEPT_ENERGY)) + 2, len(energy))
    kept = component[:, :num_kept]
    centred = feature - feature.mean(axis=0)
    return np.linalg.norm(centred - centred @ kept @ kept.T, axis=1)


def feature_clusters(feature: np.ndarray) -> np.ndarray:
    """k-means clusters of the superpixels, int64 (N,); the same for the same features (authors: random starts).

    Args:
        feature: float64 (N, D).
    """
    cluster = np.zeros(len(feature), np.int64)
    _dsr_kernels.k_means(feature, min(NUM_CLUSTERS, len(feature)), MAX_K_MEANS_ITERATIONS, cluster)
    return cluster


def propagate(feature: np.ndarray, cluster: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Let each superpixel share its cluster's errors, the highest first, each seeing what came before it (Eq. 6, 7).

    Args:
        feature: float64 (N, D).
        cluster: int64 (N,).
        error: float64 (N,).

    Returns:
        float64 (N,).
    """
    variance = max(float(feature.var(axis=0, ddof=1).mean()) if len(feature) > 1 else 0.0, 1e-12)
    order = np.argsort(-error, kind="stable")
    result = error.copy()
    _dsr_kernels.propagate(feature, cluster, order, variance, OWN_SHARE, result)
    return result


def object_biased(error_HW: np.ndarray) -> np.ndarray:
    """Weight by a Gaussian around the centroid of the errors, a quarter of the sides wide (Eq. 9 and 10).

    Args:
        error_HW: float64 in [0, 1].

    Returns:
        float64 (H, W) in [0, 1]; 0 where all errors are.
    """
    total = error_HW.sum()
    if total == 0:
        return error_HW
    height, width = error_HW.shape
    rows, columns = np.arange(height), np.arange(width)
    row, column = error_HW.sum(axis=1) @ rows / total, error_HW.sum(axis=0) @ columns / total
    down = np.exp(-((rows - row) ** 2) / (2 * (SIGMA_OBJECT * height) ** 2))
    across = np.exp(-((columns - column) ** 2) / (2 * (SIGMA_OBJECT * width) ** 2))
    return normalise(error_HW * down[:, None] * across[None, :])


def posterior(prior_HW: np.ndarray, evidence_HW: np.ndarray) -> np.ndarray:
    """Bayes' rule with one map as the prior of foreground and the other as what is observed (Eq. 12 to 15).

    The prior above its mean says roughly what is foreground; the likelihoods are histograms of the evidence there and
    elsewhere. As in the authors' code each histogram spans the values of its own class, and a pixel reads both
    histograms at the bin that it has in the histogram of its own class.

    Args:
        prior_HW: float64 in [0, 1].
        evidence_HW: float64 in [0, 1].

    Returns:
        float64 (H, W) in [0, 1].
    """
    is_foreground_HW = prior_HW > prior_HW.mean()
    if not is_foreground_HW.any():
        return np.zeros_like(prior_HW)
    bin_HW = np.empty(prior_HW.shape, np.int64)
    shares = []
    for is_class_HW in (is_foreground_HW, ~is_foreground_HW):
        bins = np.round(normalise(evidence_HW[is_class_HW]) * (NUM_BINS - 1)).astype(np.int64)
        bin_HW[is_class_HW] = bins
        shares.append(np.bincount(bins, minlength=NUM_BINS) / bins.size)
    foreground_HW = prior_HW * shares[0][bin_HW]
    total_HW = foreground_HW + (1 - prior_HW) * shares[1][bin_HW]
    return normalise(np.divide(foreground_HW, total_HW, out=np.zeros_like(total_HW), where=total_HW > 0))
