"""Which detector is taken when none was named: the one trained here, else a classical one. Imports no torch."""

from backdrop.data_folders import ARTIFACTS
from backdrop.progress import note_default
from backdrop.saliency.trained_detector.run_layout import DETECTOR_FILE

# Where `saliency train` puts its run unless it is told.
DETECTOR_RUN = ARTIFACTS / "detector"
# Without training.
CLASSICAL = "rbd"


def default_detector() -> str:
    """Return the detector taken when none was named, and say so."""
    if (DETECTOR_RUN / DETECTOR_FILE).exists():
        note_default("detector", DETECTOR_RUN, "trained by saliency train")
        return str(DETECTOR_RUN)
    note_default("detector", CLASSICAL, "none was trained yet")
    return CLASSICAL
