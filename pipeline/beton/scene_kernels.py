"""Numba kernels that read a scene's blobs: checksum, JPEG decoding, mask runs to words."""

import ctypes
import mmap

import llvmlite.binding
import numpy as np
from numba import types

from backdrop.kernels import kernel
from backdrop.pipeline.beton.turbojpeg import load as load_turbojpeg

# Not the "fast" DCT that FFCV asks for: it is no faster on a CPU with vector units, and measured 1 grey level too dark
# on average, up to 8 at single pixels. With the accurate DCT the pixels equal Pillow's.
#
# A compiled function that holds a ctypes pointer cannot be cached on disk. Instead the function's address is registered
# under a name, once per process, and compiled code refers to the name.
_turbojpeg = load_turbojpeg()
_DECOMPRESS = "backdrop_tjDecompress2"
llvmlite.binding.add_symbol(_DECOMPRESS, ctypes.cast(_turbojpeg.tjDecompress2, ctypes.c_void_p).value)
_decompress = types.ExternalFunction(
    _DECOMPRESS,
    types.int32(
        types.uintp,  # decoder
        types.uintp,  # JPEG bytes
        types.uint64,  # their number
        types.uintp,  # pixels
        types.int32,  # width
        types.int32,  # bytes from row to row
        types.int32,  # height
        types.int32,  # pixel format, 0 = RGB
        types.int32,  # flags, 0 = accurate DCT and smooth chroma
    ),
)
_ADVISE = "backdrop_madvise"
llvmlite.binding.add_symbol(_ADVISE, ctypes.cast(ctypes.CDLL(None).madvise, ctypes.c_void_p).value)
_advise = types.ExternalFunction(_ADVISE, types.int32(types.uintp, types.uintp, types.int32))  # start, bytes, advice
_init_decompress = ctypes.CFUNCTYPE(ctypes.c_void_p)(("tjInitDecompress", _turbojpeg))
_destroy = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(("tjDestroy", _turbojpeg))

_PRIME_1 = np.uint64(0x9E3779B185EBCA87)
_PRIME_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_PRIME_3 = np.uint64(0x165667B19E3779F9)
_PRIME_4 = np.uint64(0x85EBCA77C2B2AE63)
_PRIME_5 = np.uint64(0x27D4EB2F165667C5)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
# Markers of a JPEG: frames with one pass over all coefficients, the interval of restarts, a scan.
_BASELINE, _EXTENDED, _RESTARTS, _SCAN = 0xC0, 0xC1, 0xDD, 0xDA


def open_decoder() -> int:
    """Make a JPEG decoder for one thread at a time; give it back with `close_decoder`."""
    decoder = _init_decompress()
    if not decoder:
        raise MemoryError("libjpeg-turbo could not make a decoder")
    return decoder


def close_decoder(decoder: int) -> None:
    """Free a decoder."""
    _destroy(decoder)


@kernel
def will_need(file_bytes: np.ndarray, start: int, num_bytes: int) -> None:
    """Have a stretch of a mapped file read while something else is done: without it each page is waited for by itself.

    Of what is in memory it costs a microsecond. start: within the file. What the system does not take as advice, it
    leaves.
    """
    first = file_bytes.ctypes.data + start
    begin = first // mmap.PAGESIZE * mmap.PAGESIZE
    _advise(np.uintp(begin), np.uintp(first + num_bytes - begin), np.int32(mmap.MADV_WILLNEED))


@kernel
def _frame_header(data: np.ndarray) -> tuple[int, bool]:
    """Where the first frame header of a JPEG stands, uint8 (N,), -1 = nowhere; whether restarts are set before it."""
    at, has_restarts = 2, False
    while at + 9 <= data.size and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # without a payload
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return at, has_restarts
        else:
            has_restarts |= marker == _RESTARTS
            at += 2 + _two_bytes(data, at + 2)
    return -1, has_restarts


@kernel
def _two_bytes(data: np.ndarray, at: int) -> int:
    return (np.int64(data[at]) << 8) | data[at + 1]


@kernel
def jpeg_size(data: np.ndarray) -> tuple[int, int]:
    """(height, width) in the first frame header of a JPEG, uint8 (N,); (0, 0) where there is none.

    To be compared before `decode_jpeg`: of an image that is larger or smaller than asked for, libjpeg-turbo makes the
    next size that fits, and what was decoded before would stand in the rest.
    """
    at, _ = _frame_header(data)
    if at < 0:
        return np.int64(0), np.int64(0)
    return _two_bytes(data, at + 5), _two_bytes(data, at + 7)


@kernel
def height_of_one_scan(data: np.ndarray) -> int:
    """Where a JPEG says how high it is, uint8 (N,), if its rows are coded from the top in one scan without restarts.

    Its upper rows stay what they are when the height that it states is made less. Returns: -1 = of others.
    """
    frame, has_restarts = _frame_header(data)
    if frame < 0 or frame + 10 > data.size or has_restarts:
        return -1
    if data[frame + 1] != _BASELINE and data[frame + 1] != _EXTENDED:
        return -1
    at = frame
    while at + 5 <= data.size and data[at] == 0xFF:
        if data[at + 1] == _SCAN:
            return frame + 5 if data[at + 4] == data[frame + 9] else -1  # as many components as there are
        if data[at + 1] == _RESTARTS:
            return -1
        at += 2 + _two_bytes(data, at + 2)
    return -1


@kernel
def decode_jpeg(decoder: int, data: np.ndarray, height: int, width: int, pixels: np.ndarray, row_bytes: int) -> int:
    """Decode a JPEG of known size to RGB; returns 0, or -1 where libjpeg reports an error or a warning.

    decoder: of `open_decoder`. data: uint8 (N,). pixels: uint8, flat, at least height row_bytes long, written row by
    row. row_bytes: from the start of one row to that of the next, at least 3 width.
    """
    assert row_bytes >= 3 * width
    assert pixels.size >= row_bytes * height
    return _decompress(
        np.uintp(decoder), data.ctypes.data, data.size, pixels.ctypes.data, width, row_bytes, height, 0, 0
    )


@kernel
def _rotate(value: np.uint64, by: int) -> np.uint64:
    return (value << np.uint64(by)) | (value >> np.uint64(64 - by))


@kernel
def _round(state: np.uint64, word: np.uint64) -> np.uint64:
    return _rotate(state + word * _PRIME_2, 31) * _PRIME_1


@kernel
def _merge(state: np.uint64, lane: np.uint64) -> np.uint64:
    return (state ^ _round(np.uint64(0), lane)) * _PRIME_1 + _PRIME_4


@kernel
def _checksum_words(words: np.ndarray, num_bytes: int) -> np.uint64:
    """The part of XXH64 over whole 8-byte words."""
    num = words.size
    at = 0
    state = _PRIME_5
    if num_bytes >= 32:
        a, b, c, d = _PRIME_1 + _PRIME_2, _PRIME_2, np.uint64(0), np.uint64(0) - _PRIME_1
        while at + 4 <= num:
            a, b = _round(a, words[at]), _round(b, words[at + 1])
            c, d = _round(c, words[at + 2]), _round(d, words[at + 3])
            at += 4
        state = _rotate(a, 1) + _rotate(b, 7) + _rotate(c, 12) + _rotate(d, 18)
        state = _merge(_merge(_merge(_merge(state, a), b), c), d)
    state += np.uint64(num_bytes)
    while at < num:
        state = _rotate(state ^ _round(np.uint64(0), words[at]), 27) * _PRIME_1 + _PRIME_4
        at += 1
    return state


@kernel
def checksum(data: np.ndarray) -> np.uint64:
    """XXH64 (seed 0) of data, uint8 (N,) starting at a multiple of 8 bytes; about 10 GB/s."""
    num_words = data.size // 8
    state = _checksum_words(data[: 8 * num_words].view(np.uint64), data.size)
    at = 8 * num_words
    if at + 4 <= data.size:
        word = np.uint64(0)
        for k in range(4):
            word |= np.uint64(data[at + k]) << np.uint64(8 * k)
        state = _rotate(state ^ (word * _PRIME_1), 23) * _PRIME_2 + _PRIME_3
        at += 4
    while at < data.size:
        state = _rotate(state ^ (np.uint64(data[at]) * _PRIME_5), 11) * _PRIME_1
        at += 1
    state = (state ^ (state >> np.uint64(33))) * _PRIME_2
    state = (state ^ (state >> np.uint64(29))) * _PRIME_3
    return state ^ (state >> np.uint64(32))


@kernel
def expand_runs(runs: np.ndarray, words: np.ndarray) -> bool:
    """Write runs of set bits into mask words; False (words unfinished) where the runs are no mask of this size.

    runs: uint32 (2 N,), start and end of each run in the bits of all words, ascending. words: uint64 flat, overwritten.
    """
    words[:] = np.uint64(0)
    if runs.size % 2:
        return False
    previous, num_bits = np.int64(0), np.int64(words.size) * 64
    for k in range(0, runs.size, 2):
        start, end = np.int64(runs[k]), np.int64(runs[k + 1])
        if start < previous or end <= start or end > num_bits:
            return False
        previous = end
        first, last = start >> 6, (end - 1) >> 6
        head = _ALL >> np.uint64(start & 63)
        tail = _ALL << np.uint64(63 - ((end - 1) & 63))
        if first == last:
            words[first] |= head & tail
        else:
            words[first] |= head
            for w in range(first + 1, last):
                words[w] = _ALL
            words[last] |= tail
    return True


@kernel
def is_within(words: np.ndarray, width: int) -> bool:
    """Whether no bit beyond a mask's width is set; words: uint64 (H, ceil(width / 64))."""
    if width % 64 == 0:
        return True
    padding = _ALL >> np.uint64(width % 64)
    bits = np.uint64(0)
    for y in range(words.shape[0]):
        bits |= words[y, -1]
    return (bits & padding) == 0
