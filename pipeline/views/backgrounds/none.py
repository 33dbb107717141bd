"""No background augmentation: the baseline."""

from torch import Tensor

NEEDS_DONOR = False
HAS_NEGATIVE = False
MOVES_FOREGROUND = False
PROBABILITY = 0.0


def replacement(donor_BCHW: Tensor | None, level_BCHW: Tensor) -> Tensor | None:
    """Return None: backgrounds stay.

    Args: donor_BCHW: ignored, float (B, 3, H, W). level_BCHW: ignored, float (B, 3, 1, 1).
    """
    return None
