"""`masks:DIR`: a folder of maps made elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backdrop.saliency.detector import Detector

PREFIX = "masks:"
HELP = "masks:DIR (PNG masks made elsewhere, 255 = foreground)"


def names() -> tuple[str, ...]:
    """Return none: folders are without end."""
    return ()


def serves(name: str) -> bool:
    """Tell whether it begins with `masks:`."""
    return name.startswith(PREFIX)


def open(name: str, device: str | None) -> "Detector":
    """Open the folder; `device` is not used.

    Raises: UserError: there is none, or its maps seem to hold 0 and 1 instead of 0 and 255.
    """
    from backdrop.saliency.mask_folder import MaskFolder

    return MaskFolder(Path(name.removeprefix(PREFIX)))
