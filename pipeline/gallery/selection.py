"""Which rows of a store go onto a page that is kept as files."""

import numpy as np

from backdrop.errors import UserError
from backdrop.pipeline.gallery.content import built_rows
from backdrop.stores.format.reader import Store

DEFAULT_ROWS = 2000
# Of the rows on the page, what a rare status gets at least, where it has so many: a page without the three images that
# could not be read would hide what one looks for.
_LEAST_SHARE = 0.1


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
    """Choose rows, spread evenly over the store and, apart from rare ones, in proportion to their status.

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
    kinds = [rows[store.status[rows] == status] for status in np.unique(store.status[rows])]
    counts = shares(np.array([len(kind) for kind in kinds]), num_rows)
    chosen = [
        kind[np.linspace(0, len(kind) - 1, count).round().astype(np.int64)]
        for kind, count in zip(kinds, counts.tolist(), strict=True)
    ]
    return np.sort(np.concatenate(chosen))


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
