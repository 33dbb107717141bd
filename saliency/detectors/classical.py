"""Learning-free detectors: the files of `saliency/classical`, by their names."""

from typing import TYPE_CHECKING

from backdrop.saliency.classical import NAMES

if TYPE_CHECKING:
    from backdrop.saliency.detector import Detector

HELP = f"{', '.join(NAMES)} (no training needed)"


def names() -> tuple[str, ...]:
    """Return the files' names."""
    return NAMES


def serves(name: str) -> bool:
    """Tell whether it is one of them."""
    return name in NAMES


def open(name: str, device: str | None) -> "Detector":
    """Import a classical detector; it runs on the CPU, whatever `device`."""
    from backdrop.saliency.classical_detector import ClassicalDetector

    return ClassicalDetector(name)
