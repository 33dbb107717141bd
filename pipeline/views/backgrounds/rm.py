"""BG_RM: one grey level, drawn per image, in place of the background (Ryali et al. 2021, section 2.2)."""

from torch import Tensor

NEEDS_DONOR = False
HAS_NEGATIVE = False
MOVES_FOREGROUND = False
PROBABILITY = 0.2


def replacement(donor_BCHW: Tensor | None, level_BCHW: Tensor) -> Tensor | None:
    """Return the grey levels as images.

    Args: donor_BCHW: ignored. level_BCHW: float (B, 3, 1, 1), grey levels drawn in [0, 1], normalised.
    Returns: float (B, 3, 1, 1).
    """
    return level_BCHW
