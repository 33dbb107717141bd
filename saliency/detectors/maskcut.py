"""`maskcut:WEIGHTS`: MaskCut on the features of a ViT with published self-supervised weights; no training."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backdrop.saliency.detector import Detector

PREFIX = "maskcut:"
OPTIONS = ("solver", "tau=", "objects=")
HELP = "maskcut:WEIGHTS (MaskCut on a published ViT: up to three objects, as one mask; :solver, :objects=5)"


def names() -> tuple[str, ...]:
    """Return none: files are without end."""
    return ()


def serves(name: str) -> bool:
    """Tell whether it begins with `maskcut:`."""
    return name.startswith(PREFIX)


def open(name: str, device: str | None) -> "Detector":
    """Load the network.

    Raises: UserError: no such file, weights of no ViT, or an impossible option.
    """
    from backdrop.saliency.features.mask_cut_detector import MaskCutDetector, MaskCutSettings
    from backdrop.saliency.features.option_names import file_of, number_of, path_and_options, whole_number_of
    from backdrop.saliency.features.token_features import open_backbone

    text, options = path_and_options(name.removeprefix(PREFIX), OPTIONS)
    settings = MaskCutSettings(
        tau=number_of(options, "tau", MaskCutSettings.tau),
        num_objects=whole_number_of(options, "objects", MaskCutSettings.num_objects),
        has_solver="solver" in options,
    )
    return MaskCutDetector(open_backbone(file_of(text, OPTIONS), device), settings)
