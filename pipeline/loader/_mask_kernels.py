"""Cut a box out of a mask, resize it to a square by nearest centre and flip it, from edges to bits.

A mask is kept as its edges, the starts and ends of its runs. From each edge on the bits of a row are the others: a row
of the result is the exclusive or of tabulated rows, bits set from some column on, one for each edge of the mask's row.
Edges between the same two centres undo each other, those beside the box lie on its sides.
"""

from typing import NamedTuple

import numpy as np

from backdrop.kernels import follow_sources, kernel
from backdrop.pipeline.beton import plane_kernels
from backdrop.pipeline.beton.plane_kernels import copy_row

# Words of a row of the result, and edges, that are taken together.
_WORDS, _EDGES = 4, 4
_ZERO, _ONE = np.uint64(0), np.uint64(1)


class Edges(NamedTuple):
    """A mask as a .beton has it: start and end of each run in the bits of all rows, see `scene.encode_runs`."""

    edge: np.ndarray  # uint32 (2 N,), ascending
    first: np.ndarray  # int64 (>= H + 1,), number of edges before each row
    height: int
    row_bits: int  # of a row: 64 ceil(W / 64)


class Window(NamedTuple):
    """A box of a mask, in pixels; it may reach beyond the mask."""

    top: int
    left: int
    height: int
    width: int
    is_flipped: bool


class MaskMemory(NamedTuple):
    """What cutting masks writes on its way, for one thread."""

    first: np.ndarray  # int64 (H + 1,), of `Edges`
    tail: np.ndarray  # uint64 (64 ceil(W / 64) + 1, words), for each column of a mask the row that is set from there on
    line: np.ndarray  # uint64 (words,), a row of the result


def make_mask_memory(height: int, width: int, side: int) -> MaskMemory:
    """Allocate for masks of up to height x width pixels and views of up to `side` pixels."""
    num_words = -(-side // (64 * _WORDS)) * _WORDS
    return MaskMemory(
        first=np.zeros(height + 1, np.int64),
        tail=np.zeros((64 * ((width + 63) // 64) + 1, num_words), np.uint64),
        line=np.zeros(num_words, np.uint64),
    )


@kernel
def edges_of(runs: np.ndarray, height: int, width: int, first: np.ndarray) -> Edges:
    """A mask of height x width pixels from its runs, uint32 (2 N,), that `expand_runs` found right; fills `first`."""
    row_bits = 64 * ((width + 63) // 64)
    at = 0
    for y in range(height + 1):
        while at < runs.size and runs[at] < y * row_bits:
            at += 1
        first[y] = at
    return Edges(runs, first, height, row_bits)


@kernel
def _toggle(line, x):
    """Turn pixel x of a row round: byte after byte, in each the leftmost pixel highest."""
    line[x >> 6] ^= _ONE << np.uint64((x & 63) ^ 7)


@kernel(error_model="numpy")
def _fill_tails(window, first, end, side, memory):
    """Tabulate for columns first .. end of a mask the row of the result that is set from there on."""
    tail, line = memory.tail, memory.line
    line[:] = _ZERO
    for x in range(side):
        _toggle(line, x)
    column = first
    for x in range(side):
        source = min(window.left + ((2 * x + 1) * window.width) // (2 * side), end)
        while column <= source:
            for w in range(line.size):
                tail[column, w] = line[w]
            column += 1
        _toggle(line, side - 1 - x if window.is_flipped else x)
    while column <= end:
        for w in range(line.size):
            tail[column, w] = _ZERO
        column += 1


@kernel
def _column(edge, k, row_start, first, end):
    return np.uint64(min(max(np.int64(edge[np.uint64(k)]) - row_start, first), end))


@kernel
def _cut_row(mask, y, first, end, memory):
    """Make a row of the result in memory.line out of the columns first .. end - 1 of a mask's row.

    Edges are taken four at a time, so that the number of turns hardly changes from row to row: those of the rows above
    and below, of runs that go on, lie on the sides; past the last edge that one is taken twice.
    """
    edge, tail, line, row_start = mask.edge, memory.tail, memory.line, y * mask.row_bits
    start, stop, last = mask.first[y] & ~1, mask.first[y + 1], mask.edge.size - 1
    for w in range(0, line.size, _WORDS):
        w0, w1, w2, w3 = np.uint64(w), np.uint64(w + 1), np.uint64(w + 2), np.uint64(w + 3)
        a, b, c, d = _ZERO, _ZERO, _ZERO, _ZERO
        for k in range(start, stop, _EDGES):
            p = _column(edge, k, row_start, first, end)
            q = _column(edge, k + 1, row_start, first, end)
            r = _column(edge, min(k + 2, last), row_start, first, end)
            s = _column(edge, min(k + 3, last), row_start, first, end)
            a ^= tail[p, w0] ^ tail[q, w0] ^ tail[r, w0] ^ tail[s, w0]
            b ^= tail[p, w1] ^ tail[q, w1] ^ tail[r, w1] ^ tail[s, w1]
            c ^= tail[p, w2] ^ tail[q, w2] ^ tail[r, w2] ^ tail[s, w2]
            d ^= tail[p, w3] ^ tail[q, w3] ^ tail[r, w3] ^ tail[s, w3]
        line[w0], line[w1], line[w2], line[w3] = a, b, c, d


@kernel(error_model="numpy")
def crop_mask(mask, window, out, memory):
    """Cut a window out of a mask, resize it to a square by nearest centre and flip it.

    What lies beyond the mask is background. Output pixel i takes source pixel floor((i + 1/2) * window side / S).
    mask: `Edges`. window: `Window`. out: uint8 (S, ceil(S / 8)), leftmost pixel highest. memory: `MaskMemory`.
    """
    side, num_bytes = out.shape
    first, end = max(window.left, 0), min(window.left + window.width, mask.row_bits)
    is_beside = first >= end
    if not is_beside:
        _fill_tails(window, first, end, side, memory)
    line = memory.line.view(np.uint8)
    previous = -1
    for y in range(side):
        source = window.top + ((2 * y + 1) * window.height) // (2 * side)
        if source < 0 or source >= mask.height or is_beside:
            out[y] = np.uint8(0)
        elif source == previous:
            copy_row(out[y - 1], out[y])
        else:
            _cut_row(mask, source, first, end, memory)
            copy_row(line[:num_bytes], out[y])
        previous = source


follow_sources(__name__, plane_kernels)
