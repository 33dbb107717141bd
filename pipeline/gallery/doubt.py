"""How likely the mask of a row is wrong, by what a store knows of it: what the gallery shows first.

These are rules of thumb that put rows in an order, no probabilities: a mask of next to nothing or next to everything,
one that reaches three borders of its image or is scattered over it, and one that another detector's masks contradict.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from backdrop.devices import num_cores
from backdrop.errors import UserError
from backdrop.progress import stage_bar
from backdrop.stores.format.reader import Store
from backdrop.stores.format.schema import Status

# Fractions of the image below and above which a mask is a sliver or takes in the scene.
TINY, HUGE = 0.02, 0.7
# Fraction of its own bounding box below which a mask is specks or a thread.
SCATTERED = 0.2
# Borders of the image that an object rarely reaches all at once.
MANY_BORDERS = 3
# IoU with the other masks below which two detectors have found different things.
DISAGREEING = 0.5


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is looked at of rows.

    status: uint8 (N,), `Status`. fraction: float (N,), foreground pixels / pixels. box: int (N, 4), (top, left, height,
    width) of the foreground in px. size: int (N, 2), height and width of the image. iou: float (N,), with another
    detector's masks, NaN where there is none; None = no other detector was given.
    """

    status: np.ndarray
    fraction: np.ndarray
    box: np.ndarray
    size: np.ndarray
    iou: np.ndarray | None = None


def facts_of(store: Store, rows: np.ndarray, other: Store | None = None) -> Facts:
    """Return what is known of rows. Args: rows: int64 (N,). other: masks of another detector, see `ious`."""
    return Facts(
        status=store.status[rows],
        fraction=store.foreground_fraction[rows],
        box=store.box[rows],
        size=np.stack([store.height[rows], store.width[rows]], axis=1),
        iou=None if other is None else ious(store, other, rows.tolist()),
    )


class Doubts:
    """What speaks against the masks of rows.

    value: float32 (N,) in [0, 1], 0 = nothing; several doubts add up as independent ones do.
    """

    def __init__(self, facts: Facts) -> None:
        """Apply every rule. Args: facts: of the rows."""
        self._facts, self._scores = facts, _scores(facts)
        self._borders, self._filled = _borders(facts), _filled(facts)
        self.value = 1 - np.prod([1 - score for score in self._scores.values()], axis=0)

    def reasons(self, at: int) -> list[str]:
        """Return in words what speaks against a row's mask. Args: at: its place among the rows."""
        facts = self._facts
        words = {
            "tiny": lambda: "next to nothing is foreground",
            "huge": lambda: "nearly everything is foreground",
            "borders": lambda: f"reaches {self._borders[at]} borders",
            "scattered": lambda: f"scattered, {self._filled[at]:.0%} of its box",
            "disagreeing": lambda: "" if facts.iou is None else f"IoU {facts.iou[at]:.2f} with the other masks",
        }
        # The status of a row without a mask, or with an empty one, stands beside its name already.
        return [said() for name, said in words.items() if name in self._scores and self._scores[name][at] > 0]


def _scores(facts: Facts) -> dict[str, np.ndarray]:
    """Each rule's doubt, float32 (N,) in [0, 1]."""
    is_ok = facts.status == Status.OK
    scores = {
        # No training reads them, and there is nothing to look at: after what a look can settle.
        "no mask": np.where(np.isin(facts.status, [Status.DECODE_ERROR, Status.MASK_ERROR]), 0.5, 0.0),
        "nothing or all": np.where(np.isin(facts.status, [Status.NO_FOREGROUND, Status.ALL_FOREGROUND]), 0.95, 0.0),
        "tiny": is_ok * _beyond(TINY - facts.fraction, TINY),
        "huge": is_ok * _beyond(facts.fraction - HUGE, 1 - HUGE),
        "borders": is_ok * np.where(_borders(facts) >= MANY_BORDERS, 0.3 * (_borders(facts) - MANY_BORDERS + 1), 0.0),
        "scattered": is_ok * 0.8 * _beyond(SCATTERED - _filled(facts), SCATTERED),
    }
    if facts.iou is not None:
        scores["disagreeing"] = np.where(facts.iou < DISAGREEING, 0.9 * (1 - facts.iou), 0.0)
    return {name: score.astype(np.float32) for name, score in scores.items()}


def _beyond(excess: np.ndarray, most: float) -> np.ndarray:
    """0 up to a limit, from 0.4 just beyond it to 0.9 at the most that there can be."""
    return np.where(excess > 0, 0.4 + 0.5 * excess / most, 0.0)


def _borders(facts: Facts) -> np.ndarray:
    """Borders of its image that a mask reaches, int (N,), 0 to 4."""
    top, left, height, width = facts.box.T
    is_there = (height > 0) & (width > 0)
    reached = [top == 0, left == 0, top + height == facts.size[:, 0], left + width == facts.size[:, 1]]
    return np.sum([is_there & one for one in reached], axis=0)


def _filled(facts: Facts) -> np.ndarray:
    """Fraction of its bounding box that a mask fills, float (N,); 1 where there is none."""
    in_box = facts.box[:, 2].astype(np.float64) * facts.box[:, 3]
    in_mask = facts.fraction * facts.size.astype(np.float64).prod(axis=1)
    return np.divide(in_mask, in_box, out=np.ones(len(in_box)), where=in_box > 0)


def ious(store: Store, other: Store, rows: Sequence[int]) -> np.ndarray:
    """Intersection over union of rows' masks with those that another store has under the same keys.

    Returns: float (N,), NaN where one of them has no mask of that size; 1 where both are empty.
    Raises: UserError: the other store is of other images.
    """
    if [other.num_rows, *_ends(other)] != [store.num_rows, *_ends(store)]:
        raise UserError(f"{other.path} is a store of other images than {store.path}: give one of the same data set")
    with ThreadPoolExecutor(num_cores()) as threads:
        found = threads.map(lambda row: _iou(store, other, row), rows)
        return np.fromiter(stage_bar(found, total=len(rows), stage="compare masks", unit="row"), np.float64, len(rows))


def _ends(store: Store) -> list[str]:
    return [store.dataset, store.key(0), store.key(store.num_rows - 1)]


def _iou(store: Store, other: Store, row: int) -> float:
    ours, theirs = store.mask(row), other.mask(row)
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return float("nan")
    union = np.count_nonzero(ours | theirs)
    return np.count_nonzero(ours & theirs) / union if union else 1.0
