"""One part of a store, opened for reading: columns, and rows' bytes out of mapped files.

Small files (columns, offsets, checksums) are checked by SHA-256 when they are first touched, a row's bytes by their
CRC-32C at every read: damage is an error that names the row, never another row's bytes.
"""

import mmap
from collections.abc import Callable, Sequence
from pathlib import Path

import google_crc32c
import numpy as np

from backdrop.bounded_files import open_plain
from backdrop.errors import CorruptStore, UserError
from backdrop.stores.format import schema
from backdrop.stores.format.mask_codec import decode_mask, decode_saliency
from backdrop.stores.format.packed_arrays import ArrayPlace, array_place, arrays_of, is_packed
from backdrop.stores.format.schema import Status
from backdrop.stores.format.zarr_files import chunk_path
from backdrop.stores.images.image_codec import MAX_PIXELS, sha256

Mapped = mmap.mmap | bytes

KNOWN_STATUSES = [int(status) for status in Status]
MAX_ROW_BYTES = {
    "key": schema.MAX_TEXT_BYTES,
    "message": schema.MAX_TEXT_BYTES,
    "background": schema.MAX_BACKGROUND_BYTES,
    "mask": 2 * MAX_PIXELS,
    "saliency": 2 * MAX_PIXELS,
}


def map_file(file: Path) -> Mapped:
    """Map a file into memory, read-only.

    Raises:
        CorruptStore: it is missing or empty.
    """
    try:
        with open_plain(file) as handle:
            return mmap.mmap(handle.fileno(), 0, prot=mmap.PROT_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise CorruptStore(f"{file} cannot be read: {error}") from error


class Part:
    """The rows of one part; `at` counts them from 0.

    Args:
        path: the part's folder.
        receipt: content of its `part.json`.
        first_row: number of its first row in the store.
        map_blob: opens a blob's file; the store passes one that keeps the number of open maps down.
        fetch: called with files' names before they are first opened, for a part that is kept elsewhere; its arrays
            are then files by themselves here.
    """

    def __init__(
        self,
        path: Path,
        receipt: dict,
        first_row: int,
        map_blob: Callable[[Path], Mapped] = map_file,
        fetch: Callable[[Sequence[str]], None] | None = None,
    ) -> None:
        self.path = path
        self.first_row = first_row
        self.num_rows: int = receipt["num_rows"]
        self._receipt = receipt
        self._is_packed = fetch is None and is_packed(receipt)
        self._map_blob = map_blob
        self._fetch = fetch
        self._columns: dict[str, np.ndarray] = {}
        self._blobs: dict[str, tuple[ArrayPlace, memoryview, memoryview]] = {}

    @property
    def array_digests(self) -> dict[str, str]:
        """SHA-256 (hex) of the files of the arrays, by name: the same for the same content, however it is kept."""
        return {name: stated["sha256"] for name, stated in arrays_of(self._receipt).items()}

    def column(self, name: str) -> np.ndarray:
        """A column of the schema, (rows, ...), read-only. Raises CorruptStore."""
        if name not in self._columns:
            column = next(column for column in schema.COLUMNS if column.name == name)
            values = self._array(name, column.dtype, (self.num_rows, *column.row_shape))
            if name == "status" and not (known := np.isin(values, KNOWN_STATUSES)).all():
                at = int(known.argmin())
                raise CorruptStore(f"{self.path}: row {self.first_row + at}: its status {values[at]} is unknown")
            self._columns[name] = values
        return self._columns[name]

    def blob(self, name: str, at: int) -> bytes:
        """The bytes of one row in a blob of the schema, checked. Raises CorruptStore."""
        place, offsets, checksums = self._blobs.get(name) or self._open_blob(name)
        begin, end = place.offset + offsets[at], place.offset + offsets[at + 1]
        data = self._map_blob(place.file)[begin:end] if begin < end else b""
        if google_crc32c.value(data) != checksums[at]:
            raise self._corrupt(name, at, "its checksum does not match")
        return data

    def text(self, name: str, at: int) -> str:
        """The key or the message of one row. Raises CorruptStore."""
        return self.blob(name, at).decode("utf-8", "surrogateescape")

    def mask_packed(self, at: int) -> np.ndarray:
        """The mask of one row as packed rows, (H, ceil(W / 8)) uint8.

        Raises:
            UserError: the row has no mask.
            CorruptStore: its bytes are damaged.
        """
        data = self.blob("mask", at)
        if not data:
            status = Status(int(self.column("status")[at]))
            raise UserError(f"{self._row(at)} has no mask: {status.label}: {self.text('message', at)}")
        try:
            return decode_mask(data, int(self.column("height")[at]), int(self.column("width")[at]))
        except CorruptStore as error:
            raise self._corrupt("mask", at, str(error)) from error

    def saliency(self, at: int) -> np.ndarray | None:
        """The soft map of one row, (H, W) uint8; None where none was kept. Raises CorruptStore."""
        data = self.blob("saliency", at)
        if not data:
            return None
        try:
            return decode_saliency(data, int(self.column("height")[at]), int(self.column("width")[at]))
        except CorruptStore as error:
            raise self._corrupt("saliency", at, str(error)) from error

    def _row(self, at: int) -> str:
        return f"row {self.first_row + at} ({self.text('key', at)})"

    def _corrupt(self, name: str, at: int, what: str) -> CorruptStore:
        row = f"row {self.first_row + at}" if name == "key" else self._row(at)
        return CorruptStore(
            f"{self.path}: {name} of {row} is damaged: {what}. 'store verify' lists all damage; "
            f"to repair, remove {self.path.name} and {schema.MANIFEST} and build again"
        )

    def _array(self, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """A small array, checked against the receipt."""
        file = chunk_path(name, len(shape))
        if self._fetch:
            self._fetch([file])
        num_bytes = np.dtype(dtype).itemsize * int(np.prod(shape))
        place = self._place(file)
        try:
            data = place.read() if place.num_bytes == num_bytes else b""
        except OSError as error:
            raise CorruptStore(f"{self.path / file} cannot be read: {error.strerror}") from error
        if arrays_of(self._receipt).get(file, {}).get("sha256") != sha256(data).hex() or len(data) != num_bytes:
            raise CorruptStore(f"{self.path / file} is damaged: it does not match the part's {schema.RECEIPT}")
        return np.frombuffer(data, dtype).reshape(shape)

    def _place(self, file: str) -> ArrayPlace:
        return array_place(self.path, self._receipt, file, is_packed=self._is_packed)

    def _open_blob(self, name: str) -> tuple[ArrayPlace, memoryview, memoryview]:
        """Place, offsets and checksums of a blob; memory views, because their entries are plain numbers."""
        blob = schema.Blob(name)
        place = self._place(chunk_path(name))
        stated = self._array(blob.offsets, "<i8", (self.num_rows + 1,))
        row_bytes = np.diff(stated)
        if stated[0] != 0 or row_bytes.min() < 0 or row_bytes.max() > MAX_ROW_BYTES[name]:
            raise CorruptStore(f"{self.path}: {blob.offsets} are no offsets of rows")
        offsets = stated.data
        checksums = self._array(blob.crc32c, "<u4", (self.num_rows,)).data
        if offsets[-1] and self._fetch:
            self._fetch([chunk_path(name)])
        if offsets[-1] and place.num_bytes != offsets[-1]:
            raise CorruptStore(f"{self.path}: {name} has {place.num_bytes} bytes, its offsets end at {offsets[-1]}")
        if offsets[-1] and len(self._map_blob(place.file)) != place.file_bytes:
            raise CorruptStore(f"{place.file} has {len(self._map_blob(place.file))} bytes, not {place.file_bytes}")
        self._blobs[name] = (place, offsets, checksums)
        return self._blobs[name]
