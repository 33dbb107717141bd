"""Images per second of the classical detectors, one core."""

from importlib import import_module
from pathlib import Path

import cv2

import backdrop.saliency.classical
from tests.bench.photographs import photograph
from tests.bench.timing import best_seconds, one_core, row

# Seconds per image of the authors' MATLAB, as published or reported: other machines', so nothing is divided by it.
AUTHORS_SECONDS = {"rbd": 0.2, "mc": 0.2, "dsr": 10.0, "hs": 0.5}


def measure(folder: Path) -> dict[str, dict]:
    """Return `saliency.<name>_img_per_s` for every classical detector."""
    images = [cv2.resize(photograph(number), (400, 300), interpolation=cv2.INTER_AREA) for number in range(4)]
    results = {}
    for name in backdrop.saliency.classical.NAMES:
        detect = import_module(f"backdrop.saliency.classical.{name}").saliency
        with one_core():
            rate = len(images) / best_seconds(lambda detect=detect: [detect(image) for image in images])
        said = f"; the authors' MATLAB elsewhere: {AUTHORS_SECONDS[name]} s" if name in AUTHORS_SECONDS else ""
        results[f"saliency.{name}_img_per_s"] = row(rate, "images/s", what=f"400 x 300, one core{said}")
    return results
