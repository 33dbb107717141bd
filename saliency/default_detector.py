"""Which detector is taken when none was named: the one trained here, else a classical one. Imports no torch."""

from backdrop.data_folders import ARTIFACTS
from backdrop.errors import UserError
from backdrop.progress import note_default, warn
from backdrop.saliency.trained_detector.run_layout import DETECTOR_FILE, run_and_ending
from backdrop.saliency.trained_detector.sanity_score import SanityScore, read_score

# Where `saliency train` puts its run unless it is told.
DETECTOR_RUN = ARTIFACTS / "detector"
# Without training.
CLASSICAL = "rbd"


def chosen_detector(named: str | None) -> str:
    """Return the detector to find foregrounds with, and say what is known of it.

    Args: named: by the user; None = the one trained here, else a classical one.
    Raises: UserError: as `default_detector`.
    """
    if named is None:
        return default_detector()
    run, _ = run_and_ending(named)
    score = read_score(run) if (run / DETECTOR_FILE).is_file() else None
    if score is not None:
        _say(named, score)
    return named


def default_detector() -> str:
    """Return the detector taken when none was named, and say so.

    One that was worse than a classical one on a user's own images is refused, for hours would go into worse masks; on
    drawn pictures that says less, and is a warning.

    Raises: UserError: a training was begun there and has not finished (whoever began it hardly wants another's masks),
        or its detector is worse than one that needs no training.
    """
    if (DETECTOR_RUN / DETECTOR_FILE).exists():
        score = read_score(DETECTOR_RUN)
        if score is None:
            note_default("detector", DETECTOR_RUN, "trained by saliency train, not measured")
            return str(DETECTOR_RUN)
        if score.is_on_photographs and score.is_worse_than_classical:
            raise UserError(
                f"{score.why_not(str(DETECTOR_RUN))}. To take it nonetheless, name it: --detector {DETECTOR_RUN}"
            )
        _say(str(DETECTOR_RUN), score)
        return str(DETECTOR_RUN)
    if DETECTOR_RUN.exists():
        raise UserError(
            f"{DETECTOR_RUN} holds no {DETECTOR_FILE}: its training has not finished. Run the same `saliency train` "
            f"again to finish it, or name a detector: --detector {CLASSICAL} needs no training"
        )
    note_default("detector", CLASSICAL, "none was trained yet")
    return CLASSICAL


def _say(detector: str, score: SanityScore) -> None:
    """Tell what a trained detector scored, and where another is the better choice."""
    note_default("detector", detector, score.text())
    if score.is_worse_than_classical:
        warn(f"warning: {score.why_not(detector)}")
