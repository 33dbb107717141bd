"""BG_Random: the tiled background of another image in place of the own one (Ryali et al. 2021, section 2.2).

Paper: the other image is one of the same mini-batch. Ours is drawn from the whole data set, so that a view does not
depend on the batch size; a batch is a random sample of the data set anyway.
"""

from torch import Tensor

NEEDS_DONOR = True
HAS_NEGATIVE = False
MOVES_FOREGROUND = False
PROBABILITY = 0.2


def replacement(donor_BCHW: Tensor | None, level_BCHW: Tensor) -> Tensor | None:
    """Return the donors' backgrounds.

    Args: donor_BCHW: float (B, 3, H, W), cropped, altered and normalised like the views. level_BCHW: ignored.
    Returns: float (B, 3, H, W).
    """
    return donor_BCHW
