"""The mean of four detectors: their errors differ, so it is steadier than each, and the simplest fusion there is."""

import numpy as np

from backdrop.saliency.classical import dsr, hs, mc, rbd

DETECTORS = (mc, hs, dsr, rbd)

# raised by every change that can change a map, and with each detector that it takes the mean of
ALGORITHM_VERSION = 1 + sum(detector.ALGORITHM_VERSION for detector in DETECTORS)
THRESHOLD = 0.3  # where maps are cut, see saliency/DETECTORS.md


def saliency(image_HWC: np.ndarray) -> np.ndarray:
    """Mean of the maps of `mc`, `hs`, `dsr` and `rbd`, as they are.

    Args:
        image_HWC: uint8 RGB, any size from 1 x 1.

    Returns:
        saliency_HW: float32 in [0, 1].

    Source: the four maps that Nguyen et al., "DeepUSPS", NeurIPS 2019, learn from; the mean is ours.
    """
    return np.stack([detector.saliency(image_HWC) for detector in DETECTORS]).mean(axis=0)
