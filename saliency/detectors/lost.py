"""`lost:WEIGHTS`: LOST on the features of a ViT with published self-supervised weights; no training."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backdrop.saliency.detector import Detector

PREFIX = "lost:"
OPTIONS = ("solver", "published")
HELP = (
    "lost:WEIGHTS (LOST on a published ViT: what is like the patch that is like the fewest others; :solver, :published)"
)


def names() -> tuple[str, ...]:
    """Return none: files are without end."""
    return ()


def serves(name: str) -> bool:
    """Tell whether it begins with `lost:`."""
    return name.startswith(PREFIX)


def open(name: str, device: str | None) -> "Detector":
    """Load the network.

    Raises: UserError: no such file, weights of no ViT, or an impossible option.
    """
    from backdrop.saliency.features.lost_detector import LostDetector, LostSettings
    from backdrop.saliency.features.option_names import file_of, path_and_options
    from backdrop.saliency.features.token_features import open_backbone

    text, options = path_and_options(name.removeprefix(PREFIX), OPTIONS)
    settings = LostSettings(has_corner_rule="published" not in options, has_solver="solver" in options)
    return LostDetector(open_backbone(file_of(text, OPTIONS), device), settings)
