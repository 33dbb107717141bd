"""Cut a box out of an image's planes, resize it, flip it, and make RGB of the result.

Pixels stay as they are stored: luma and colour differences are each cut and resized at their own resolution (colour
centred between the luma that it belongs to, as JFIF says), and only the pixels of the view become RGB. Each plane:
triangle filter with antialias, the weights of torchvision's bilinear resize (antialias=True): the support grows with
the scale, edges are those of the box, weights sum to 1. The vertical pass comes first, because it runs along whole
rows and leaves only as many rows as the output has; LANES filtered rows then go through the horizontal one side by
side.
"""

import math
from typing import NamedTuple

import numpy as np

from backdrop.kernels import follow_sources, kernel
from backdrop.pipeline.beton import plane_kernels
from backdrop.pipeline.beton.plane_kernels import copy_row
from backdrop.pipeline.loader import _vector_kernels
from backdrop.pipeline.loader._vector_kernels import (
    BLOCK,
    BYTES,
    CACHE_LINE,
    LANES,
    LEVELS,
    MIDDLE,
    Lines,
    Taps,
    colours,
    finish_stores,
    store_past_cache,
    transpose_bytes,
    transpose_levels,
    weighted_columns,
    weighted_lanes,
)

CHANNELS = 3
# Weights sum to this.
_ONE = 65535.0


class Cut(NamedTuple):
    """What is cut out of an image: a box (top, left, height, width) of its pixels, of which `shrink` became one."""

    box: tuple[int, int, int, int]
    shrink: int
    is_flipped: bool


# The four filters of a crop: rows and columns of luma, rows and columns of colour.
NUM_FILTERS = 4


class Table(NamedTuple):
    """One filter, S outputs."""

    first: np.ndarray  # int64 (S,), source index of an output's first tap
    weight: np.ndarray  # uint16 (taps, S), 65535 = 1
    sums: np.ndarray  # float64 (3 + taps, S), on the way to the weights


class ResizeMemory(NamedTuple):
    """What resizing writes on its way, for one thread; few arrays, because each one costs time when it is compiled."""

    first: np.ndarray  # int64 (NUM_FILTERS, S), source index of an output's first tap
    weight: np.ndarray  # uint16 (NUM_FILTERS, taps, S), 65535 = 1
    sums: np.ndarray  # float64 (3 + taps, S), on the way to the weights
    rows: np.ndarray  # uint16 (LANES, ...), filtered rows
    columns: np.ndarray  # uint16 flat, the same by columns
    planes: np.ndarray  # uint16 (3, S * LANES), LANES rows of each plane resized, by columns
    pixels: np.ndarray  # uint8 flat, these as RGB, by columns
    lines: np.ndarray  # uint8 flat, these by rows


@kernel
def max_taps(longest_box_side: int, out_side: int) -> int:
    """Upper bound of the source pixels that one output pixel draws on."""
    return math.ceil(max(longest_box_side / out_side, 1.0)) * 2 + 1


def make_resize_memory(longest_side: int, sides: np.ndarray, reaches_out: bool = False) -> ResizeMemory:
    """Allocate for images of up to longest_side pixels and views of the given sides.

    reaches_out: whether boxes may reach beyond the image: then a pixel may draw on all rows or columns there are.
    """
    side = int(sides.max())
    taps = max(max_taps(longest_side, int(each)) for each in sides)
    taps = max(taps, longest_side) if reaches_out else taps
    # Outputs at the right edge have taps without weight past the end of a row, which is read there.
    row_length = longest_side + taps + BLOCK
    line_length = CHANNELS * side + BYTES
    return ResizeMemory(
        first=np.zeros((NUM_FILTERS, side), np.int64),
        weight=np.zeros((NUM_FILTERS, taps, side), np.uint16),
        sums=np.zeros((3 + taps, side)),
        rows=np.zeros((LANES, row_length), np.uint16),
        columns=np.zeros(LANES * row_length, np.uint16),
        planes=np.zeros((CHANNELS, side * LANES), np.uint16),
        pixels=np.zeros(LANES * line_length, np.uint8),
        lines=np.zeros(LANES * line_length, np.uint8),
    )


@kernel(error_model="numpy")
def fill_taps(start, length, num_source, side, is_flipped, table) -> int:
    """Tabulate the triangle filter: output i is the sum over k < taps of weight[k, i] * source[first[i] + k].

    All outputs get the same number of taps, short ones with weights of zero (their source index may then lie a few
    pixels past the end), so that the loop over them is well predicted. Flipped, output i takes what output
    side - 1 - i would. What rounding a weight leaves goes to the next one, so that they sum to 65535 exactly.

    start, length: float, the stretch that is resized, in pixels of the source. num_source: pixels of the source.
    table: `Table` with room for `side` outputs or more. Returns: taps.
    """
    first, weight, sums = table
    place, last, total, summed = sums[0], sums[1], sums[2], sums[3:]
    scale = length / side
    support = max(scale, 1.0)
    inverse = 1.0 / support
    taps = 1
    for at in range(side):
        centre = start + scale * ((side - 1 - at if is_flipped else at) + 0.5)
        low = min(max(np.int32(centre - support + 0.5), np.int32(0)), np.int32(num_source - 1))
        high = min(np.int32(centre + support + 0.5), np.int32(num_source))
        first[at], place[at], last[at], total[at] = low, (low - centre + 0.5) * inverse, high - low - 0.5, 0.0
        taps = max(taps, high - low)
    for k in range(taps):
        for at in range(side):
            share = 1.0 - abs(place[at] + k * inverse)
            if share < 0.0 or k > last[at]:
                share = 0.0
            total[at] += share
            summed[k, at] = total[at]
    for at in range(side):
        # 0 of an output beyond the source, which nobody takes
        total[at] = _ONE / total[at] if total[at] > 0.0 else 0.0
    before = last
    for at in range(side):
        before[at] = 0.0
    for k in range(taps):
        for at in range(side):
            up_to = np.float64(np.int32(summed[k, at] * total[at] + 0.5))
            weight[k, at] = np.uint16(np.int32(up_to - before[at]))
            before[at] = up_to
    return taps


@kernel(error_model="numpy")
def _stretch(start, length, shrink, sub, num_source):
    """A side of a box in pixels of a plane of num_source; one stands for `sub` of the image, which was shrunk before.

    Colour of which one pixel stands for several reaches over into their neighbours, a pixel past the box.
    Returns: (first pixel touched, their number, where the box begins in them, its length).
    """
    factor, margin = shrink * sub, min(sub - 1, 1)
    # Of a box that lies beyond the image altogether the nearest pixel, which nobody takes.
    first = min(max(start // factor - margin, 0), num_source - 1)
    last = max(min((start + length + factor - 1) // factor + margin, num_source), first + 1)
    return first, last - first, start / factor - first, length / factor


class _Part(NamedTuple):
    """The pixels of one plane that a box touches, and the filters over them."""

    start: int  # of the first in the data
    stride: int
    height: int
    width: int
    number_y: int  # of the filter over rows; that over columns is the next one
    num_y: int  # taps
    num_x: int


@kernel
def _part(planes, number, cut, side, memory):
    """The part of a plane, 0 = luma, that a cut is made of; fills the filters."""
    box, shrink, is_flipped = cut
    sub_y, sub_x = (planes.sub_y, planes.sub_x) if number > 0 else (1, 1)
    height, width = (planes.height + sub_y - 1) // sub_y, (planes.width + sub_x - 1) // sub_x
    top, num_rows, start_y, length_y = _stretch(box[0], box[2], shrink, sub_y, height)
    left, num_columns, start_x, length_x = _stretch(box[1], box[3], shrink, sub_x, width)
    at = 2 * number
    rows = Table(memory.first[at], memory.weight[at], memory.sums)
    columns = Table(memory.first[at + 1], memory.weight[at + 1], memory.sums)
    num_y = fill_taps(start_y, length_y, num_rows, side, False, rows)
    num_x = fill_taps(start_x, length_x, num_columns, side, is_flipped, columns)
    stride = planes.strides[number]
    start = planes.starts[number] + top * stride + left
    return _Part(start, stride, num_rows, num_columns, at, num_y, num_x)


@kernel(error_model="numpy")
def _filter_strip(data, start, part, first_row, side, memory, out):
    """Resize LANES rows of a plane that begins at `start`; out: uint16 (side * LANES,), by columns.

    Rows past the last are that one again.
    """
    rows, length = memory.rows.reshape(-1), memory.rows.shape[1]
    first_y, first_x = memory.first[part.number_y], memory.first[part.number_y + 1]
    weight_y, weight_x = memory.weight[part.number_y].reshape(-1), memory.weight[part.number_y + 1].reshape(-1)
    size = memory.weight.shape[2]
    for k in range(LANES):
        y = min(first_row + k, side - 1)
        num = min(part.num_y, part.height - first_y[y])
        source = start + first_y[y] * part.stride
        taps = Taps(weight_y, y, size, num)
        for x in range(0, part.width, BLOCK):
            weighted_columns(Lines(data, source + x, part.stride), taps, rows, k * length + x)
    for x in range(0, part.width, LEVELS):
        transpose_levels(rows, x, length, memory.columns, LANES * x)
    for x in range(side):
        weighted_lanes(memory.columns, LANES * first_x[x], Taps(weight_x, x, size, part.num_x), out, LANES * x)


@kernel(error_model="numpy")
def _colour_strip(side, memory, length):
    """Turn LANES rows of resized planes into RGB, row by row in memory.lines, each `length` bytes behind the last."""
    luma, blue, red, lines = memory.planes[0], memory.planes[1], memory.planes[2], memory.lines
    for x in range(side):
        colours(luma, blue, red, LANES * x, memory.pixels, CHANNELS * LANES * x)
    for x in range(0, CHANNELS * side, BYTES):
        transpose_bytes(memory.pixels, LANES * x, lines, x, length)


@kernel
def covered(start: int, length: int, num_source: int, side: int) -> tuple[int, int]:
    """Return the output pixels whose centre lies in the image, half-open; of a box inside it 0 .. side.

    start, length: of the box along one axis, which may reach beyond the image's num_source pixels.
    """
    first, end = 0, side
    while first < end and start + ((2 * first + 1) * length) // (2 * side) < 0:
        first += 1
    while first < end and start + ((2 * end - 1) * length) // (2 * side) >= num_source:
        end -= 1
    return first, end


@kernel(error_model="numpy")
def _blacken_beyond(planes, cut, out):
    """Make black what lies beyond the image, i.e. pixels whose centres do."""
    box, shrink, is_flipped = cut
    side = out.shape[0]
    first_row, end_row = covered(box[0], box[2], shrink * planes.height, side)
    first_column, end_column = covered(box[1], box[3], shrink * planes.width, side)
    if is_flipped:
        first_column, end_column = side - end_column, side - first_column
    if end_row - first_row == side and end_column - first_column == side:
        return
    for y in range(side):
        if first_row <= y < end_row and first_column < end_column:
            out[y, : CHANNELS * first_column] = np.uint8(0)
            out[y, CHANNELS * end_column :] = np.uint8(0)
        else:
            out[y] = np.uint8(0)


@kernel(error_model="numpy")
def crop_planes(planes, cut, out, memory):
    """Cut a box out of an image, resize it to a square, flip it, make RGB of it; what lies beyond the image is black.

    A pixel lies there whose centre does; the others are made of what the image has of their surroundings.
    planes: `Planes` of the image, decoded `cut.shrink` times smaller than the box's pixels. cut: `Cut`.
    out: uint8 (S, 3 S). memory: `ResizeMemory`.
    """
    side = out.shape[0]
    luma = _part(planes, 0, cut, side, memory)
    colour = _part(planes, 1, cut, side, memory)
    to_red = planes.starts[2] - planes.starts[1]
    blue_out, red_out = memory.planes[1], memory.planes[2]
    flat, row_bytes = out.reshape(-1), CHANNELS * side
    # Rows that need no gaps between them, for what is written past their ends, fill whole cache lines.
    is_even = side % BYTES == 0 and out.ctypes.data % CACHE_LINE == 0
    length = row_bytes if is_even else row_bytes + BYTES
    if not planes.has_colour:
        blue_out[:], red_out[:] = np.uint16(MIDDLE), np.uint16(MIDDLE)
    for first_row in range(0, side, LANES):
        _filter_strip(planes.data, luma.start, luma, first_row, side, memory, memory.planes[0])
        if planes.has_colour:
            _filter_strip(planes.data, colour.start, colour, first_row, side, memory, blue_out)
            _filter_strip(planes.data, colour.start + to_red, colour, first_row, side, memory, red_out)
        _colour_strip(side, memory, length)
        begin, num_rows = first_row * row_bytes, min(LANES, side - first_row)
        if is_even:
            for at in range(0, num_rows * row_bytes, CACHE_LINE):
                store_past_cache(memory.lines, at, flat, begin + at)
        else:
            for k in range(num_rows):
                copy_row(memory.lines[k * length : k * length + row_bytes], out[first_row + k])
    finish_stores()
    _blacken_beyond(planes, cut, out)


follow_sources(__name__, _vector_kernels, plane_kernels)
