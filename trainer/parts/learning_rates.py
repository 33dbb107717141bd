"""Shapes of a learning rate over a training, as fractions of its peak: of the position alone, without state.

Positions are epochs or iterations, whichever a training counts, and may lie between two of them.
"""

import math
from collections.abc import Sequence


def linear_warmup(position: float, length: float, start: float = 0.0) -> float:
    """Return the fraction within a linear warm-up (Goyal et al. 2017, section 2.2).

    Args: position: 0 <= position < length. length: of the warm-up. start: fraction at position 0.
    """
    return start + (1.0 - start) * position / length


def half_cosine(progress: float, final: float = 0.0) -> float:
    """Return the fraction on half a cosine (Loshchilov and Hutter 2017, equation 5, without restarts).

    Args: progress: 0 at the peak, 1 at the end. final: fraction at the end.
    """
    return final + (1.0 - final) * (1.0 + math.cos(math.pi * progress)) / 2.0


def num_passed(position: float, milestones: Sequence[float]) -> int:
    """Return how many of the positions at which a rate falls are reached."""
    return sum(position >= milestone for milestone in milestones)
