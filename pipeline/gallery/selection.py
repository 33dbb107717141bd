"""Which rows of a store go onto a page that is kept as files."""

import numpy as np

from backdrop.errors import UserError
from backdrop.pipeline.gallery.content import built_rows
from backdrop.pipeline.gallery.doubt import Doubts, facts_of
from backdrop.stores.format.reader import Store
from backdrop.stores.format.schema import Status

DEFAULT_ROWS = 2000
# Of the rows on the page, what a rare status gets at least, where it has so many: a page without the three images that
# could not be read would hide what one looks for.
_LEAST_SHARE = 0.1
# Of the rows on the page, those whose masks are most likely wrong of all of the store's.
_WORST_SHARE = 0.25


def parse_num_rows(text: str | None) -> int | None:
    """Read what --rows was given: a number, or "all", which is None here.

    Raises: UserError: it is neither.
    """
    if text is None:
        return DEFAULT_ROWS
    if text == "all":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UserError(f"--rows {text}: give how many rows to show, 1 or more, or 'all'")
    return int(text)


def choose_rows(store: Store, num_rows: int | None) -> np.ndarray:
    """Choose rows: a quarter those most likely wrong, the others spread evenly over the store.

    Those are, apart from rare ones, in proportion to their status.

    Of a store that lies elsewhere they are taken from as few parts as hold them, for whole parts are fetched.

    Args:
        store: an open store.
        num_rows: how many at most; None = all.

    Returns:
        int64, ascending.
    """
    rows = built_rows(store)
    if num_rows is None or num_rows >= len(rows):
        return rows
    if store.is_remote:
        num_parts = min(store.num_parts, -(-num_rows // store.part_rows))
        parts = np.linspace(0, store.num_parts - 1, num_parts).round().astype(np.int64)
        rows = rows[np.isin(rows // store.part_rows, parts)]
    worst = _worst(store, rows, int(num_rows * _WORST_SHARE))
    rows = np.setdiff1d(rows, worst)
    kinds = [rows[store.status[rows] == status] for status in np.unique(store.status[rows])]
    counts = shares(np.array([len(kind) for kind in kinds]), num_rows - len(worst))
    chosen = [
        kind[np.linspace(0, len(kind) - 1, count).round().astype(np.int64)]
        for kind, count in zip(kinds, counts.tolist(), strict=True)
    ]
    return np.sort(np.concatenate([worst, *chosen]))


def _worst(store: Store, rows: np.ndarray, most: int) -> np.ndarray:
    """The rows with masks against which most speaks. Args: rows: to choose from. most: how many, at most."""
    rows = rows[store.status[rows] == Status.OK]  # the others are found by their status
    doubt = Doubts(facts_of(store, rows)).value
    return rows[np.argsort(-doubt, kind="stable")[: min(most, np.count_nonzero(doubt))]]


def shares(sizes: np.ndarray, num_wanted: int) -> np.ndarray:
    """How many to take of groups of these sizes: in proportion, but of small groups a tenth of all where they have it.

    Args:
        sizes: int (groups,).
        num_wanted: in all; where it is too small for all groups, the largest get nothing more than is left.

    Returns:
        int64 (groups,), never more than `sizes`, in all min(num_wanted, sizes.sum()).
    """
    num_wanted = min(num_wanted, int(sizes.sum()))
    in_proportion = num_wanted * sizes // sizes.sum()
    counts = np.minimum(sizes, np.maximum(in_proportion, int(num_wanted * _LEAST_SHARE)))
    # What rounding and the rare ones added or left over is settled with the largest groups.
    for group in np.argsort(-sizes, kind="stable"):
        counts[group] = np.clip(counts[group] + num_wanted - counts.sum(), 0, sizes[group])
    return counts
