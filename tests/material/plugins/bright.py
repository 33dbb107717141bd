"""A detector: what is brighter than the image's mean is foreground."""

import numpy as np

from backdrop.saliency.detector import Detector, Threshold

BACKDROP_SET = "detectors"
HELP = "bright (what is brighter than the mean)"


class Bright(Detector):
    """States its identity and threshold, and finds one map."""

    threshold = Threshold(value=0.5, source="its maps are 0 and 1")

    @property
    def identity(self):
        """Return what decides a map."""
        return {"name": "bright", "version": 1}

    def __call__(self, image_HWC, key):
        """Return 1 where a pixel is brighter than the mean, float32 (H, W)."""
        grey_HW = image_HWC.mean(axis=2)
        return (grey_HW > grey_HW.mean()).astype(np.float32)


def names():
    """Return its one name."""
    return ("bright",)


def serves(name):
    """Tell whether it is that."""
    return name == "bright"


def open(name, device):
    """Open it."""
    return Bright()
