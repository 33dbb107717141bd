"""The order in which an epoch visits its rows: by each row's own random key, all rows or window by window.

Rows are sorted by their keys in time that grows with their number alone: first to some 2^15 rows by the keys' highest
bits, in the order of the rows, then each of those likewise where a cache holds it. 100 million rows take seconds and
four bytes each.
"""

from typing import NamedTuple

import numpy as np

from backdrop.kernels import follow_sources, kernel
from backdrop.pipeline.views import random_streams
from backdrop.pipeline.views.random_streams import BLOCK_ORDER, NO_VIEW, ROW_ORDER, bits

# Rows that are sorted within a cache, as a power of two, and rows that share a bucket there.
_LOG2_SLICE, _LOG2_BUCKET = 15, 3
# The windows of quasi-random order: so many rows that follow each other in the file, from so many places of it.
BLOCK_ROWS, WINDOW_BLOCKS = 32, 256
WINDOW_ROWS = BLOCK_ROWS * WINDOW_BLOCKS


class _Keys(NamedTuple):
    """Whose keys the rows are sorted by."""

    seed: int
    epoch: int
    draw: int


class _SortMemory(NamedTuple):
    """What sorting a slice writes to."""

    keys: np.ndarray  # uint64 (>= rows,)
    sorted_keys: np.ndarray  # uint64 (>= rows,)
    sorted_rows: np.ndarray  # int32 (>= rows,)
    ends: np.ndarray  # int64 (>= buckets,)


def row_order(seed: int, epoch: int, num_rows: int, draw: int = ROW_ORDER) -> np.ndarray:
    """Return the order in which an epoch visits its rows: a permutation sorted by each row's own random key.

    Args: seed, epoch, draw: the key. num_rows: rows of the dataset.
    Returns: int64 (num_rows,), a permutation of 0 .. num_rows - 1.
    """
    return random_order(seed, epoch, num_rows, draw).astype(np.int64)


def random_order(seed: int, epoch: int, num_rows: int, draw: int = ROW_ORDER) -> np.ndarray:
    """Return `row_order` in half of the memory: int32 (num_rows,)."""
    order, keys = np.empty(num_rows, np.int32), _Keys(seed, epoch, draw)
    log2_slices = max(1, num_rows.bit_length() - _LOG2_SLICE)
    ends = np.zeros(1 << log2_slices, np.int64)
    largest = int(_scatter(order, keys, log2_slices, ends))
    _sort_slices(order, keys, log2_slices, ends, _sort_memory(largest))
    return order


def quasi_random_order(seed: int, epoch: int, num_rows: int) -> np.ndarray:
    """Return an order that stays within windows of a file.

    Blocks of BLOCK_ROWS neighbours are put in random order, WINDOW_BLOCKS of them in turn are a window, and the rows of
    a window are in random order.

    Args: seed, epoch: the key. num_rows: rows of the dataset.
    Returns: int32 (num_rows,), a permutation of 0 .. num_rows - 1.
    """
    blocks = random_order(seed, epoch, -(-num_rows // BLOCK_ROWS), BLOCK_ORDER)
    order = np.empty(num_rows, np.int32)
    _sort_windows(order, _Keys(seed, epoch, ROW_ORDER), blocks, _sort_memory(WINDOW_ROWS))
    return order


def _sort_memory(num_rows: int) -> _SortMemory:
    num_buckets = max(2, 1 << max(0, num_rows.bit_length() - _LOG2_BUCKET))
    keys, sorted_keys = np.empty((2, num_rows), np.uint64)
    return _SortMemory(keys, sorted_keys, np.empty(num_rows, np.int32), np.empty(num_buckets, np.int64))


@kernel
def _starts(counts):
    """Turn the sizes of buckets into where each begins; returns the largest size."""
    total, largest = 0, 0
    for number in range(counts.size):
        count = counts[number]
        largest = max(largest, count)
        counts[number] = total
        total += count
    return largest


@kernel
def _scatter(order, keys, log2_slices, ends):
    """Write all rows by the highest bits of their keys; ends: written, where each slice ends. Returns the largest."""
    shift = np.uint64(64 - log2_slices)
    for row in range(order.size):
        ends[np.int64(bits(keys.seed, keys.epoch, row, NO_VIEW, keys.draw) >> shift)] += 1
    largest = _starts(ends)
    for row in range(order.size):
        number = np.int64(bits(keys.seed, keys.epoch, row, NO_VIEW, keys.draw) >> shift)
        order[ends[number]] = row
        ends[number] += 1
    return largest


@kernel
def _sort_slices(order, keys, log2_slices, ends, memory):
    """Sort each slice of `_scatter`."""
    begin = 0
    for number in range(ends.size):
        _sort(order[begin : ends[number]], keys, log2_slices, memory)
        begin = ends[number]


@kernel
def _sort(rows, keys, num_equal_bits, memory):
    """Sort rows by their keys, whose highest bits are equal; rows of equal keys stay in their order."""
    log2_buckets = 1
    while (rows.size >> (log2_buckets + 1 + _LOG2_BUCKET)) > 0:
        log2_buckets += 1
    ends = memory.ends[: 1 << log2_buckets]
    known, shift = np.uint64(num_equal_bits), np.uint64(64 - log2_buckets)
    ends[:] = 0
    for k in range(rows.size):
        memory.keys[k] = bits(keys.seed, keys.epoch, rows[k], NO_VIEW, keys.draw)
        ends[np.int64((memory.keys[k] << known) >> shift)] += 1
    _starts(ends)
    for k in range(rows.size):
        bucket = np.int64((memory.keys[k] << known) >> shift)
        memory.sorted_keys[ends[bucket]] = memory.keys[k]
        memory.sorted_rows[ends[bucket]] = rows[k]
        ends[bucket] += 1
    _insert(memory.sorted_keys[: rows.size], memory.sorted_rows)
    rows[:] = memory.sorted_rows[: rows.size]


@kernel
def _insert(keys, rows):
    """Sort what is sorted but for a few places."""
    for k in range(1, keys.size):
        key, row, at = keys[k], rows[k], k
        while at > 0 and keys[at - 1] > key:
            keys[at], rows[at] = keys[at - 1], rows[at - 1]
            at -= 1
        keys[at], rows[at] = key, row


@kernel
def _sort_windows(order, keys, blocks, memory):
    """Write the rows of each window's blocks and sort them."""
    at = 0
    for first in range(0, blocks.size, WINDOW_BLOCKS):
        begin = at
        for block in blocks[first : first + WINDOW_BLOCKS]:
            for row in range(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, order.size)):
                order[at] = row
                at += 1
        _sort(order[begin:at], keys, 0, memory)


follow_sources(__name__, random_streams)
