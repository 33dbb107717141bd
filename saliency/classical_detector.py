"""A learning-free detector in use."""

from importlib import import_module
from typing import Any

import numpy as np

from backdrop.saliency.detector import Detector, Threshold

# Of every file's THRESHOLD: the best mean IoU, to a twentieth, on photographs that no score of ours is reported on.
THRESHOLD_SOURCE = "saliency calibrate on 255 photographs of DUTS-TR, see saliency/DETECTORS.md"


class ClassicalDetector(Detector):
    """A file of `saliency/classical`.

    Args: name: its file name there.
    """

    def __init__(self, name: str) -> None:
        self._name, self._module = name, import_module(f"backdrop.saliency.classical.{name}")

    @property
    def identity(self) -> dict[str, Any]:
        """Name and version of the algorithm."""
        return {"name": self._name, "algorithm_version": self._module.ALGORITHM_VERSION}

    @property
    def threshold(self) -> Threshold:
        """The file's."""
        return Threshold(value=self._module.THRESHOLD, source=THRESHOLD_SOURCE)

    def __call__(self, image_HWC: np.ndarray, key: str = "") -> np.ndarray:
        """Soft map float32 (H, W) in [0, 1] of `image_HWC` (uint8 RGB); `key` is not used."""
        return self._module.saliency(image_HWC)
