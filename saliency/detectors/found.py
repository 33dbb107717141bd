"""`found:WEIGHTS[,HEAD]` and `found:RUN`: FOUND on a ViT with published self-supervised weights."""

from pathlib import Path
from typing import TYPE_CHECKING

from backdrop.errors import UserError
from backdrop.saliency.trained_detector.run_layout import DETECTOR_FILE

if TYPE_CHECKING:
    from backdrop.saliency.detector import Detector

PREFIX = "found:"
OPTIONS = ("single", "multi", "solver")
HELP = (
    "found:WEIGHTS (FOUND on a published ViT, without training; found:WEIGHTS,HEAD with a published head, found:RUN "
    "with one that 'saliency train --preset found' trained; :single, :solver, see saliency/DETECTORS.md)"
)


def names() -> tuple[str, ...]:
    """Return none: files are without end."""
    return ()


def serves(name: str) -> bool:
    """Tell whether it begins with `found:`."""
    return name.startswith(PREFIX)


def open(name: str, device: str | None) -> "Detector":
    """Load the network, and the head where one is given.

    Raises: UserError: no such file, weights of no ViT, a head for another network, or a training that has not finished.
    """
    from backdrop.saliency.features.found_detector import FoundDetector, load_found, read_head
    from backdrop.saliency.features.option_names import file_of, path_and_options
    from backdrop.saliency.features.token_features import open_backbone

    text, options = path_and_options(name.removeprefix(PREFIX), OPTIONS)
    is_single, has_solver = "single" in options, "solver" in options
    if Path(text).is_dir():
        if not (Path(text) / DETECTOR_FILE).is_file():
            raise UserError(f"{text} holds no {DETECTOR_FILE}: run the same `saliency train` again to finish it")
        return load_found(Path(text), device, is_single=is_single, has_solver=has_solver)
    weights, comma, head = (text, "", "") if Path(text).is_file() else text.rpartition(",")
    backbone = open_backbone(file_of(weights or text, OPTIONS), device)
    trained = read_head(Path(head), backbone.network.shape.width) if comma else None
    return FoundDetector(backbone, trained, is_single=is_single, has_solver=has_solver)
