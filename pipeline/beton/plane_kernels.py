"""Images as planes: a JPEG decoded to what it stores, luma and two colour differences, or stored as that.

Nothing is up-sampled and no colours are converted here: what is cut out of an image is resized plane by plane. JPEGs
whose planes are none of those (three components that are RGB already, sampling that libjpeg-turbo has no name for) are
decoded to RGB, of which planes of full size are made.
"""

import ctypes
from typing import Any, NamedTuple

import llvmlite.binding
import numpy as np
from numba import types
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic, overload

from backdrop.kernels import follow_sources, kernel
from backdrop.pipeline.beton import scene_kernels
from backdrop.pipeline.beton.scene_kernels import (
    close_decoder,
    decode_jpeg,
    height_of_one_scan,
    jpeg_size,
    open_decoder,
)
from backdrop.pipeline.beton.turbojpeg import load as load_turbojpeg

# As in scene_kernels.py: compiled code that is cached on disk refers to a name, not to an address.
_turbojpeg = load_turbojpeg()
_HEADER, _PLANES = "backdrop_tjDecompressHeader3", "backdrop_tjDecompressToYUVPlanes"
for _name, _function in ((_HEADER, _turbojpeg.tjDecompressHeader3), (_PLANES, _turbojpeg.tjDecompressToYUVPlanes)):
    llvmlite.binding.add_symbol(_name, ctypes.cast(_function, ctypes.c_void_p).value)
_read_header: Any = types.ExternalFunction(
    # decoder, bytes and their number; addresses of width, height, sampling and colour space
    _HEADER, types.int32(types.uintp, types.uintp, types.uint64, *[types.uintp] * 4)
)  # fmt: skip
_decompress_planes: Any = types.ExternalFunction(
    _PLANES,
    types.int32(
        types.uintp,  # decoder
        types.uintp,  # JPEG bytes
        types.uint64,  # their number
        types.uintp,  # addresses of the planes
        types.int32,  # width
        types.uintp,  # bytes from row to row of each plane, 0 = rows without gaps
        types.int32,  # height
        types.int32,  # flags, 0 = accurate DCT
    ),
)

_SPACE_YCBCR, _SPACE_GREY = 1, 2
_MESSAGE, _FIND = "backdrop_tjGetErrorStr2", "backdrop_strstr"
for _name, _function in ((_MESSAGE, _turbojpeg.tjGetErrorStr2), (_FIND, ctypes.CDLL(None).strstr)):
    llvmlite.binding.add_symbol(_name, ctypes.cast(_function, ctypes.c_void_p).value)
_message: Any = types.ExternalFunction(_MESSAGE, types.uintp(types.uintp))  # of a decoder, where it stands
_find: Any = types.ExternalFunction(_FIND, types.uintp(types.uintp, types.uintp))  # a text in another, 0 = not there
# What libjpeg says first of an image of which nothing is wrong but that there are more rows than its header says. Of
# one that is damaged above, that is not what it says first.
_MORE_ROWS = np.frombuffer(b"extraneous bytes before marker 0xd9\0", np.uint8)

# libjpeg-turbo's names of samplings as what one pixel of colour stands for, (rows, columns): 4:4:4, 4:2:2, 4:2:0, grey,
# 4:4:0, 4:1:1.
_SAMPLING = ((1, 1), (1, 2), (2, 2), (1, 1), (2, 1), (1, 4))
# Planes are read this many bytes past their end, at most.
SLACK_BYTES = 32
# How planes that are stored as they are begin; a JPEG begins with 0xFF.
STORED = np.frombuffer(b"YUV420\0\0", np.uint8)


class Planes(NamedTuple):
    """The planes of an image, each without gaps between its rows, in one flat array."""

    data: np.ndarray  # uint8 flat
    has_colour: bool  # where not, there is luma alone
    height: int  # pixels of the image
    width: int
    sub_y: int  # rows of the image that one of the colour planes stands for
    sub_x: int  # likewise columns
    starts: tuple[int, int, int]  # of each plane in `data`
    strides: tuple[int, int, int]  # bytes from row to row


class DecodeMemory(NamedTuple):
    """What decoding writes to, for one thread."""

    decoder: int  # of JPEGs
    pixels: np.ndarray  # uint8 flat, planes
    rgb: np.ndarray  # uint8 flat, of those few images that are decoded to RGB
    header: np.ndarray  # int32 (4,)
    addresses: np.ndarray  # int64 (3,)


def make_decode_memory(height: int, width: int) -> DecodeMemory:
    """Allocate for images of up to height x width pixels; free it with `close_decode_memory`."""
    padded = (height + 1) * (width + 3)
    return DecodeMemory(
        decoder=open_decoder(),
        pixels=np.zeros(3 * padded + SLACK_BYTES, np.uint8),
        rgb=np.empty(3 * height * width, np.uint8),
        header=np.zeros(4, np.int32),
        addresses=np.zeros(3, np.int64),
    )


def close_decode_memory(memory: DecodeMemory) -> None:
    """Free the decoder."""
    close_decoder(memory.decoder)


@kernel
def decode_planes(memory: DecodeMemory, data: np.ndarray, height: int, width: int) -> tuple[int, Planes]:
    """Decode a JPEG into a thread's memory.

    data: uint8 (N,). height, width: of the image; or of it 2, 4 or 8 times smaller, rounded up.
    Returns: (0, planes), or -1 where libjpeg reports an error or a warning.
    """
    return decode_upper_planes(memory, data, height, width, 1, height)


@kernel
def decode_upper_planes(
    memory: DecodeMemory, data: np.ndarray, height: int, width: int, shrink: int, end_row: int
) -> tuple[int, Planes]:
    """Decode a JPEG into a thread's memory, of its rows only those that are wanted, where it can be left there.

    data: uint8 (N,). height, width: of the image. shrink: how many times smaller it is decoded: 1, 2, 4 or 8.
    end_row: of the image, behind the last that is wanted. What stands in the planes below is left over from others.
    Returns: as `decode_planes`; damage below what was decoded is not seen, so the bytes should be known to be right.
    """
    shrunk_height, shrunk_width = (height + shrink - 1) // shrink, (width + shrink - 1) // shrink
    is_planes, planes = _laid_out(memory, data, shrunk_height, shrunk_width)
    if not is_planes:
        return _decode_as_rgb(memory, data, shrunk_height, shrunk_width)
    # Colour of which one pixel stands for several reaches over into their neighbours.
    reach = planes.sub_y * shrink
    wanted = ((max(end_row, 1) + reach - 1) // reach + planes.sub_y - 1) * reach
    coded = (wanted + 8 * planes.sub_y - 1) // (8 * planes.sub_y) * (8 * planes.sub_y)
    place = height_of_one_scan(data) if coded < height and data.size <= memory.rgb.size else -1
    if place >= 0:
        lowered = memory.rgb[: data.size]
        copy_row(data, lowered)
        lowered[place], lowered[place + 1] = np.uint8(coded >> 8), np.uint8(coded & 255)
        status = _fill(memory, lowered, planes, (coded + shrink - 1) // shrink)
        if status == 0 or _find(_message(np.uintp(memory.decoder)), _MORE_ROWS.ctypes.data) != 0:
            return 0, planes
    return _fill(memory, data, planes, shrunk_height), planes


@kernel
def _laid_out(memory, data, height, width):
    """Where the planes of a JPEG, decoded to height x width pixels, come to lie; False where it has none of ours."""
    header = memory.header
    at = header.ctypes.data
    status = _read_header(np.uintp(memory.decoder), data.ctypes.data, data.size, at, at + 4, at + 8, at + 12)
    sampling, space = header[2], header[3]
    is_grey = space == _SPACE_GREY
    is_ours = status == 0 and 0 <= sampling < len(_SAMPLING) and (is_grey or space == _SPACE_YCBCR)
    sub_y, sub_x = _SAMPLING[sampling if is_ours else 0]
    rows, columns = (height + sub_y - 1) // sub_y, (width + sub_x - 1) // sub_x
    blue = rows * sub_y * columns * sub_x
    starts, strides = (0, blue, blue + rows * columns), (columns * sub_x, columns, columns)
    return is_ours, Planes(memory.pixels, not is_grey, height, width, sub_y, sub_x, starts, strides)


@kernel
def _fill(memory, data, planes, height):
    """Decode the planes of a JPEG that says it is this high, times what it is decoded smaller."""
    assert memory.pixels.size >= planes.starts[2] + planes.starts[2] - planes.starts[1] + SLACK_BYTES
    for number in range(3):
        memory.addresses[number] = memory.pixels.ctypes.data + planes.starts[number]
    return _decompress_planes(
        np.uintp(memory.decoder), data.ctypes.data, data.size, memory.addresses.ctypes.data, planes.width, np.uintp(0),
        height, 0,
    )  # fmt: skip


@kernel
def _decode_as_rgb(memory, data, height, width):
    """Decode to RGB, and make planes of that."""
    status = decode_jpeg(memory.decoder, data, height, width, memory.rgb, 3 * width)
    return status, planes_of_rgb(memory.rgb, height, width, memory.pixels)


@kernel
def planes_of_rgb(rgb: np.ndarray, height: int, width: int, pixels: np.ndarray) -> Planes:
    """The planes of full size of RGB pixels, uint8 flat, as JFIF makes them; written into `pixels`."""
    size = height * width
    for at in range(size):
        r, g, b = np.float64(rgb[3 * at]), np.float64(rgb[3 * at + 1]), np.float64(rgb[3 * at + 2])
        luma = 0.299 * r + 0.587 * g + 0.114 * b
        pixels[at] = np.uint8(luma + 0.5)
        pixels[size + at] = np.uint8(min((b - luma) / 1.772 + 128.5, 255.0))
        pixels[2 * size + at] = np.uint8(min((r - luma) / 1.402 + 128.5, 255.0))
    return Planes(pixels, True, height, width, 1, 1, (0, size, 2 * size), (width, width, width))


# --- planes that are stored as they are: 4:2:0, luma padded to even sides --------------------------------------------


@kernel
def stored_bytes(height: int, width: int) -> int:
    """Size of the planes of an image as they are stored."""
    return STORED.size + 6 * ((height + 1) // 2) * ((width + 1) // 2) + SLACK_BYTES


@kernel
def is_stored(data: np.ndarray, height: int, width: int) -> bool:
    """Whether a blob, uint8 (N,), holds the planes of an image of this size."""
    if data.size != stored_bytes(height, width):
        return False
    is_same = True
    for k in range(STORED.size):
        is_same = is_same and data[k] == STORED[k]
    return is_same


@kernel
def has_size(data: np.ndarray, height: int, width: int) -> bool:
    """Whether a blob holds stored planes, RGB pixels, or a JPEG whose header says so, of an image of this size."""
    is_planes_or_jpeg = is_stored(data, height, width) or jpeg_size(data) == (height, width)
    return is_planes_or_jpeg or is_rgb(data, height, width)


@kernel
def is_rgb(data: np.ndarray, height: int, width: int) -> bool:
    """Whether a blob holds RGB pixels of an image of this size, row by row, as FFCV's own files may."""
    return data.size == 3 * height * width and jpeg_size(data) != (height, width)


@kernel
def stored_planes(data: np.ndarray, height: int, width: int) -> Planes:
    """The planes in a blob that `is_stored`; nothing is copied."""
    rows, columns = (height + 1) // 2, (width + 1) // 2
    blue = STORED.size + 4 * rows * columns
    starts = (STORED.size, blue, blue + rows * columns)
    return Planes(_readable(data), True, height, width, 2, 2, starts, (2 * columns, columns, columns))


def _readable(data):
    """An array of a mapped file, as which the compiler takes one that may be written; it is not."""
    return data


@overload(_readable, inline="always")
def _overload_readable(data):
    def implementation(data):
        return _cast(data)  # type: ignore[call-arg]  # numba hands over the first

    return implementation


@intrinsic
def _cast(typing_context, data):
    def generate(context, builder, signature, arguments):
        return impl_ret_borrowed(context, builder, signature.return_type, arguments[0])

    return types.Array(types.uint8, 1, "C")(data), generate


@kernel
def copy_row(source: np.ndarray, out: np.ndarray) -> None:
    """out[: source.size] = source, for which numba compiles the error message too, some seconds; (N,) and (>= N,)."""
    for j in range(source.size):
        out[j] = source[j]


@kernel
def to_420(planes: Planes, number: int, out: np.ndarray) -> None:
    """Write a colour plane, 1 or 2, with a pixel for four of the image: the mean where there are more.

    out: uint8 (>= (height + 1) // 2, >= (width + 1) // 2), written at the top left.
    """
    data, start, stride = planes.data, planes.starts[number], planes.strides[number]
    rows, columns = (planes.height + 1) // 2, (planes.width + 1) // 2
    for y in range(rows):
        if not planes.has_colour:
            out[y, :columns] = np.uint8(128)
        elif planes.sub_y == 2 and planes.sub_x == 2:
            begin = start + y * stride
            copy_row(data[begin : begin + columns], out[y])
        else:
            above = start + 2 * y // planes.sub_y * stride
            below = start + min(2 * y + 1, planes.height - 1) // planes.sub_y * stride
            for x in range(columns):
                left, right = 2 * x // planes.sub_x, min(2 * x + 1, planes.width - 1) // planes.sub_x
                total = np.int64(data[above + left]) + data[above + right] + data[below + left] + data[below + right]
                out[y, x] = np.uint8((total + 2) >> 2)


@kernel
def store_planes(planes: Planes, out: np.ndarray) -> None:
    """Write planes as they are stored; out: uint8 (stored_bytes,)."""
    rows, columns = (planes.height + 1) // 2, (planes.width + 1) // 2
    out[:] = np.uint8(0)
    copy_row(STORED, out)
    at = STORED.size
    luma = out[at : at + 4 * rows * columns].reshape(2 * rows, 2 * columns)
    for y in range(planes.height):
        begin = planes.starts[0] + y * planes.strides[0]
        copy_row(planes.data[begin : begin + planes.width], luma[y])
    at += luma.size
    for number in (1, 2):
        to_420(planes, number, out[at : at + rows * columns].reshape(rows, columns))
        at += rows * columns


follow_sources(__name__, scene_kernels)
