"""The few operations on whole vectors that resizing is made of, as LLVM vector code beside its plain form.

All of it is arithmetic of 16-bit integers, 16 and 32 lanes at a time, so that every machine gives the same bytes. A
grey level is 256 steps. The compiler's own vectoriser finds none of these patterns; what is written here it turns into
a multiplication that keeps the high half, and into shuffles, of whatever vectors the machine has.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

# Rows that are filtered side by side, one in each lane.
LANES = 32
# Columns of a filtered row that are made together; a row is read, and written, up to this many elements past its end.
BLOCK = 32
# Columns that are transposed at once: what 128 bits hold, which is how far processors interleave.
LEVELS, BYTES = 8, 16

# What is written to memory at once, at places that are multiples of it.
CACHE_LINE = 64

# From Cb and Cr to R, G and B (JFIF), times 2^14: a colour difference of 256 steps a level comes out at 64.
_CR_TO_R, _CB_TO_G, _CR_TO_G, _CB_TO_B = 22970, 5638, 11700, 29032
# Where colour differences are none.
MIDDLE = 1 << 15

_int8, _int16, _int32, _int64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


class Lines(NamedTuple):
    """Rows of bytes."""

    data: np.ndarray  # uint8 flat
    start: int  # where the first begins
    stride: int  # from row to row


class Taps(NamedTuple):
    """Weights of one output: weight[first + k * stride] for k < num."""

    weight: np.ndarray  # uint16 flat, 65535 = 1; sums to at most that
    first: int
    stride: int
    num: int  # 1 or more


def weighted_columns(lines, taps, out, at):
    """out[at : at + BLOCK] = the sum of as many of the lines as there are taps, weighted; BLOCK columns from the start.

    lines: `Lines`. taps: `Taps`. out: uint16 flat, 256 steps a level.
    """
    out[at : at + BLOCK] = _weighted(lines, taps, BLOCK, 8)


def weighted_lanes(columns, start, taps, out, at):
    """out[at : at + LANES] = the weighted sum of columns that follow each other from `start`.

    columns, out: uint16 flat, LANES rows side by side. taps: `Taps`.
    """
    out[at : at + LANES] = _weighted(Lines(columns, start, LANES), taps, LANES, 0)


def _weighted(lines, taps, lanes, shift):
    """Products are cut off at a step, half a step each on average; `num` halves are added first."""
    total = np.full(lanes, taps.num // 2, np.uint32)
    for k in range(taps.num):
        begin = lines.start + k * lines.stride
        values = lines.data[begin : begin + lanes].astype(np.uint32) << np.uint32(shift)
        total += (values * np.uint32(taps.weight[taps.first + k * taps.stride])) >> np.uint32(16)
    return total.astype(np.uint16)


def transpose_levels(rows, start, stride, out, at):
    """out[at + LANES x + y] = rows[start + stride y + x] for x < LEVELS, y < LANES; uint16 flat."""
    for x in range(LEVELS):
        out[at + LANES * x : at + LANES * (x + 1)] = rows[start + x : start + x + stride * LANES : stride]


def transpose_bytes(columns, start, out, at, stride):
    """out[at + stride y + x] = columns[start + LANES x + y] for x < BYTES, y < LANES; uint8 flat."""
    for y in range(LANES):
        out[at + stride * y : at + stride * y + BYTES] = columns[start + y : start + y + LANES * BYTES : LANES]


def colours(luma, blue, red, at, out, out_at):
    """Write R, G and B of LANES pixels from Y, Cb and Cr, rounded to grey levels, LANES of each after the other.

    luma, blue, red: uint16 flat, 256 steps a level. out: uint8 flat, 3 LANES from out_at.
    """
    y, b, r = (plane[at : at + LANES].astype(np.int32) for plane in (luma, blue, red))
    y, b, r = (y >> 2) + 32, b - MIDDLE, r - MIDDLE
    greens = y - ((b * _CB_TO_G) >> 16) - ((r * _CR_TO_G) >> 16)
    sums = np.concatenate([y + ((r * _CR_TO_R) >> 16), greens, y + ((b * _CB_TO_B) >> 16)]) >> 6
    out[out_at : out_at + 3 * LANES] = np.clip(sums, 0, 255)


def store_past_cache(source, start, out, at):
    """out[at : at + CACHE_LINE] = source[start : start + CACHE_LINE], of which the caches are to keep nothing.

    Views are read once, later, by others; to fetch what is written over costs as much as to write it.
    source, out: uint8 flat. The place in memory has to be a multiple of CACHE_LINE.
    """
    out[at : at + CACHE_LINE] = source[start : start + CACHE_LINE]


def finish_stores():
    """Have what was stored past the caches seen before whatever is written next."""


# --- LLVM ------------------------------------------------------------------------------------------------------------


def _vector(kind: ir.Type, lanes: int) -> ir.Type:
    return ir.VectorType(kind, lanes)


def _splat(kind: ir.Type, lanes: int, value: int) -> ir.Constant:
    return ir.Constant(_vector(kind, lanes), [value] * lanes)


def _same(builder: Any, value: Any, lanes: int) -> Any:
    """A scalar in every lane."""
    kind = _vector(value.type, lanes)
    single = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_int32, 0))
    return _shuffled(builder, single, single, [0] * lanes)


def _shuffled(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    """Lanes of two vectors, numbered through both, as a new one."""
    return builder.shuffle_vector(a, b, ir.Constant(_vector(_int32, len(lanes)), lanes))


def _array(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Address of an array's first element."""
    return context.make_array(kind)(context, builder, value).data


def _load(builder: Any, start: Any, at: Any, kind: ir.Type) -> Any:
    return builder.load(builder.bitcast(builder.gep(start, [at]), kind.as_pointer()), align=1)


def _store(builder: Any, value: Any, start: Any, at: Any) -> None:
    builder.store(value, builder.bitcast(builder.gep(start, [at]), value.type.as_pointer()), align=1)


def _high_half(builder: Any, a: Any, b: Any, widen: Callable, shift: Callable) -> Any:
    """The high 16 bits of the products of two vectors of 16-bit numbers."""
    wide = _vector(_int32, a.type.count)
    product = builder.mul(widen(a, wide), widen(b, wide))
    return builder.trunc(shift(product, _splat(_int32, a.type.count, 16)), a.type)


def _weighted_code(context: Any, builder: Any, kind: Any, taps: Any, source: Any, stride: Any, lanes: int) -> Any:
    """The loop over the taps, a tuple of numba type `kind`; source: address of the first lane. Returns the sums."""
    first, size, num = (builder.extract_value(taps, place) for place in (1, 2, 3))
    weights = builder.gep(_array(context, builder, kind.types[0], builder.extract_value(taps, 0)), [first])
    wide = _vector(_int16, lanes)
    initial = _same(builder, builder.trunc(builder.lshr(num, ir.Constant(_int64, 1)), _int16), lanes)
    before = builder.block
    loop, after = builder.append_basic_block("taps"), builder.append_basic_block("done")
    builder.branch(loop)  # there is always at least one tap
    builder.position_at_end(loop)
    k, total = builder.phi(_int64), builder.phi(wide)
    k.add_incoming(ir.Constant(_int64, 0), before)
    total.add_incoming(initial, before)
    step = builder.mul(k, stride)
    if source.type.pointee == _int8:
        narrow = _load(builder, source, step, _vector(_int8, lanes))
        values = builder.shl(builder.zext(narrow, wide), _splat(_int16, lanes, 8))
    else:
        values = _load(builder, source, step, wide)
    weight = _same(builder, builder.load(builder.gep(weights, [builder.mul(k, size)])), lanes)
    following = builder.add(k, ir.Constant(_int64, 1))
    result = builder.add(total, _high_half(builder, values, weight, builder.zext, builder.lshr))
    k.add_incoming(following, loop)
    total.add_incoming(result, loop)
    builder.cbranch(builder.icmp_signed("<", following, num), loop, after)
    builder.position_at_end(after)
    return result


@intrinsic
def _weighted_columns(typing_context, lines, taps, out, at):
    def generate(context, builder, signature, arguments):
        lines_value, taps_value, out_value, at = arguments
        data, start, stride = (builder.extract_value(lines_value, place) for place in range(3))
        source = builder.gep(_array(context, builder, lines.types[0], data), [start])
        total = _weighted_code(context, builder, taps, taps_value, source, stride, BLOCK)
        _store(builder, total, _array(context, builder, out, out_value), at)
        return context.get_dummy_value()

    return types.void(lines, taps, out, types.int64), generate


@intrinsic
def _weighted_lanes(typing_context, columns, start, taps, out, at):
    def generate(context, builder, signature, arguments):
        columns_value, start, taps_value, out_value, at = arguments
        source = builder.gep(_array(context, builder, columns, columns_value), [start])
        total = _weighted_code(context, builder, taps, taps_value, source, ir.Constant(_int64, LANES), LANES)
        _store(builder, total, _array(context, builder, out, out_value), at)
        return context.get_dummy_value()

    return types.void(columns, types.int64, taps, out, types.int64), generate


def _interleaved(builder: Any, vectors: list) -> list:
    """Element 0 of all vectors, then element 1, ...: a transposition within each 128 bits, by interleaving pairs."""
    num = len(vectors)
    half = num // 2
    while num > 1:
        pairs = list(zip(vectors[:half], vectors[half:], strict=True))
        vectors = [_interleave(builder, *pair, is_high) for pair in pairs for is_high in (False, True)]
        num //= 2
    return vectors


def _interleave(builder: Any, a: Any, b: Any, is_high: bool) -> Any:
    """The elements of two vectors in turn, of the lower or the upper half of each 128 bits."""
    num = a.type.count
    part = 128 // a.type.element.width
    first = part // 2 if is_high else 0
    within = [first + k // 2 + (num if k % 2 else 0) for k in range(part)]
    return _shuffled(builder, a, b, [start + lane for start in range(0, num, part) for lane in within])


def _joined(builder: Any, vectors: list) -> Any:
    """Vectors behind each other as one."""
    while len(vectors) > 1:
        num = vectors[0].type.count
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [_shuffled(builder, a, b, list(range(2 * num))) for a, b in pairs]
    return vectors[0]


def _place(builder: Any, base: Any, stride: Any, number: int) -> Any:
    return builder.add(base, builder.mul(stride, ir.Constant(_int64, number)))


@intrinsic
def _transpose_levels(typing_context, rows, start, stride, out, at):
    def generate(context, builder, signature, arguments):
        rows_value, start, stride, out_value, at = arguments
        source, target = _array(context, builder, rows, rows_value), _array(context, builder, out, out_value)
        part = _vector(_int16, LEVELS)
        lines = [_load(builder, source, _place(builder, start, stride, y), part) for y in range(LANES)]
        vectors = [_joined(builder, lines[y::LEVELS]) for y in range(LEVELS)]
        for x, column in enumerate(_interleaved(builder, vectors)):
            _store(builder, column, target, builder.add(at, ir.Constant(_int64, LANES * x)))
        return context.get_dummy_value()

    i = types.int64
    return types.void(rows, i, i, out, i), generate


@intrinsic
def _transpose_bytes(typing_context, columns, start, out, at, stride):
    def generate(context, builder, signature, arguments):
        columns_value, start, out_value, at, stride = arguments
        source, target = _array(context, builder, columns, columns_value), _array(context, builder, out, out_value)
        whole = _vector(_int8, LANES)
        starts = [builder.add(start, ir.Constant(_int64, LANES * x)) for x in range(BYTES)]
        for y, both in enumerate(_interleaved(builder, [_load(builder, source, each, whole) for each in starts])):
            for row in range(y, LANES, BYTES):
                line = _shuffled(builder, both, both, list(range(row - y, row - y + BYTES)))
                _store(builder, line, target, _place(builder, at, stride, row))
        return context.get_dummy_value()

    i = types.int64
    return types.void(columns, i, out, i, i), generate


def _clamped(builder: Any, value: Any) -> Any:
    """Signed 16-bit numbers as bytes, 0 .. 255."""
    zero, top = (_splat(_int16, LANES, level) for level in (0, 255))
    value = builder.select(builder.icmp_signed("<", value, zero), zero, value)
    value = builder.select(builder.icmp_signed(">", value, top), top, value)
    return builder.trunc(value, _vector(_int8, LANES))


@intrinsic
def _colours(typing_context, luma, blue, red, at, out, out_at):
    def generate(context, builder, signature, arguments):
        wide = _vector(_int16, LANES)
        y, b, r = (
            _load(builder, _array(context, builder, kind, value), arguments[3], wide)
            for kind, value in zip((luma, blue, red), arguments[:3], strict=True)
        )
        y = builder.add(builder.lshr(y, _splat(_int16, LANES, 2)), _splat(_int16, LANES, 32))
        b, r = (builder.sub(each, _splat(_int16, LANES, MIDDLE)) for each in (b, r))

        def share(value: Any, factor: int) -> Any:
            return _high_half(builder, value, _splat(_int16, LANES, factor), builder.sext, builder.ashr)

        greens = builder.sub(builder.sub(y, share(b, _CB_TO_G)), share(r, _CR_TO_G))
        channels = (builder.add(y, share(r, _CR_TO_R)), greens, builder.add(y, share(b, _CB_TO_B)))
        target = _array(context, builder, out, arguments[4])
        for number, channel in enumerate(channels):
            level = _clamped(builder, builder.ashr(channel, _splat(_int16, LANES, 6)))
            _store(builder, level, target, builder.add(arguments[5], ir.Constant(_int64, LANES * number)))
        return context.get_dummy_value()

    i = types.int64
    return types.void(luma, blue, red, i, out, i), generate


@overload(weighted_columns, inline="always")
def _overload_weighted_columns(lines, taps, out, at):
    def implementation(lines, taps, out, at):
        _weighted_columns(lines, taps, out, at)  # type: ignore[call-arg]  # numba hands over the first

    return implementation


@overload(weighted_lanes, inline="always")
def _overload_weighted_lanes(columns, start, taps, out, at):
    def implementation(columns, start, taps, out, at):
        _weighted_lanes(columns, start, taps, out, at)  # type: ignore[call-arg]  # numba hands over the first

    return implementation


@overload(transpose_levels, inline="always")
def _overload_transpose_levels(rows, start, stride, out, at):
    def implementation(rows, start, stride, out, at):
        _transpose_levels(rows, start, stride, out, at)  # type: ignore[call-arg]  # numba hands over the first

    return implementation


@overload(transpose_bytes, inline="always")
def _overload_transpose_bytes(columns, start, out, at, stride):
    def implementation(columns, start, out, at, stride):
        _transpose_bytes(columns, start, out, at, stride)  # type: ignore[call-arg]  # numba hands over the first

    return implementation


@overload(colours, inline="always")
def _overload_colours(luma, blue, red, at, out, out_at):
    def implementation(luma, blue, red, at, out, out_at):
        _colours(luma, blue, red, at, out, out_at)  # type: ignore[call-arg]  # numba hands over the first

    return implementation


@intrinsic
def _store_past_cache(typing_context, source, start, out, at):
    def generate(context, builder, signature, arguments):
        source_value, start, out_value, at = arguments
        line = _load(builder, _array(context, builder, source, source_value), start, _vector(_int8, CACHE_LINE))
        target = builder.gep(_array(context, builder, out, out_value), [at])
        stored = builder.store(line, builder.bitcast(target, line.type.as_pointer()), align=CACHE_LINE)
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_int32, 1)]))
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, out, i), generate


@intrinsic
def _finish_stores(typing_context):
    def generate(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@overload(store_past_cache, inline="always")
def _overload_store_past_cache(source, start, out, at):
    def implementation(source, start, out, at):
        _store_past_cache(source, start, out, at)  # type: ignore[call-arg]  # numba hands over the first

    return implementation


@overload(finish_stores, inline="always")
def _overload_finish_stores():
    def implementation():
        _finish_stores()  # type: ignore[call-arg]  # numba hands over the first

    return implementation
