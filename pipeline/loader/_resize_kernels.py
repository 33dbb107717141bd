"""Cut a box out of decoded pixels or a packed mask, resize it and flip it, in one pass per output row.

Pixels: triangle filter with antialias, the weights of torchvision's bilinear resize (antialias=True): the support grows
with the scale, edges are those of the box, weights sum to 1. The vertical pass comes first, because it runs along whole
rows and leaves only as many rows as the output has; both passes are IEEE float32 without contraction, so every
machine gives the same bytes. Masks: the pixel under the centre of each output pixel.
"""

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

CHANNELS = 3
# The horizontal pass reads and writes whole vectors of four: one element past the last pixel of a row.
VECTOR = 4


@njit(nogil=True, cache=True)
def max_taps(longest_box_side: int, out_side: int) -> int:
    """Upper bound of the source pixels that one output pixel draws on."""
    return math.ceil(max(longest_box_side / out_side, 1.0)) * 2 + 1


@njit(nogil=True, cache=True)
def fill_taps(box_side: int, out_side: int, is_flipped: bool, first: np.ndarray, weight: np.ndarray) -> int:
    """Tabulate the triangle filter: output i is the sum over k < taps of weight[i, k] * source[first[i] + k].

    All outputs get the same number of taps, short ones with weights of zero (their source index may then lie a few
    pixels past the end), so that the loop over them is well predicted. Flipped, output i takes what output
    out_side - 1 - i would.

    first: int64 (out_side,). weight: float32 (out_side, >= max_taps). Returns: taps.
    """
    scale = box_side / out_side
    support = max(scale, 1.0)
    taps = 0
    for i in range(out_side):
        centre = scale * (i + 0.5)
        low = max(int(centre - support + 0.5), 0)
        high = min(int(centre + support + 0.5), box_side)
        at = out_side - 1 - i if is_flipped else i
        total = 0.0
        for k in range(high - low):
            total += max(0.0, 1.0 - abs((low + k - centre + 0.5) / support))
        first[at] = low
        taps = max(taps, high - low)
        weight[at] = 0.0
        for k in range(high - low):
            weight[at, k] = max(0.0, 1.0 - abs((low + k - centre + 0.5) / support)) / total
    return taps


def weighted_pixel(row, at, weight, offset, num, out, out_at):
    """Write one output pixel: the sum of weight[offset + k] * row[at + 3 k : at + 3 k + 3], rounded, to out[out_at:].

    row: float32, an element longer than its pixels. weight: float32. out: uint8; a fourth byte is overwritten too.
    This is the plain form; compiled code gets the same sums, four lanes in one register, from the overload below.
    """
    sums = np.zeros(VECTOR, np.float32)
    for k in range(num):
        sums += weight[offset + k] * row[at + CHANNELS * k : at + CHANNELS * k + VECTOR]
    out[out_at : out_at + VECTOR] = (sums + np.float32(0.5)).astype(np.uint8)


@overload(weighted_pixel, inline="always")
def _overload_weighted_pixel(row, at, weight, offset, num, out, out_at):
    def implementation(row, at, weight, offset, num, out, out_at):
        _weighted_pixel(row, at, weight, offset, num, out, out_at)

    return implementation


@intrinsic
def _weighted_pixel(typing_context, row, at, weight, offset, num, out, out_at):
    """`weighted_pixel` as LLVM vector code: the compiler's own vectoriser does not find the three-lane pattern."""
    signature = types.void(row, types.int64, weight, types.int64, types.int64, out, types.int64)
    lanes, bytes4 = ir.VectorType(ir.FloatType(), VECTOR), ir.VectorType(ir.IntType(8), VECTOR)
    int64 = ir.IntType(64)

    def pointer(context, builder, array_type, array, index):
        return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])

    def splat(builder, value):
        single = builder.insert_element(ir.Constant(lanes, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), VECTOR), [0] * VECTOR)
        return builder.shuffle_vector(single, ir.Constant(lanes, ir.Undefined), mask)

    def generate(context, builder, signature, arguments):
        row, at, weight, offset, num, out, out_at = arguments
        pixel = pointer(context, builder, signature.args[0], row, at)
        tap = pointer(context, builder, signature.args[2], weight, offset)
        before = builder.block
        loop, after = builder.append_basic_block("taps"), builder.append_basic_block("done")
        builder.branch(loop)  # there is always at least one tap
        builder.position_at_end(loop)
        k, sums = builder.phi(int64), builder.phi(lanes)
        k.add_incoming(ir.Constant(int64, 0), before)
        sums.add_incoming(ir.Constant(lanes, [0.0] * VECTOR), before)
        source = builder.gep(pixel, [builder.mul(k, ir.Constant(int64, CHANNELS))])
        values = builder.load(builder.bitcast(source, lanes.as_pointer()), align=4)
        factor = splat(builder, builder.load(builder.gep(tap, [k])))
        total = builder.fadd(sums, builder.fmul(factor, values))
        following = builder.add(k, ir.Constant(int64, 1))
        k.add_incoming(following, loop)
        sums.add_incoming(total, loop)
        builder.cbranch(builder.icmp_signed("<", following, num), loop, after)
        builder.position_at_end(after)
        rounded = builder.fadd(total, ir.Constant(lanes, [0.5] * VECTOR))
        integers = builder.fptosi(rounded, ir.VectorType(ir.IntType(32), VECTOR))
        target = builder.bitcast(pointer(context, builder, signature.args[5], out, out_at), bytes4.as_pointer())
        builder.store(builder.trunc(integers, bytes4), target, align=1)
        return context.get_dummy_value()

    return signature, generate


@njit(nogil=True, cache=True, error_model="numpy")
def _start_sum(row_a: np.ndarray, row_b: np.ndarray, weight_a: float, weight_b: float, total: np.ndarray) -> None:
    for j in range(total.size):
        total[j] = weight_a * np.float32(row_a[j]) + weight_b * np.float32(row_b[j])


@njit(nogil=True, cache=True, error_model="numpy")
def _add_to_sum(row: np.ndarray, weight: float, total: np.ndarray) -> None:
    for j in range(total.size):
        total[j] += weight * np.float32(row[j])


@njit(nogil=True, cache=True, error_model="numpy")
def _add_two_to_sum(row_a: np.ndarray, row_b: np.ndarray, weight_a: float, weight_b: float, total: np.ndarray) -> None:
    for j in range(total.size):
        total[j] += weight_a * np.float32(row_a[j]) + weight_b * np.float32(row_b[j])


@njit(nogil=True, cache=True, error_model="numpy")
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


@njit(nogil=True, cache=True, error_model="numpy")
def crop_pixels(image, top, left, height, width, is_flipped, out, taps_y, taps_x, row, line):
    """Cut a box out of an image, resize it to a square and flip it.

    image: uint8 (H, 3 W), the box inside it. out: uint8 (S, 3 S).
    Scratch: taps_y, taps_x: (first int64 (>= S,), weight float32 (>= S, taps)); row: float32 (>= 3 (width + taps) + 4);
    line: uint8 (>= 3 S + 4).
    """
    side = out.shape[0]
    first_y, weight_y = taps_y
    first_x, weight_x = taps_x
    num_y = fill_taps(height, side, False, first_y[:side], weight_y[:side])
    num_x = fill_taps(width, side, is_flipped, first_x[:side], weight_x[:side])
    flat_x, stride_x = weight_x.reshape(-1), weight_x.shape[1]
    row[CHANNELS * width : CHANNELS * (width + num_x) + VECTOR] = np.float32(0.0)
    total = row[: CHANNELS * width]
    for y in range(side):
        start = top + first_y[y]
        num = min(num_y, height - first_y[y])
        rows = image[start : start + num, CHANNELS * left : CHANNELS * (left + width)]
        _weighted_rows(rows, weight_y[y], total)
        for x in range(side):
            weighted_pixel(row, CHANNELS * first_x[x], flat_x, x * stride_x, num_x, line, CHANNELS * x)
        out[y] = line[: CHANNELS * side]


@njit(nogil=True, cache=True, error_model="numpy")
def crop_mask(words, top, left, height, width, is_flipped, out, column):
    """Cut a box out of a mask, resize it to a square by nearest centre and flip it, from bits to bits.

    Output pixel i takes source pixel floor((i + 1/2) * box side / S).
    words: uint64 (H, ceil(W / 64)), leftmost pixel highest. out: uint8 (S, ceil(S / 8)), leftmost pixel highest.
    column: int64 scratch (>= S,).
    """
    side, num_bytes = out.shape[0], out.shape[1]
    for x in range(side):
        at = side - 1 - x if is_flipped else x
        column[at] = left + ((2 * x + 1) * width) // (2 * side)
    previous = -1
    for y in range(side):
        source = top + ((2 * y + 1) * height) // (2 * side)
        if source == previous:
            out[y] = out[y - 1]
            continue
        previous = source
        line = words[source]
        for b in range(num_bytes):
            byte = np.uint64(0)
            for x in range(8 * b, min(8 * b + 8, side)):
                word = line[column[x] >> 6]
                bit = (word >> np.uint64(63 - (column[x] & 63))) & np.uint64(1)
                byte |= bit << np.uint64(7 - (x & 7))
            out[y, b] = byte
