"""BG_Swaps: random backgrounds in query and key, and one extra negative that shares the query's background.

Ryali et al. 2021, section 2.2 and footnote 3. The negative itself is built by `compositing.extra_negative`.
"""

from torch import Tensor

NEEDS_DONOR = True
HAS_NEGATIVE = True
MOVES_FOREGROUND = False
PROBABILITY = 0.2


def replacement(donor_BCHW: Tensor | None, level_BCHW: Tensor) -> Tensor | None:
    """Return the donors' backgrounds, as BG_Random does.

    Args: donor_BCHW: float (B, 3, H, W), cropped, altered and normalised like the views. level_BCHW: ignored.
    Returns: float (B, 3, H, W).
    """
    return donor_BCHW
