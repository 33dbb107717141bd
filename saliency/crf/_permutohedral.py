"""Numba kernels of the dense CRF: filtering on the permutohedral lattice; `dense_crf.py` is the interface.

Source: Adams, Baek, Davis, Fast High-Dimensional Filtering Using the Permutohedral Lattice, Eurographics 2010, and its
form in the dense CRF of Kraehenbuehl and Koltun, NIPS 2011. Every choice the paper leaves open (which of two equally
near lattice points, which of two equal residuals comes first) is made as in the authors' C++, because 8-bit photographs
tie often, and a vertex of weight 0 still passes on blurred values.

A feature of D numbers is a point of the hyperplane of D + 1 coordinates that sum to 0. A lattice point is an integer
point of that plane whose coordinates leave the same remainder modulo D + 1. Its key is one int64, the sum of
coordinate * unit: the D + 1 blur directions and the edges of every simplex are then the same D + 1 numbers, added to or
taken from a key.

Shapes: N = H * W pixels, P lattice points, D feature dimensions (2 of position, then the C colour channels).
"""

import math
from typing import NamedTuple

import numpy as np

from backdrop.kernels import kernel

# Slots of the hash table of an image that has not shown yet how many it needs; a power of two.
FIRST_CAPACITY = 1 << 15
# 2^64 over the golden ratio: the high bits of its product with a key are evenly spread.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


class Lattice(NamedTuple):
    """The simplex of every pixel, and the neighbours of every lattice point."""

    vertex: np.ndarray  # int32 (N, D + 1), which lattice points
    weight: np.ndarray  # float32 (N, D + 1), barycentric, times the pixel's normalisation
    neighbour: np.ndarray  # int32 (D + 1, P, 2), lattice points one step back and one on; P = none there


class _Table(NamedTuple):
    """Open addressing with linear probing, at most half full."""

    slot: np.ndarray  # int32 (capacity), a lattice point or -1
    key: np.ndarray  # int64 (capacity // 2), of every lattice point


class _PixelRow(NamedTuple):
    """Work space: one row of pixels on the hyperplane."""

    elevated: np.ndarray  # float32 (D + 1, W)
    nearest: np.ndarray  # float32 (D + 1, W), the point of remainder 0 of the simplex
    rank: np.ndarray  # int32 (D + 1, W), place of each coordinate in the order of the residuals


@kernel
def _elevate(scaled_DW: np.ndarray, elevated: np.ndarray) -> None:
    """Features of a row of pixels onto the hyperplane (p. 5 of the paper): (D, W) to (D + 1, W)."""
    num_dimensions, width = scaled_DW.shape
    total = elevated[0]
    total[:] = 0
    for axis in range(num_dimensions, 0, -1):
        factor = np.float32(axis)
        for x in range(width):
            elevated[axis, x] = total[x] - factor * scaled_DW[axis - 1, x]
        for x in range(width):
            total[x] += scaled_DW[axis - 1, x]


@kernel
def _round_and_rank(elevated: np.ndarray, nearest: np.ndarray, rank: np.ndarray) -> None:
    """The point of remainder 0 of the simplex each pixel lies in, and the order of the residuals, largest first.

    Args:
        elevated: float32 (D + 1, W).
        nearest: float32 (D + 1, W), written: the point.
        rank: int32 (D + 1, W), written: place of each coordinate in the order.
    """
    num_axes, width = elevated.shape
    up, down = np.float32(num_axes), np.float32(1) / np.float32(num_axes)
    excess = np.zeros(width, np.int32)
    for axis in range(num_axes):
        for x in range(width):
            multiple = np.rint(down * elevated[axis, x])
            nearest[axis, x] = multiple * up
            excess[x] += np.int32(multiple)
            rank[axis, x] = 0
    for i in range(num_axes - 1):
        for j in range(i + 1, num_axes):
            for x in range(width):
                is_less = elevated[i, x] - nearest[i, x] < elevated[j, x] - nearest[j, x]
                rank[i, x] += np.int32(is_less)
                rank[j, x] += np.int32(not is_less)
    # Rounding left the hyperplane by `excess` multiples: the coordinates that were rounded furthest go back.
    for axis in range(num_axes):
        for x in range(width):
            place = rank[axis, x] + excess[x]
            wrap = np.int32(place < 0) - np.int32(place >= num_axes)
            rank[axis, x] = place + wrap * np.int32(num_axes)
            nearest[axis, x] += np.float32(wrap) * up


@kernel
def _first_slot(key: int, capacity: int) -> int:
    """Where the search for a key starts."""
    spread = np.uint64(key) * _SPREAD
    return np.int64((spread >> np.uint64(32)) & np.uint64(capacity - 1))


@kernel
def _find(table: _Table, key: int) -> int:
    """Slot that holds a key, or the empty one where it belongs."""
    capacity = len(table.slot)
    place = _first_slot(key, capacity)
    while table.slot[place] >= 0 and table.key[table.slot[place]] != key:
        place = (place + 1) & (capacity - 1)
    return place


@kernel
def _grow(table: _Table, num_points: int, num_new: int) -> _Table:
    """The same table if it has room for `num_new` more points, else a larger one."""
    capacity = len(table.slot)
    if num_points + num_new <= capacity // 2:
        return table
    while num_points + num_new > capacity // 2:
        capacity *= 2
    larger = _Table(np.full(capacity, -1, np.int32), np.empty(capacity // 2, np.int64))
    for point in range(num_points):
        larger.key[point] = table.key[point]
        larger.slot[_find(larger, table.key[point])] = point
    return larger


@kernel
def _scale_row(image_WC: np.ndarray, columns_W: np.ndarray, row: float, levels: np.ndarray, scaled_DW: np.ndarray):
    """Fill in the scaled features of one row of pixels."""
    for x in range(len(columns_W)):
        scaled_DW[0, x] = columns_W[x]
        scaled_DW[1, x] = row
        for channel in range(len(levels)):
            scaled_DW[2 + channel, x] = levels[channel, image_WC[x, channel]]


@kernel
def _place_row(pixels, units, steps, table, num_points, vertex, weight) -> int:
    """Vertices and barycentric weights of one row of pixels; returns how many lattice points there are now.

    The vertex of remainder r + 1 is one step from that of remainder r: along the coordinate of rank D - r.
    """
    elevated, nearest, rank = pixels.elevated, pixels.nearest, pixels.rank
    num_axes, width = elevated.shape
    down = np.float32(1) / np.float32(num_axes)
    axis_of_rank = np.empty(num_axes, np.int64)
    residual = np.empty(num_axes, np.float32)
    last_key = np.zeros(num_axes, np.int64)
    last_point = np.full(num_axes, -1, np.int32)  # neighbouring pixels share most vertices
    for x in range(width):
        key = np.int64(0)
        for axis in range(num_axes):
            place = rank[axis, x]
            axis_of_rank[place] = axis
            residual[place] = (elevated[axis, x] - nearest[axis, x]) * down
            key += np.int64(nearest[axis, x]) * units[axis]
        weight[x, 0] = residual[num_axes - 1] + (np.float32(1) - residual[0])
        for remainder in range(num_axes):
            if remainder > 0:
                key += steps[axis_of_rank[num_axes - remainder]]
                weight[x, remainder] = residual[num_axes - 1 - remainder] - residual[num_axes - remainder]
            if last_key[remainder] != key or last_point[remainder] < 0:
                slot = _find(table, key)
                if table.slot[slot] < 0:
                    table.slot[slot] = num_points
                    table.key[num_points] = key
                    num_points += 1
                last_key[remainder], last_point[remainder] = key, table.slot[slot]
            vertex[x, remainder] = last_point[remainder]
    return num_points


@kernel
def _neighbours(table: _Table, num_points: int, steps: np.ndarray) -> np.ndarray:
    """Both neighbours of every lattice point in every blur direction: int32 (D + 1, P, 2)."""
    neighbour = np.full((len(steps), num_points, 2), num_points, np.int32)
    for direction in range(len(steps)):
        for point in range(num_points):
            other = table.slot[_find(table, table.key[point] + steps[direction])]
            if other >= 0:
                neighbour[direction, point, 1] = other
                neighbour[direction, other, 0] = point
    return neighbour


@kernel
def splat(lattice: Lattice, values_N: np.ndarray) -> np.ndarray:
    """Sum of the pixels' weighted values at every lattice point; one more that stays 0 stands for none: (P + 1)."""
    table = np.zeros(lattice.neighbour.shape[1] + 1, np.float32)
    for pixel in range(len(values_N)):
        for remainder in range(lattice.vertex.shape[1]):
            table[lattice.vertex[pixel, remainder]] += lattice.weight[pixel, remainder] * values_N[pixel]
    return table


@kernel
def blur(lattice: Lattice, table: np.ndarray) -> np.ndarray:
    """Blur by (1/2, 1, 1/2) along every direction in turn: float32 (P + 1), `table` is overwritten."""
    half = np.float32(0.5)
    other = np.zeros_like(table)
    for direction in range(len(lattice.neighbour)):
        pairs = lattice.neighbour[direction]
        for point in range(len(pairs)):
            other[point] = table[point] + half * (table[pairs[point, 0]] + table[pairs[point, 1]])
        table, other = other, table
    return table


@kernel
def slice_onto(lattice: Lattice, table: np.ndarray, values_N: np.ndarray) -> None:
    """Add to every pixel's value the weighted sum at its vertices."""
    for pixel in range(len(values_N)):
        total = np.float32(0)
        for remainder in range(lattice.vertex.shape[1]):
            total += lattice.weight[pixel, remainder] * table[lattice.vertex[pixel, remainder]]
        values_N[pixel] += total


@kernel
def _normalise(lattice: Lattice) -> None:
    """Fold the symmetric normalisation 1 / sqrt(K 1) of every pixel into its weights.

    The constant factor that the paper gives the blurred values cancels here.
    """
    kernel_sum_N = np.zeros(len(lattice.vertex), np.float32)
    slice_onto(lattice, blur(lattice, splat(lattice, np.ones_like(kernel_sum_N))), kernel_sum_N)
    for pixel in range(len(kernel_sum_N)):
        lattice.weight[pixel] *= np.float32(1 / math.sqrt(kernel_sum_N[pixel]))


@kernel
def build(
    image_HWC: np.ndarray, columns_W: np.ndarray, rows_H: np.ndarray, levels: np.ndarray, units: np.ndarray
) -> Lattice:
    """The lattice of the features (column, row, channels), normalised.

    Args:
        image_HWC: uint8; no channels gives the lattice of position alone.
        columns_W: float32, scaled feature of every column.
        rows_H: float32, of every row.
        levels: float32 (C, 256), of every level of every channel.
        units: int64 (D + 1), what one of each coordinate adds to a key; the last is 0.
    """
    height, width, num_channels = image_HWC.shape
    num_axes = num_channels + 3
    steps = units.sum() - num_axes * units
    scaled_DW = np.empty((num_axes - 1, width), np.float32)
    elevated, nearest = np.empty((num_axes, width), np.float32), np.empty((num_axes, width), np.float32)
    row = _PixelRow(elevated, nearest, np.empty((num_axes, width), np.int32))
    vertex = np.empty((height * width, num_axes), np.int32)
    weight = np.empty((height * width, num_axes), np.float32)
    table = _Table(np.full(FIRST_CAPACITY, -1, np.int32), np.empty(FIRST_CAPACITY // 2, np.int64))
    num_points = 0
    for y in range(height):
        _scale_row(image_HWC[y], columns_W, rows_H[y], levels, scaled_DW)
        _elevate(scaled_DW, row.elevated)
        _round_and_rank(row.elevated, row.nearest, row.rank)
        table = _grow(table, num_points, width * num_axes)
        pixels = slice(y * width, (y + 1) * width)
        num_points = _place_row(row, units, steps, table, num_points, vertex[pixels], weight[pixels])
    lattice = Lattice(vertex, weight, _neighbours(table, num_points, steps))
    _normalise(lattice)
    return lattice
