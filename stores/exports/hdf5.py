"""The masks of a store in one HDF5 file, for readers with h5py (or any HDF5 library) alone.

| dataset                         | content                                                           |
|---------------------------------|-------------------------------------------------------------------|
| `mask`                          | uint8: the packed rows of all masks end to end, compressed (gzip) |
| `mask_offsets`                  | int64 (rows + 1,): row i is `mask[offsets[i]:offsets[i + 1]]`     |
| `height width label status ...` | the columns of the store (`stores/README.md`), one entry per row  |
| `key`, `message`                | UTF-8; the message says why a row has no mask                     |

A mask is `numpy.unpackbits(mask[begin:end].reshape(height, -1), axis=1, count=width)`, 1 = foreground; a row without a
mask (status 3 or 4) has no bytes. The file's attributes hold the store's id and identity, and this in short.
"""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from backdrop.disk_errors import disk_errors
from backdrop.durable_files import written_aside
from backdrop.errors import UserError
from backdrop.stores.format import schema
from backdrop.stores.format.reader import Store
from backdrop.stores.format.schema import Status

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

FORMAT = "backdrop-hdf5"
FORMAT_VERSION = 1
# A random mask costs the unpacking of one chunk or two.
CHUNK_BYTES = 64 << 10
GZIP_LEVEL = 4
HOW_TO_READ = (
    "row i: numpy.unpackbits(mask[mask_offsets[i]:mask_offsets[i + 1]].reshape(height[i], -1), axis=1, count=width[i]);"
    " 1 = foreground; status 0 ok, 1 no foreground, 2 all foreground, 3 image undecodable, 4 mask unusable (no bytes)"
)

WITH_MASK = tuple(int(status) for status in Status if status.has_mask)


def export(store: Store, out: Path, *, progress: Callable[[int], None] = lambda num_rows: None) -> Path:
    """Write the masks of a store to an HDF5 file; one of the same store that is there already is kept.

    Args:
        store: a finished store.
        out: the file; it appears whole or not at all.
        progress: called with the number of rows written since the last call.

    Returns:
        out.

    Raises:
        UserError: something else lies at `out`.
        CorruptStore: the store is damaged.
    """
    if is_there(out, store):
        return out
    store.prefetch(*(column.name for column in schema.COLUMNS), "key", "message", "mask")
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(out) as aside, _PatientFile(aside) as disk:
            with h5py.File(disk, "w") as file:
                _write_attributes(file, store)
                for column in schema.COLUMNS:
                    file.create_dataset(column.name, (len(store), *column.row_shape), column.dtype)
                _write_rows(file, store, disk, progress)
            disk.check()
    return out


class _PatientFile(io.FileIO):
    """A file that keeps a disk's refusal to itself until it is asked.

    HDF5 does not live with one: its library cannot close the file then, h5py prints tracebacks while it lets go of the
    parts, and a later file may end the process. It gets no error to see, and reads back what it wrote: from memory what
    came after the refusal, which is no more than a part, for then it is asked.
    """

    refusal: OSError | None = None

    def __init__(self, path: Path) -> None:
        """Open an empty file. Args: path: of it."""
        super().__init__(path, "w+")
        self._kept: list[tuple[int, bytes]] = []  # (offset, content) that the disk did not take, in order
        self._at = self._end = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to an offset from the beginning, from here, or from the end of what HDF5 believes is there."""
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence] + offset
        return self._at

    def tell(self) -> int:
        """Return the offset."""
        return self._at

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write all of it, or keep it."""
        content = memoryview(data).cast("B")
        try:
            if self.refusal is None:
                self._write_all(content)
        except OSError as error:
            self.refusal = error
        if self.refusal is not None:
            self._kept.append((self._at, bytes(content)))
        self._at += len(content)
        self._end = max(self._end, self._at)
        return len(content)

    def _write_all(self, content: memoryview) -> None:
        done = 0
        while done < len(content):
            done += os.pwrite(self.fileno(), content[done:], self._at + done)

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Read what was written, zeros where nothing was."""
        view = memoryview(buffer).cast("B")
        there = os.pread(self.fileno(), len(view), self._at)
        view[: len(there)] = there
        view[len(there) :] = bytes(len(view) - len(there))
        for offset, content in self._kept:
            begin, end = max(offset, self._at), min(offset + len(content), self._at + len(view))
            if begin < end:
                view[begin - self._at : end - self._at] = content[begin - offset : end - offset]
        self._at += len(view)
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        """Set the length of the file, unless the disk refuses."""
        self._end = self._at if size is None else size
        try:
            if self.refusal is None:
                os.ftruncate(self.fileno(), self._end)
        except OSError as error:
            self.refusal = error
        return self._end

    def check(self) -> None:
        """Raise the disk's refusal, if there was one."""
        if self.refusal is not None:
            raise self.refusal


def _write_attributes(file: h5py.File, store: Store) -> None:
    file.attrs["format"] = FORMAT
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["store_id"] = store.store_id
    file.attrs["identity"] = json.dumps(store.identity, sort_keys=True)
    file.attrs["mask_polarity"] = schema.MASK_POLARITY
    file.attrs["how_to_read"] = HOW_TO_READ


def _write_rows(file: h5py.File, store: Store, disk: _PatientFile, progress: Callable[[int], None]) -> None:
    """Part by part, so that memory holds the masks of one."""
    offsets = _offsets(store)
    file["mask_offsets"] = offsets
    mask = file.create_dataset(
        "mask", (offsets[-1],), "u1", maxshape=(None,), chunks=(CHUNK_BYTES,), compression=GZIP_LEVEL
    )
    texts = {name: file.create_dataset(name, (len(store),), h5py.string_dtype()) for name in ("key", "message")}
    for number in range(store.num_parts):
        part = store.part(number)
        first, last = part.first_row, part.first_row + part.num_rows
        for column in schema.COLUMNS:
            file[column.name][first:last] = part.column(column.name)
        for name, dataset in texts.items():
            dataset[first:last] = [part.blob(name, at) for at in range(part.num_rows)]
        packed = []
        for at in range(part.num_rows):
            if part.column("status")[at] in WITH_MASK:
                packed.append(part.mask_packed(at).reshape(-1))
            progress(1)
        if packed:
            mask[offsets[first] : offsets[last]] = np.concatenate(packed)
        disk.check()  # soon, for what was not written cannot be read again either


def _offsets(store: Store) -> np.ndarray:
    row_bytes = (store.width.astype(np.int64) + 7) // 8
    return np.concatenate([[0], np.cumsum(store.height * row_bytes * np.isin(store.status, WITH_MASK))])


def is_there(out: Path, store: Store) -> bool:
    """Whether the export of a store is there. Raises: UserError: something else is."""
    if not out.exists():
        return False
    try:
        with h5py.File(out, "r") as file:
            there = file.attrs.get("format"), file.attrs.get("store_id")
    except OSError as error:
        raise UserError(
            f"{out} is there already and no HDF5 file; give another --out, or --overwrite to have it replaced"
        ) from error
    if there != (FORMAT, store.store_id):
        raise UserError(
            f"{out} is there already and of another store; give another --out, or --overwrite to have it replaced"
        )
    return True
