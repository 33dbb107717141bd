"""The arrays of a part, kept in one file: `arrays.zip` holds the files that zarr makes of them, stored as they are.

One file and one folder a part, where each array by itself would take two files and two folders. Nothing in it is
compressed or aligned, so a range of its bytes is an array's chunk: mapped into memory, or got by a ranged request, at
the offset that the part's receipt states. Zarr reads it alone (`zarr.storage.ZipStore`). Its bytes are a function of
its content: no times, one order, one set of permissions.

Stores of schema 1 have each of these files by itself, and a store read through a cache has those that were fetched.
"""

import io
import os
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backdrop.bounded_files import open_plain
from backdrop.errors import CorruptStore

ARRAYS = "arrays.zip"
# Of a zip: what one of its files takes beyond name and content (30 + 46 bytes, and 2 x 28 where it is beyond 4 GiB).
MAX_OVERHEAD_BYTES = 256

# Of the header before each file of a zip: its length without the name and extra field, and where their lengths stand.
_HEADER_BYTES = 30
_LENGTHS_AT = 26
_EARLIEST = (1980, 1, 1, 0, 0, 0)
_UNIX, _READABLE = 3, 0o644 << 16


@dataclass(frozen=True, kw_only=True)
class ArrayPlace:
    """Where the bytes of one file of an array lie."""

    file: Path
    offset: int
    """Of its first byte in the file."""
    num_bytes: int
    """0 where the array has no entries: there is then no such file."""
    file_bytes: int
    """Of the whole file, as it must be."""

    def read(self) -> bytes:
        """Read them. Raises OSError; CorruptStore: it is no plain file, or not of its size."""
        if not self.num_bytes:
            return b""
        with open_plain(self.file) as opened:
            if os.fstat(opened.fileno()).st_size != self.file_bytes:
                raise CorruptStore(f"{self.file} is damaged: it has not the {self.file_bytes} bytes that it must have")
            opened.seek(self.offset)
            return opened.read(max(0, min(self.num_bytes, self.file_bytes - self.offset)))


def array_place(folder: Path, receipt: dict, name: str, *, is_packed: bool) -> ArrayPlace:
    """Where an array's file lies.

    Args:
        folder: of the part.
        receipt: its content.
        name: of the file, "mask/c/0".
        is_packed: whether it lies in `ARRAYS`; by itself otherwise.
    """
    stated = arrays_of(receipt).get(name, {"bytes": 0})
    if is_packed and "offset" in stated:
        file_bytes = receipt["files"].get(ARRAYS, {"bytes": 0})["bytes"]
        return ArrayPlace(
            file=folder / ARRAYS, offset=stated["offset"], num_bytes=stated["bytes"], file_bytes=file_bytes
        )
    return file_by_itself(folder / name, stated["bytes"])


def file_by_itself(file: Path, num_bytes: int) -> ArrayPlace:
    """The place of an array that is all of a file."""
    return ArrayPlace(file=file, offset=0, num_bytes=num_bytes, file_bytes=num_bytes)


def is_packed(receipt: dict) -> bool:
    """Whether a part was written with its arrays in one file, as those of schema 2 are."""
    return "arrays" in receipt


def arrays_of(receipt: dict) -> dict[str, dict]:
    """The files of a part's arrays: name -> "bytes", "sha256", and "offset" where they are packed."""
    return receipt["arrays"] if is_packed(receipt) else receipt["files"]


def pack(files: Mapping[str, bytes]) -> tuple[bytes, dict[str, int]]:
    """Pack the files of a part's arrays.

    Args: files: name -> content, names ASCII.
    Returns: The content of `ARRAYS`, and where in it each file's content begins.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, _EARLIEST)
            info.create_system, info.external_attr = _UNIX, _READABLE
            archive.writestr(info, files[name])
        headers = {info.filename: info.header_offset for info in archive.infolist()}
    data = packed.getbuffer()
    return bytes(data), {name: _content_at(data, header) for name, header in headers.items()}


def listed_places(file: Path) -> dict[str, tuple[int, int]]:
    """What `ARRAYS` says of itself, and zarr goes by: name -> offset and number of bytes of its content.

    Raises: CorruptStore: it is no such file, or compressed.
    """
    try:
        with open_plain(file) as opened, zipfile.ZipFile(opened) as archive:
            places = {}
            for info in archive.infolist():
                opened.seek(info.header_offset)
                at = info.header_offset + _content_at(memoryview(opened.read(_HEADER_BYTES)), 0)
                if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.filename in places:
                    raise CorruptStore(f"{file.name} is compressed or encrypted, or names {info.filename!r:.80} twice")
                places[info.filename] = (at, info.file_size)
            return places
    except (OSError, ValueError, NotImplementedError, EOFError, zipfile.BadZipFile, struct.error) as error:
        raise CorruptStore(f"{file.name} is no zip file ({type(error).__name__})") from error


def _content_at(data: memoryview, header: int) -> int:
    """Where a file's content begins, after the header at `header`."""
    name_bytes, extra_bytes = struct.unpack_from("<HH", data, header + _LENGTHS_AT)
    return header + _HEADER_BYTES + name_bytes + extra_bytes
