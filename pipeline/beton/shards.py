"""A .beton of many rows is a folder of shards, which stands for one file: names, places, and mapping them as one.

NAME.beton/
    NAME-00000-of-00079.beton        rows 0 to 16,383: a file in FFCV's format of its own
    NAME-00000-of-00079.beton.json   what is said of it, written once it is whole
    ...
    records                          the records of all rows, their pointers counted over the shards laid end to end
    shards.json                      what is said of all of it, written last: a folder without is not finished
"""

import ctypes
import mmap
import re
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

SIDECAR = "shards.json"
RECORDS = "records"
SHARD_NAME = re.compile(r".+-\d{5,}-of-\d{5,}\.beton")
_OUR_NAME = re.compile(r".+-\d{5,}-of-\d{5,}\.beton(\.json|\.partial)?|records|shards\.json|\..+\.partial")
# Shards begin at multiples of this in the address space: of the pages of any machine.
_ALIGNMENT_BYTES = 1 << 16
# The same number on Linux, macOS and BSD.
_MAP_FIXED = 0x10
_FAILED = ctypes.c_void_p(-1).value


def shard_name(stem: str, number: int, count: int) -> str:
    """Return the name of a shard's file."""
    return f"{stem}-{number:05d}-of-{count:05d}.beton"


def is_ours(name: str) -> bool:
    """Whether an export into a folder of shards writes a file of that name."""
    return bool(_OUR_NAME.fullmatch(name))


def rows_of_shard(number: int, num_rows: int, shard_rows: int) -> range:
    """Return the rows of a shard. Args: num_rows: of all. shard_rows: of each but the last."""
    return range(number * shard_rows, min(num_rows, (number + 1) * shard_rows))


def whole_of(path: Path) -> Path | None:
    """Return the folder of shards that is meant by itself or by a pattern of their names, `NAME-*.beton`; else None."""
    folder = path.parent if "*" in path.name else path
    return folder if (folder / SIDECAR).is_file() else None


def places(sizes_bytes: Sequence[int]) -> list[int]:
    """Return where each shard begins when all are laid end to end, and at last where they end."""
    return [0, *accumulate(-(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES for size in sizes_bytes)]


def map_end_to_end(files: Sequence[Path], sizes_bytes: Sequence[int]) -> np.ndarray:
    """Map files into one stretch of the address space, each at its place, so that they are read like one.

    Args: files: in order. sizes_bytes: of each, more than 0.
    Returns: uint8, read-only; no file stays open. Raises: OSError: a file cannot be opened or mapped.
    """
    starts = places(sizes_bytes)
    # Address space alone: nothing is there until a file is put in its place; gone with the array.
    reserved = mmap.mmap(-1, starts[-1], flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    stretch = np.frombuffer(reserved, np.uint8)
    for file, start, size in zip(files, starts, sizes_bytes, strict=False):
        with file.open("rb") as opened:
            _map_at(stretch.ctypes.data + start, size, opened.fileno())
    return stretch


def _map_at(address: int, num_bytes: int, descriptor: int) -> None:
    """Have a file in the place of what is mapped at an address of ours."""
    system_call = ctypes.CDLL(None, use_errno=True).mmap
    system_call.restype = ctypes.c_void_p
    system_call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    flags = mmap.MAP_SHARED | _MAP_FIXED
    if system_call(address, num_bytes, mmap.PROT_READ, flags, descriptor, 0) == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, f"a shard cannot be mapped: error {code}")
