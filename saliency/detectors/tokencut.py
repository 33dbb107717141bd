"""`tokencut:WEIGHTS`: TokenCut on the features of a ViT with published self-supervised weights; no training."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backdrop.saliency.detector import Detector

PREFIX = "tokencut:"
OPTIONS = ("solver", "published", "tau=")
HELP = (
    "tokencut:WEIGHTS (TokenCut on a published ViT of DINO, DINOv2, MoCo-v3 or MAE; WEIGHTS:solver draws the mask to "
    "the image's edges, see saliency/DETECTORS.md)"
)


def names() -> tuple[str, ...]:
    """Return none: files are without end."""
    return ()


def serves(name: str) -> bool:
    """Tell whether it begins with `tokencut:`."""
    return name.startswith(PREFIX)


def open(name: str, device: str | None) -> "Detector":
    """Load the network.

    Raises: UserError: no such file, weights of no ViT, or an impossible option.
    """
    from backdrop.saliency.features.option_names import file_of, number_of, path_and_options
    from backdrop.saliency.features.token_cut_detector import TokenCutDetector, TokenCutSettings
    from backdrop.saliency.features.token_features import open_backbone

    text, options = path_and_options(name.removeprefix(PREFIX), OPTIONS)
    settings = TokenCutSettings(
        tau=number_of(options, "tau", TokenCutSettings.tau),
        has_corner_rule="published" not in options,
        has_solver="solver" in options,
    )
    return TokenCutDetector(open_backbone(file_of(text, OPTIONS), device), settings)
