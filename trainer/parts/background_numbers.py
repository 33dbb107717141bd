"""With which probability a method draws a background: as its paper says, else as the background's file does."""

from collections.abc import Mapping
from dataclasses import dataclass

from backdrop.pipeline.views.backgrounds import BACKGROUNDS


@dataclass(frozen=True, kw_only=True)
class BackgroundNumbers:
    """What decides how often a method sees a background, and how much foreground a view then has to hold.

    probability: p_pos, of a view, in [0, 1]. negative_probability: p_neg, of extra negatives with the query's
    background, in [0, 1]. min_foreground: FG_min, the least share of the image's foreground in a crop, in [0, 1].
    """

    probability: float
    negative_probability: float = 0.0
    min_foreground: float = 0.0


def numbers_of(background: str, stated: Mapping[str, BackgroundNumbers]) -> BackgroundNumbers:
    """Return a method's numbers for a background.

    Args: background: a member of BACKGROUNDS. stated: the numbers of the method's paper, by background; any other one
        gets those that its own file states, and no constraint on the crops.
    Raises: UserError: there is no such background.
    """
    if background in stated:
        return stated[background]
    file = BACKGROUNDS.load(background)
    return BackgroundNumbers(
        probability=file.PROBABILITY, negative_probability=file.PROBABILITY if file.HAS_NEGATIVE else 0.0
    )
