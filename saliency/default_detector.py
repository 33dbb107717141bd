"""Which detector is taken when none was named: the one trained here, else a classical one. Imports no torch."""

from backdrop.data_folders import ARTIFACTS
from backdrop.errors import UserError
from backdrop.progress import note_default
from backdrop.saliency.trained_detector.run_layout import DETECTOR_FILE

# Where `saliency train` puts its run unless it is told.
DETECTOR_RUN = ARTIFACTS / "detector"
# Without training.
CLASSICAL = "rbd"


def default_detector() -> str:
    """Return the detector taken when none was named, and say so.

    Raises: UserError: a training was begun there and has not finished; whoever began it hardly wants another's masks.
    """
    if (DETECTOR_RUN / DETECTOR_FILE).exists():
        note_default("detector", DETECTOR_RUN, "trained by saliency train")
        return str(DETECTOR_RUN)
    if DETECTOR_RUN.exists():
        raise UserError(
            f"{DETECTOR_RUN} holds no {DETECTOR_FILE}: its training has not finished. Run the same `saliency train` "
            f"again to finish it, or name a detector: --detector {CLASSICAL} needs no training"
        )
    note_default("detector", CLASSICAL, "none was trained yet")
    return CLASSICAL
