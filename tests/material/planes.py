"""Planes of noise, and what kernels and restatements make of them."""

import numpy as np

from backdrop.pipeline.beton.plane_kernels import SLACK_BYTES, Planes
from backdrop.pipeline.loader import _resize_kernels as kernels


def crop(
    planes: Planes, box: tuple[int, ...], side: int, is_flipped: bool, shrink: int = 1, *, past_line: int = 0
) -> np.ndarray:
    """A box of planes as the loader cuts it, uint8 RGB (side, side, 3); it may reach beyond the image.

    past_line: bytes between the beginning of a cache line and that of the result.
    """
    memory = kernels.make_resize_memory(max(planes.height, planes.width), np.array([side]), reaches_out=True)
    room = np.full(3 * side * side + 3 * kernels.CACHE_LINE, 7, np.uint8)
    begin = kernels.CACHE_LINE - room.ctypes.data % kernels.CACHE_LINE + past_line
    out = room[begin : begin + 3 * side * side].reshape(side, 3 * side)
    kernels.crop_planes(planes, kernels.Cut(box, shrink, is_flipped), out, memory)
    assert (room[:begin] == 7).all(), "nothing is written before its place"
    assert (room[begin + out.size :] == 7).all(), "nor behind it"
    return out.reshape(side, side, 3)


def random_planes(height: int, width: int, sub: tuple[int, int], has_colour: bool, seed: int) -> Planes:
    """Planes of noise, rows longer than they need be."""
    rows, columns = -(-height // sub[0]), -(-width // sub[1])
    luma, colour = (width + 3) * height, (columns + 1) * rows
    data = np.random.default_rng(seed).integers(1, 256, luma + 2 * colour + SLACK_BYTES, dtype=np.uint8)
    starts, strides = (0, luma, luma + colour), (width + 3, columns + 1, columns + 1)
    return Planes(data, has_colour, height, width, *sub, starts, strides)


def plane_arrays(planes: Planes) -> list[tuple[np.ndarray, int, int]]:
    """What `reference_loader.crop_image` takes."""
    found = []
    for number in range(3 if planes.has_colour else 1):
        sub_y, sub_x = (planes.sub_y, planes.sub_x) if number else (1, 1)
        rows, stride = -(-planes.height // sub_y), planes.strides[number]
        flat = planes.data[planes.starts[number] :][: rows * stride]
        found.append((flat.reshape(rows, stride)[:, : -(-planes.width // sub_x)].astype(float), sub_y, sub_x))
    return found
