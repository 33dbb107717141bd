"""Which rows a process visits in an epoch, and in what order: the same for every loader."""

from dataclasses import dataclass

import numpy as np

from backdrop.errors import UserError
from backdrop.pipeline.views.row_order import quasi_random_order, random_order


@dataclass(frozen=True)
class Share:
    """The part of every epoch that one process takes.

    rank, world_size: this process among all. drop_last: leave out a last batch that is not full.
    """

    rank: int
    world_size: int
    drop_last: bool


def check_share(batch_size: int, rank: int, world_size: int, drop_last: bool) -> Share:
    """Return the share; UserError where batch size or rank is out of range."""
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1")
    if not 0 <= rank < world_size:
        raise UserError(f"rank is {rank} of {world_size}; allowed: 0 to world_size - 1")
    return Share(rank, world_size, drop_last)


def subset(rows: np.ndarray, trainable: np.ndarray, num_rows: int) -> np.ndarray:
    """Return those of the wanted rows that can be trained on, sorted and unique.

    Args: rows: integers, wanted. trainable: int32, sorted rows that have a mask. num_rows: of the whole store.
    Raises: UserError where a row does not exist.
    """
    rows = np.asarray(rows)
    if rows.size and (rows.min() < 0 or rows.max() >= num_rows):
        raise UserError(f"rows {rows.min()} .. {rows.max()} are asked for; there are rows 0 .. {num_rows - 1}")
    return np.intersect1d(rows, trainable).astype(np.int32)


def epoch_rows(rows: np.ndarray, share: Share, order: str, *, seed: int, epoch: int) -> np.ndarray:
    """Return the rows one process visits in an epoch, in order; processes share no row.

    Rank r takes every world_size-th row of the common order, so that batch k of all ranks together is batch k of one
    process with a batch world_size times as large. With drop_last all ranks get equally many rows.

    It takes 4 bytes a row of all of them while it is made, and 4 of this process's to keep.

    Args: rows: int32 (N,), the rows to visit. share: whose. order: one of `batch.ORDERS`. seed, epoch: its key.
    Returns: int32.
    """
    places = (quasi_random_order if order == "quasi-random" else random_order)(seed, epoch, len(rows))
    if share.drop_last:
        places = places[: len(places) // share.world_size * share.world_size]
    return rows[places[share.rank :: share.world_size]]


def num_batches(num_rows: int, share: Share, batch_size: int) -> int:
    """Return the batches per epoch of one process."""
    if share.drop_last:
        return num_rows // share.world_size // batch_size
    return -(-len(range(share.rank, num_rows, share.world_size)) // batch_size)


def too_few_rows(num_rows: int, share: Share, batch_size: int) -> str:
    """Return the message for a loader without a single batch."""
    return (
        f"{num_rows} rows over {share.world_size} processes do not fill one batch of {batch_size}; "
        "choose a smaller batch size"
    )
