"""`masks:DIR`: a folder of maps made elsewhere."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backdrop.saliency.detector import Detector

PREFIX = "masks:"
HELP = (
    "masks:DIR (PNG masks made elsewhere, 255 = foreground; else masks:DIR:instances, :alpha, :red, :green, :blue "
    "or :inverted)"
)


def names() -> tuple[str, ...]:
    """Return none: folders are without end."""
    return ()


def serves(name: str) -> bool:
    """Tell whether it begins with `masks:`."""
    return name.startswith(PREFIX)


def open(name: str, device: str | None) -> "Detector":
    """Open the folder; `device` is not used.

    Raises: UserError: there is none, or its maps are of another kind than the name says.
    """
    from backdrop.saliency.mask_folder import open_mask_folder

    return open_mask_folder(name.removeprefix(PREFIX))
