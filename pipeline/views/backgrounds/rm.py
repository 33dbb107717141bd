"""BG_RM: one grey level, drawn per image, in place of the background (Ryali et al. 2021, section 2.2)."""

from torch import Tensor

NEEDS_DONOR = False
HAS_NEGATIVE = False


def replacement(donor_BCHW: Tensor | None, grey_B: Tensor) -> Tensor | None:
    """Return the grey levels as images.

    Args: donor_BCHW: ignored. grey_B: float (B,) in [0, 1]. Returns: float (B, 1, 1, 1).
    """
    return grey_B[:, None, None, None]
