"""Seconds of the dense CRF on one image, one core."""

from pathlib import Path

import cv2
import numpy as np

from backdrop.saliency.crf.dense_crf import refine
from tests.bench.photographs import blob_mask, photograph
from tests.bench.timing import best_seconds, one_core, row

SIDE_PX = 432
# Seconds of pydensecrf2 1.1 on the same job, one idle core of the machine the floor was measured on.
PYDENSECRF_SECONDS = 0.8


def measure(folder: Path) -> dict[str, dict]:
    """Return `saliency.crf_s`: both lattices used, the image's own one built, five updates."""
    image_HWC = cv2.resize(photograph(0), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    soft_HW = cv2.GaussianBlur(blob_mask(0).astype(np.float32), (0, 0), 9)
    soft_HW = np.clip(cv2.resize(soft_HW, (SIDE_PX, SIDE_PX)), 0, 1)
    with one_core():
        seconds = best_seconds(lambda: refine(image_HWC, soft_HW))
    return {
        "saliency.crf_s": row(
            seconds, "s", peer=PYDENSECRF_SECONDS, ratio=PYDENSECRF_SECONDS / seconds,
            what="432 x 432, 5 iterations; peer: pydensecrf2 1.1 as measured on another machine",
        )
    }  # fmt: skip
