"""`selfmask:WEIGHTS,WEIGHTS,...`: SelfMask's vote among what several published networks see; no training."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backdrop.saliency.detector import Detector

PREFIX = "selfmask:"
OPTIONS = ("solver",)
HELP = "selfmask:WEIGHTS,WEIGHTS,... (SelfMask's vote among the parts that published ViTs and ResNet-50s see; :solver)"


def names() -> tuple[str, ...]:
    """Return none: files are without end."""
    return ()


def serves(name: str) -> bool:
    """Tell whether it begins with `selfmask:`."""
    return name.startswith(PREFIX)


def open(name: str, device: str | None) -> "Detector":
    """Load the networks.

    Raises: UserError: no such file, weights of no ViT and no ResNet-50, or an impossible option.
    """
    from backdrop.saliency.features.feature_maps import open_map_backbone
    from backdrop.saliency.features.option_names import file_of, path_and_options
    from backdrop.saliency.features.self_mask_detector import SelfMaskDetector, SelfMaskSettings

    text, options = path_and_options(name.removeprefix(PREFIX), OPTIONS)
    files = [file_of(part, OPTIONS) for part in text.split(",")]
    return SelfMaskDetector(
        [open_map_backbone(file, device) for file in files], SelfMaskSettings(has_solver="solver" in options)
    )
