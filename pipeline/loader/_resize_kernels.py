"""Cut a box out of decoded pixels or a packed mask, resize it and flip it, in one pass per two output rows.

Pixels: triangle filter with antialias, the weights of torchvision's bilinear resize (antialias=True): the support grows
with the scale, edges are those of the box, weights sum to 1. The vertical pass comes first, because it runs along whole
rows and leaves only as many rows as the output has; both passes are IEEE float32 without contraction, so every
machine gives the same bytes. Masks: the pixel under the centre of each output pixel.
"""

import math
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from backdrop.kernels import kernel

CHANNELS = 3
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
# The horizontal pass reads and writes whole vectors of four: one element past the last pixel of a row.
VECTOR = 4


@kernel
def max_taps(longest_box_side: int, out_side: int) -> int:
    """Upper bound of the source pixels that one output pixel draws on."""
    return math.ceil(max(longest_box_side / out_side, 1.0)) * 2 + 1


@kernel
def fill_taps(start, length, num_source, out_side, is_flipped, first, weight) -> int:
    """Tabulate the triangle filter: output i is the sum over k < taps of weight[i, k] * source[first[i] + k].

    All outputs get the same number of taps, short ones with weights of zero (their source index may then lie a few
    pixels past the end), so that the loop over them is well predicted. Flipped, output i takes what output
    out_side - 1 - i would.

    start, length: float, the stretch that is resized, in pixels of the source. num_source: pixels of the source.
    first: int64 (out_side,). weight: float32 (out_side, >= max_taps). Returns: taps.
    """
    scale = length / out_side
    support = max(scale, 1.0)
    most = min(int(2.0 * support) + 2, weight.shape[1])
    taps = 0
    for i in range(out_side):
        centre = start + scale * (i + 0.5)
        low = max(int(centre - support + 0.5), 0)
        high = min(int(centre + support + 0.5), num_source)
        at = out_side - 1 - i if is_flipped else i
        total = 0.0
        for k in range(high - low):
            total += max(0.0, 1.0 - abs((low + k - centre + 0.5) / support))
        first[at] = low
        taps = max(taps, high - low)
        weight[at, :most] = 0.0
        total = total if total > 0.0 else 1.0  # of an output beyond the source, which nobody takes
        for k in range(high - low):
            weight[at, k] = max(0.0, 1.0 - abs((low + k - centre + 0.5) / support)) / total
    return taps


def leading_zeros(word: np.uint64) -> int:
    """Zeros above the highest set bit of a word that is not 0; the plain form of what the overload compiles to."""
    return 64 - int(word).bit_length()


@overload(leading_zeros, inline="always")
def _overload_leading_zeros(word):
    def implementation(word):
        return _leading_zeros(word)

    return implementation


@intrinsic
def _leading_zeros(typing_context, word):
    def generate(context, builder, signature, arguments):
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


def weighted_pixels(rows, at, weight, offset, num, lines, out_at):
    """Write the same pixel of two output rows: sums of weight[offset + k] * row[at + 3 k : at + 3 k + 3], rounded.

    rows: two, float32, an element longer than their pixels. weight: float32. lines: two, uint8, written at out_at; a
    fourth byte is overwritten too. Two rows together halve the loads of weights and fill a register of eight.
    This is the plain form; compiled code gets the same sums from the overload below.
    """
    for row, line in zip(rows, lines, strict=True):
        sums = np.zeros(VECTOR, np.float32)
        for k in range(num):
            sums += weight[offset + k] * row[at + CHANNELS * k : at + CHANNELS * k + VECTOR]
        line[out_at : out_at + VECTOR] = (sums + np.float32(0.5)).astype(np.uint8)


@overload(weighted_pixels, inline="always")
def _overload_weighted_pixels(rows, at, weight, offset, num, lines, out_at):
    def implementation(rows, at, weight, offset, num, lines, out_at):
        _weighted_pixels(rows, at, weight, offset, num, lines, out_at)

    return implementation


def _shuffled(builder, a, b, lanes):
    """Lanes of two vectors, numbered through both, as a new one."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes)))


def _pointer(context, builder, kind, value, index):
    """Address of an element of an array of a numba type."""
    return builder.gep(context.make_array(kind)(context, builder, value).data, [index])


def _pointers(context, builder, kind, pair, index):
    """Address of the same element of each of two arrays."""
    return [_pointer(context, builder, kind.dtype, builder.extract_value(pair, k), index) for k in (0, 1)]


@intrinsic
def _weighted_pixels(typing_context, rows, at, weight, offset, num, lines, out_at):
    """`weighted_pixels` as LLVM vector code: the compiler's own vectoriser does not find the three-lane pattern."""
    int64 = types.int64
    signature = types.void(rows, int64, weight, int64, int64, lines, int64)
    four, eight = (ir.VectorType(ir.FloatType(), lanes) for lanes in (VECTOR, 2 * VECTOR))

    def loaded(builder, start):
        return builder.load(builder.bitcast(start, four.as_pointer()), align=4)

    def generate(context, builder, signature, arguments):
        source_rows, at, weights, offset, num, target_lines, out_at = arguments
        tap = _pointer(context, builder, weight, weights, offset)
        sources = _pointers(context, builder, rows, source_rows, at)
        before = builder.block
        loop, after = builder.append_basic_block("taps"), builder.append_basic_block("done")
        builder.branch(loop)  # there is always at least one tap
        builder.position_at_end(loop)
        k, sums = builder.phi(ir.IntType(64)), builder.phi(eight)
        k.add_incoming(ir.Constant(ir.IntType(64), 0), before)
        sums.add_incoming(ir.Constant(eight, [0.0] * 8), before)
        step = builder.mul(k, ir.Constant(ir.IntType(64), CHANNELS))
        values = _shuffled(builder, *(loaded(builder, builder.gep(source, [step])) for source in sources), range(8))
        single = builder.insert_element(
            ir.Constant(eight, ir.Undefined), builder.load(builder.gep(tap, [k])), ir.Constant(ir.IntType(32), 0)
        )
        factor = _shuffled(builder, single, ir.Constant(eight, ir.Undefined), [0] * 8)
        total = builder.fadd(sums, builder.fmul(factor, values))
        following = builder.add(k, ir.Constant(ir.IntType(64), 1))
        k.add_incoming(following, loop)
        sums.add_incoming(total, loop)
        builder.cbranch(builder.icmp_signed("<", following, num), loop, after)
        builder.position_at_end(after)
        rounded = builder.fadd(total, ir.Constant(eight, [0.5] * 8))
        levels = builder.trunc(
            builder.fptosi(rounded, ir.VectorType(ir.IntType(32), 8)), ir.VectorType(ir.IntType(8), 8)
        )
        targets = _pointers(context, builder, lines, target_lines, out_at)
        for target, lanes in zip(targets, (range(4), range(4, 8)), strict=True):
            half = _shuffled(builder, levels, levels, lanes)
            builder.store(half, builder.bitcast(target, half.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return signature, generate


@kernel(error_model="numpy")
def _start_sum(row_a: np.ndarray, row_b: np.ndarray, weight_a: float, weight_b: float, total: np.ndarray) -> None:
    for j in range(total.size):
        total[j] = weight_a * np.float32(row_a[j]) + weight_b * np.float32(row_b[j])


@kernel(error_model="numpy")
def _add_to_sum(row: np.ndarray, weight: float, total: np.ndarray) -> None:
    for j in range(total.size):
        total[j] += weight * np.float32(row[j])


@kernel(error_model="numpy")
def _add_two_to_sum(row_a: np.ndarray, row_b: np.ndarray, weight_a: float, weight_b: float, total: np.ndarray) -> None:
    for j in range(total.size):
        total[j] += weight_a * np.float32(row_a[j]) + weight_b * np.float32(row_b[j])


@kernel(error_model="numpy")
def _copy(source: np.ndarray, out: np.ndarray) -> None:
    """out[:] = source[: out.size], which numba would do element by element through views."""
    for j in range(out.size):
        out[j] = source[j]


@kernel(error_model="numpy")
def _weighted_rows(rows: np.ndarray, weight: np.ndarray, total: np.ndarray) -> None:
    """total[j] = sum over k of weight[k] * rows[k, j]; rows: uint8 (taps, n), total: float32 (n,)."""
    taps = rows.shape[0]
    if taps == 1:
        total[:] = np.float32(0.0)
        _add_to_sum(rows[0], weight[0], total)
        return
    _start_sum(rows[0], rows[1], weight[0], weight[1], total)
    for k in range(2, taps - 1, 2):
        _add_two_to_sum(rows[k], rows[k + 1], weight[k], weight[k + 1], total)
    if taps % 2:
        _add_to_sum(rows[taps - 1], weight[taps - 1], total)


class Cut(NamedTuple):
    """What is cut out of an image: a box (top, left, height, width) of its pixels, of which `shrink` became one."""

    box: tuple[int, int, int, int]
    shrink: int
    is_flipped: bool


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
def crop_pixels(image, cut, out, taps_y, taps_x, rows, lines):
    """Cut a box out of an image, resize it to a square and flip it; what lies beyond the image is black.

    A pixel lies there whose centre does; the others are made of what the image has of their surroundings.

    image: uint8 (H, 3 W), decoded `cut.shrink` times smaller than the box's pixels. cut: `Cut`. out: uint8 (S, 3 S).
    Scratch: taps_y, taps_x: (first int64 (>= S,), weight float32 (>= S, taps)); rows: float32
    (2, >= 3 (width + taps) + 4); lines: uint8 (2, >= 3 S + 4).
    """
    box, shrink, is_flipped = cut
    side = out.shape[0]
    first_y, weight_y = taps_y
    first_x, weight_x = taps_x
    first_row, end_row = covered(box[0], box[2], shrink * image.shape[0], side)
    first_column, end_column = covered(box[1], box[3], shrink * image.shape[1] // CHANNELS, side)
    if is_flipped:
        first_column, end_column = side - end_column, side - first_column
    if end_row - first_row < side or end_column - first_column < side:
        out[:] = np.uint8(0)
        lines[:] = np.uint8(0)
        if first_row >= end_row or first_column >= end_column:
            return
    # The pixels that the box touches; of a shrunk image it may begin and end within one.
    top, left = max(box[0] // shrink, 0), max(box[1] // shrink, 0)
    height = min((box[0] + box[2] + shrink - 1) // shrink, image.shape[0]) - top
    width = min((box[1] + box[3] + shrink - 1) // shrink, image.shape[1] // CHANNELS) - left
    start_y, start_x = box[0] / shrink - top, box[1] / shrink - left
    num_y = fill_taps(start_y, box[2] / shrink, height, side, False, first_y[:side], weight_y[:side])
    num_x = fill_taps(start_x, box[3] / shrink, width, side, is_flipped, first_x[:side], weight_x[:side])
    flat_x, stride_x = weight_x.reshape(-1), weight_x.shape[1]
    rows[:, CHANNELS * width : CHANNELS * (width + num_x) + VECTOR] = np.float32(0.0)
    both_rows, both_lines = (rows[0], rows[1]), (lines[0], lines[1])
    for y in range(first_row, end_row, 2):
        num_rows = min(2, end_row - y)  # of an odd last one the partner is what the rows before left
        for k in range(num_rows):
            start = top + first_y[y + k]
            num = min(num_y, height - first_y[y + k])
            sources = image[start : start + num, CHANNELS * left : CHANNELS * (left + width)]
            _weighted_rows(sources, weight_y[y + k], rows[k, : CHANNELS * width])
        for x in range(first_column, end_column):
            at = CHANNELS * first_x[x]
            weighted_pixels(both_rows, at, flat_x, x * stride_x, num_x, both_lines, CHANNELS * x)
        for k in range(2):  # the last pixel wrote one byte too many
            lines[k, CHANNELS * end_column] = np.uint8(0)
        for k in range(num_rows):
            _copy(lines[k], out[y + k])


@kernel
def _first_after(column: int, width: int, side: int) -> int:
    """First output column whose centre lies at or right of a source column's left edge."""
    return (2 * side * column + width - 1) // (2 * width)


@kernel
def _set_bits(line: np.ndarray, start: int, end: int) -> None:
    """Set bits start .. end - 1 of packed bytes, highest first."""
    if start >= end:
        return
    first, last = start >> 3, (end - 1) >> 3
    head, tail = np.uint8(0xFF >> (start & 7)), np.uint8((0xFF << (7 - ((end - 1) & 7))) & 0xFF)
    if first == last:
        line[first] |= head & tail
        return
    line[first] |= head
    line[first + 1 : last] = np.uint8(0xFF)
    line[last] |= tail


@kernel
def _first_change(words: np.ndarray, column: int, end: int) -> int:
    """First column after `column` whose bit differs from its, or end."""
    w = column >> 6
    is_set = (words[w] >> np.uint64(63 - (column & 63))) & np.uint64(1)
    flipped = _ALL if is_set else np.uint64(0)
    rest = (words[w] ^ flipped) & (_ALL >> np.uint64(column & 63))
    last = (end - 1) >> 6
    while rest == np.uint64(0) and w < last:
        w += 1
        rest = words[w] ^ flipped
    if rest == np.uint64(0):
        return end
    return min((w << 6) + leading_zeros(rest), end)


@kernel
def _crop_line(words, left, width, is_flipped, side, line) -> None:
    """Resize a stretch of one mask row by nearest centre: each run of set bits becomes a run."""
    line[:] = np.uint8(0)
    column, end = max(left, 0), min(left + width, 64 * words.size)
    while column < end:
        change = _first_change(words, column, end)
        if (words[column >> 6] >> np.uint64(63 - (column & 63))) & np.uint64(1):
            start, stop = _first_after(column - left, width, side), _first_after(change - left, width, side)
            if is_flipped:
                start, stop = side - stop, side - start
            _set_bits(line, start, stop)
        column = change


@kernel(error_model="numpy")
def crop_mask(words, top, left, height, width, is_flipped, out):
    """Cut a box out of a mask, resize it to a square by nearest centre and flip it, from bits to bits.

    What lies beyond the mask is background. Output pixel i takes source pixel floor((i + 1/2) * box side / S).
    words: uint64 (H, ceil(W / 64)), leftmost pixel highest. out: uint8 (S, ceil(S / 8)), leftmost pixel highest.
    """
    side = out.shape[0]
    previous = -1
    for y in range(side):
        source = top + ((2 * y + 1) * height) // (2 * side)
        if source < 0 or source >= words.shape[0]:
            out[y] = np.uint8(0)
        elif source == previous:
            out[y] = out[y - 1]
        else:
            _crop_line(words[source], left, width, is_flipped, side, out[y])
        previous = source
