"""Microseconds per accepted constrained box."""

import time
from pathlib import Path

import cv2
import numpy as np

from backdrop.pipeline.views import crops
from backdrop.pipeline.views.crop_kernels import Box, Foreground, Stream, draw_box
from backdrop.pipeline.views.view_plan import View, ViewPlan
from backdrop.stores.format.mask_codec import pack_rows
from tests.bench.photographs import blob_mask
from tests.bench.timing import best_seconds, row

NUM_BOXES = 2000
PLAN = ViewPlan(views=(View(scale=(0.05, 0.14), min_foreground=0.2),))


def measure(folder: Path) -> dict[str, dict]:
    """Return the lines named `sampler.*`: our kernel as the loader calls it, beside the same rejection in numpy."""
    large_HW = cv2.resize(blob_mask(0), (2000, 1500), interpolation=cv2.INTER_NEAREST)
    return {
        "sampler.us_per_box": compare(blob_mask(0), "500 x 375"),
        "sampler.us_per_box_2000x1500": compare(large_HW, "2,000 x 1,500"),
    }


def compare(mask_HW: np.ndarray, size: str) -> dict:
    """Measure boxes in one mask, uint8 (H, W)."""
    mask = crops.foreground(pack_rows(mask_HW), mask_HW.shape[1])
    specs, code = crops.view_specs(PLAN), crops.epoch_code(PLAN, 0)
    boxes = crops_in_a_row(mask, specs, code)
    ours = best_seconds(lambda: boxes(NUM_BOXES)) / NUM_BOXES * 1e6
    start = time.perf_counter()
    for row_number in range(200):
        numpy_box(mask_HW, np.random.default_rng(row_number))
    peer = (time.perf_counter() - start) / 200 * 1e6
    what = f"{size}, local crops, phi 0.2; peer: the same rejection in numpy (CAST's Python: 3,000-5,500 us)"
    return row(ours, "us", peer=peer, ratio=peer / ours, what=what)


def crops_in_a_row(mask: Foreground, specs: np.ndarray, code):
    """Return a compiled loop over boxes, as the fused decoder runs them: no Python between two boxes."""
    import numba

    proposal, fallback, spec = code.proposal, code.fallback, specs[0]

    @numba.njit
    def loop(num_boxes: int, mask: Foreground, spec: np.void) -> int:
        total = 0
        for number in range(num_boxes):
            box, _, _, _ = draw_box(Stream(0, 0, number, 0), mask, spec, proposal, fallback, Box(0, 0, 0, 0))
            total += box.top
        return total

    return lambda num_boxes: loop(num_boxes, mask, spec)


def numpy_box(mask_HW: np.ndarray, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw one box by rejection, at most 10 tries, the foreground counted with numpy."""
    height, width = mask_HW.shape
    wanted = 0.2 * mask_HW.sum()
    for _ in range(10):
        area = rng.uniform(0.05, 0.14) * height * width
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        box_width, box_height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if box_width <= width and box_height <= height:
            top, left = rng.integers(height - box_height + 1), rng.integers(width - box_width + 1)
            if mask_HW[top : top + box_height, left : left + box_width].sum() >= wanted:
                return top, left, box_height, box_width
    return 0, 0, height, width
