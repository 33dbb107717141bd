"""No background augmentation: the baseline."""

from torch import Tensor

NEEDS_DONOR = False
HAS_NEGATIVE = False


def replacement(donor_BCHW: Tensor | None, grey_B: Tensor) -> Tensor | None:
    """Return None: backgrounds stay.

    Args: donor_BCHW: ignored, float (B, 3, H, W). grey_B: ignored, float (B,).
    """
    return None
