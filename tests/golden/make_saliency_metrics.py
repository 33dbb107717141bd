"""Inputs of the evaluator's golden values, and how these were made: by pysodmetrics 1.6.2.

In an environment of its own that holds only pysodmetrics 1.6.2 and what it needs (it wants an older numpy than ours):

    python -m tests.golden.make_saliency_metrics

Inputs are integer arithmetic from a seed, so saliency_metrics.json holds nothing but outputs. Every map spans 0 to 255,
because pysodmetrics stretches maps to that range, and keeps to levels that survive its detour over floating point.
"""

import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("saliency_metrics.json")
NUM_IMAGES = 8


def inputs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Maps, uint8 (H, W), 255 = foreground, each with its true mask, bool (H, W)."""
    levels = np.arange(256)
    is_stable = ((levels / 255) * 255).astype(np.uint8) == levels
    nearest_stable = np.maximum.accumulate(np.where(is_stable, levels, 0)).astype(np.uint8)
    cases = []
    for number in range(NUM_IMAGES):
        rng = np.random.default_rng(number)
        height, width = rng.integers(20, 60, 2)
        y, x = np.mgrid[:height, :width]
        top, left, radius = rng.integers(5, 15), rng.integers(5, 15), rng.integers(3, 12)
        truth_HW = (y - top) ** 2 + (x - left) ** 2 <= radius**2
        doubt_HW = rng.integers(0, 160, (height, width))
        map_HW = np.where(truth_HW, 255 - doubt_HW * (number % 3), doubt_HW * 2 // 3).clip(0, 255)
        map_HW[0, 0], map_HW[-1, -1] = 0, 255
        cases.append((nearest_stable[map_HW], truth_HW))
    return cases


def _scores_of_pysodmetrics() -> dict[str, float]:
    from py_sod_metrics import MAE, FmeasureHandler, FmeasureV2, IOUHandler, PrecisionHandler, RecallHandler

    error = MAE()
    scores = FmeasureV2(
        {
            "f": FmeasureHandler(False, True, with_binary=True, beta=0.3),
            "iou": IOUHandler(False, False, with_binary=True),
            "precision": PrecisionHandler(True, True),
            "recall": RecallHandler(True, True),
        }
    )
    for map_HW, truth_HW in inputs():
        error.step(map_HW, truth_HW.astype(np.uint8) * 255)
        scores.step(map_HW, truth_HW.astype(np.uint8) * 255)
    results = scores.get_results()

    def f_beta(kind: str) -> np.ndarray:
        precision, recall = results["precision"][kind], results["recall"][kind]
        return 1.3 * precision * recall / (0.3 * precision + recall)

    return {
        "mae": float(error.get_results()["mae"]),
        "f_fixed": float(results["f"]["binary"]),
        "f_adaptive": float(results["f"]["adaptive"]),
        "f_adaptive_of_means": float(f_beta("adaptive")),
        "f_max": float(f_beta("dynamic").max()),
        "iou": float(results["iou"]["binary"]),
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(_scores_of_pysodmetrics(), indent=2) + "\n")
