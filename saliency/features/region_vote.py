"""SelfMask's vote: of many regions of one image, the one that the others agree with most.

Shin et al. 2022, section 3.2. Shapes: K regions, H rows, W columns.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Vote:
    """kept: numbers of the regions that took part. score: of each of these, its IoUs with all of them, summed.

    winner: number of the region with the highest score, the first of equals.
    """

    kept: np.ndarray
    score: np.ndarray
    winner: int


def vote(regions_KHW: np.ndarray) -> Vote | None:
    """Choose among regions.

    One that reaches both the top and the bottom of the image, or both its left and its right, is taken for background;
    where all do, all take part, and a background may win.

    Args: regions_KHW: bool. Empty ones take no part.
    Returns: None where there is none.
    """
    there = np.flatnonzero(regions_KHW.any(axis=(1, 2)))
    spans = np.array([_spans(regions_KHW[number]) for number in there], bool)
    kept = there if spans.all() else there[~spans]
    if not len(kept):
        return None
    flat_KP = regions_KHW[kept].reshape(len(kept), -1).astype(np.float32)
    shared_KK = (flat_KP @ flat_KP.T).astype(np.float64)
    area_K = np.diag(shared_KK)
    score = (shared_KK / (area_K[:, None] + area_K - shared_KK)).sum(axis=1)
    return Vote(kept=kept, score=score, winner=int(kept[np.argmax(score)]))


def _spans(region_HW: np.ndarray) -> bool:
    is_between_rows = region_HW[0].any() and region_HW[-1].any()
    return bool(is_between_rows or (region_HW[:, 0].any() and region_HW[:, -1].any()))
