"""Seconds of the dense CRF on one image, one core, beside pydensecrf's where that is installed."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from backdrop.saliency.crf.dense_crf import DEFAULTS, MIN_PROBABILITY, refine
from tests.bench.photographs import blob_mask, photograph
from tests.bench.timing import best_seconds, one_core, row

SIDE_PX = 432


def measure(folder: Path) -> dict[str, dict]:
    """Return `saliency.crf_s`: both lattices used, the image's own one built, five updates."""
    image_HWC = cv2.resize(photograph(0), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    soft_HW = cv2.GaussianBlur(blob_mask(0).astype(np.float32), (0, 0), 9)
    soft_HW = np.clip(cv2.resize(soft_HW, (SIDE_PX, SIDE_PX)), 0, 1)
    theirs = pydensecrf(image_HWC, soft_HW)
    with one_core():
        seconds = best_seconds(lambda: refine(image_HWC, soft_HW))
        peer = best_seconds(theirs, repetitions=3) if theirs else None
    what = f"{SIDE_PX} x {SIDE_PX}, {DEFAULTS.iterations} iterations, one core"
    said = "pydensecrf2, the same lattices" if theirs else "none: pip install pydensecrf2 for it"
    ratio = peer / seconds if peer else None
    return {"saliency.crf_s": row(seconds, "s", peer=peer, ratio=ratio, what=f"{what}; peer: {said}")}


def pydensecrf(image_HWC: np.ndarray, soft_HW: np.ndarray) -> Callable[[], object] | None:
    """Return what computes the same with pydensecrf; None where it is not installed."""
    try:
        from pydensecrf import densecrf
    except ImportError:
        return None
    height, width = soft_HW.shape
    foreground_N = np.clip(soft_HW.ravel(), MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    unary_2N = np.ascontiguousarray(-np.log(np.stack([1 - foreground_N, foreground_N])), np.float32)

    def work() -> object:
        crf = densecrf.DenseCRF2D(width, height, 2)
        crf.setUnaryEnergy(unary_2N)
        crf.addPairwiseGaussian(sxy=DEFAULTS.spatial_sigma_px, compat=DEFAULTS.spatial_weight)
        crf.addPairwiseBilateral(
            sxy=DEFAULTS.bilateral_sigma_px, srgb=DEFAULTS.bilateral_sigma_rgb,
            rgbim=np.ascontiguousarray(image_HWC), compat=DEFAULTS.bilateral_weight,
        )  # fmt: skip
        return crf.inference(DEFAULTS.iterations)

    return work
