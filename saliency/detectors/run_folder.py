"""The run folder of `saliency train`; `RUN:crf` and `RUN:no-crf` end in the dense CRF, or not, whatever it says."""

from typing import TYPE_CHECKING

from backdrop.errors import UserError
from backdrop.saliency.trained_detector.run_layout import CRF_ENDINGS, DETECTOR_FILE, name_in, run_and_ending

if TYPE_CHECKING:
    from backdrop.saliency.detector import Detector

HELP = (
    "RUN, the folder of a run of 'saliency train' "
    f"({' and '.join(f'RUN:{ending}' for ending in reversed(CRF_ENDINGS))} leave out or add the dense CRF)"
)


def names() -> tuple[str, ...]:
    """Return none: folders are without end."""
    return ()


def serves(name: str) -> bool:
    """Tell whether it is a folder that is there, finished or not."""
    return run_and_ending(name)[0].is_dir()


def open(name: str, device: str | None) -> "Detector":
    """Load the trained network.

    Raises: UserError: the training is not finished, or the folder is damaged or of another version.
    """
    run, crf = run_and_ending(name)
    if not (run / DETECTOR_FILE).is_file():
        raise UserError(
            f"{run} holds no {DETECTOR_FILE}: its training has not finished; run the same `saliency train` again to "
            "finish it, or name another run folder"
        )
    if name_in(run) == "found":
        if crf is not None:
            raise UserError(f"{name}: {run} is FOUND, which has no CRF: give {run}, or found:{run}:solver")
        from backdrop.saliency.features.found_detector import load_found

        return load_found(run, device)
    from backdrop.saliency.trained_detector.drn_detector import load_detector

    return load_detector(run, device=device, crf=crf)
