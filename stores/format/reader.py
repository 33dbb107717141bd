"""Reading a store by row number: 5 to 20 us for a random row, from memory-mapped files.

A `Store` may be used from several threads and after a fork. Pickled, it is opened again by its path wherever it arrives
(a spawned worker), and refuses if another store lies there by then.
"""

import functools
import json
import resource
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from backdrop.bounded_files import read_bounded
from backdrop.errors import CorruptStore, UserError
from backdrop.stores.format import schema
from backdrop.stores.format.mask_codec import unpack_rows
from backdrop.stores.format.part_reader import Part, map_file
from backdrop.stores.format.schema import NOT_BUILT, Status
from backdrop.stores.format.writer import num_parts, read_attributes, read_receipt, rows_of_part
from backdrop.stores.format.zarr_files import chunk_path, chunks_of
from backdrop.stores.images.image_codec import decode_rgb, sha256


def open_store(path: Path | str, *, allow_partial: bool = False) -> "Store":
    """Open a finished store for reading.

    Args:
        path: the store's folder.
        allow_partial: also accept a store that is still being built; rows of parts that are not there have
            `status == NOT_BUILT`.

    Raises:
        UserError: no store there, half built without `allow_partial`, or of an unknown schema.
        CorruptStore: its metadata are damaged.
    """
    return Store(Path(path), allow_partial)


def describe(store: "Store") -> dict:
    """What `store info` prints: identity, size, rows by status; of a remote store what its manifest says."""
    about = {
        "path": str(store.path),
        "store_id": store.store_id,
        "complete": store.is_complete,
        "schema_version": store.schema_version,
        "num_rows": store.num_rows,
        "num_parts": store.num_parts,
    }
    counts = {name: store.totals[name] for name in ("status", "bytes")} if store.is_remote else _counts(store)
    return {**about, **counts, "identity": store.identity}


def _counts(store: "Store") -> dict:
    """What can only be said after looking at every part."""
    has_mask = np.isin(store.status, [status for status in Status if status.has_mask])
    return {
        "rows_not_built": int((store.status == NOT_BUILT).sum()),
        "status": {status.label: int((store.status == status).sum()) for status in Status},
        "mean_foreground_fraction": float(store.foreground_fraction[has_mask].mean()) if has_mask.any() else None,
        "bytes": sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file()),
    }


class Store:
    """The rows of a store; made by `open_store`. Arrays over all rows are read-only and read at first use."""

    def __init__(
        self,
        path: Path,
        allow_partial: bool,
        expected_id: str | None = None,
        fetch: Callable[[Sequence[int], Sequence[str]], None] | None = None,
    ) -> None:
        self.path = path.absolute()
        self._allow_partial = allow_partial
        # For a store kept elsewhere: called with parts and names of files of theirs before these are first opened.
        self._fetch = fetch
        self._attributes = read_attributes(self.path)
        self.identity: dict = self._attributes["identity"]
        self.schema_version: str = self._attributes["schema_version"]
        self.num_rows: int = self._attributes["num_rows"]
        self.part_rows: int = self._attributes["part_rows"]
        self.num_parts: int = num_parts(self._attributes)
        self._manifest, self.store_id = _read_manifest(self.path, self._attributes, allow_partial)
        if expected_id is not None and self.store_id != expected_id:
            raise CorruptStore(f"{self.path} is no longer the store {expected_id}; it now is {self.store_id}")
        # A map keeps a file descriptor open, and a large store has more parts than a process may have of those.
        most_maps = max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._map_blob = functools.lru_cache(maxsize=most_maps)(map_file)
        self._parts: dict[int, Part] = {}

    def __reduce__(self):
        return Store, (self.path, self._allow_partial, self.store_id, self._fetch)

    def __len__(self) -> int:
        return self.num_rows

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {self.num_rows} rows, id {self.store_id and self.store_id[:12]})"

    @property
    def is_complete(self) -> bool:
        """Whether the store is finished; its `store_id` is None otherwise."""
        return self._manifest is not None

    @property
    def is_remote(self) -> bool:
        """Whether the store lies elsewhere, and what is read of it is fetched first."""
        return self._fetch is not None

    @property
    def totals(self) -> dict:
        """A finished store's `rows`, `bytes` and rows by `status`, as its manifest states them."""
        assert self._manifest is not None, "a store that is half built has none"
        return self._manifest["totals"]

    def prefetch(self, *names: str) -> None:
        """Have the receipts and these columns and blobs of all parts here, many at a time, if the store is remote."""
        if self._fetch:
            self._fetch(range(self.num_parts), [schema.RECEIPT, *(file for name in names for file in chunks_of(name))])

    @property
    def dataset(self) -> str:
        """Name of the data set the store was built from."""
        return self.identity["dataset"]

    @property
    def split(self) -> str:
        """Split of the data set the store was built from."""
        return self.identity["split"]

    @functools.cached_property
    def status(self) -> np.ndarray:
        """uint8 (N,): `Status`, or `NOT_BUILT` in a store opened half built."""
        return self._column("status", NOT_BUILT)

    @functools.cached_property
    def label(self) -> np.ndarray:
        """int32 (N,): class, -1 = none."""
        return self._column("label", -1)

    @functools.cached_property
    def height(self) -> np.ndarray:
        """int32 (N,): px, of the decoded image; 0 where it could not be decoded."""
        return self._column("height", 0)

    @functools.cached_property
    def width(self) -> np.ndarray:
        """int32 (N,): px, of the decoded image; 0 where it could not be decoded."""
        return self._column("width", 0)

    @functools.cached_property
    def foreground_fraction(self) -> np.ndarray:
        """float32 (N,): foreground pixels / pixels, 0 to 1."""
        return self._column("foreground_fraction", 0)

    @functools.cached_property
    def box(self) -> np.ndarray:
        """int32 (N, 4): (top, left, height, width) in px of the foreground's bounding box; zeros for none."""
        return self._column("box", 0)

    @functools.cached_property
    def source_bytes(self) -> np.ndarray:
        """int64 (N,): size of each image file."""
        return self._column("source_bytes", 0)

    def source_sha256(self, row: int) -> bytes:
        """SHA-256 (32 bytes) of the image file of `row`; zeros where it could not be read."""
        part, at = self.place(row)
        return part.column("source_sha256")[at].tobytes()

    def key(self, row: int) -> str:
        """Path of the row's image, relative to the data set's folder."""
        part, at = self.place(row)
        return part.text("key", at)

    def keys(self) -> list[str]:
        """The keys of all rows, in order."""
        return [self.key(row) for row in range(self.num_rows)]

    def row_of(self, key: str) -> int:
        """The row of an image. Args: key: its path, relative to the data set's folder. Raises: UserError: none has it.

        The first call reads the keys of all rows.
        """
        row = self._row_of_key.get(key)
        if row is None:
            raise UserError(f"{self.path} has no row of {key!r}; its keys are paths like {self.key(0)!r}")
        return row

    @functools.cached_property
    def _row_of_key(self) -> dict[str, int]:
        self.prefetch("key")
        return {key: row for row, key in enumerate(self.keys())}

    @functools.cached_property
    def class_names(self) -> dict[int, str]:
        """Label -> the folder that all its images lie in, the first of their keys' paths; ascending.

        {} where classes are no folders. The place of a label in this order is its class in torchvision's ImageFolder.
        """
        names: dict[int, str] = {}
        for key, label in zip(self._row_of_key, self.label.tolist(), strict=True):
            folder, slash, _ = key.partition("/")
            if not slash or names.setdefault(label, folder) != folder:
                return {}
        names.pop(-1, None)
        return {label: names[label] for label in sorted(names)}

    def message(self, row: int) -> str:
        """Why the row has no mask; "" where it has one."""
        part, at = self.place(row)
        return part.text("message", at)

    def mask_packed(self, row: int) -> np.ndarray:
        """The row's mask as packed rows, (H, ceil(W / 8)) uint8, read-only; bit 1 = foreground, leftmost highest.

        Raises:
            UserError: the row has no mask (see `status` and `message`).
            CorruptStore: its bytes are damaged.
        """
        part, at = self.place(row)
        return part.mask_packed(at)

    def mask(self, row: int) -> np.ndarray | None:
        """The row's mask, (H, W) uint8 in {0, 1}, 1 = foreground; None where it has none. Raises CorruptStore."""
        part, at = self.place(row)
        if not Status(int(part.column("status")[at])).has_mask:
            return None
        return unpack_rows(part.mask_packed(at), int(part.column("width")[at]))

    def background(self, row: int) -> np.ndarray | None:
        """The row's background, (h, w, 3) uint8 RGB, shrunk; None where it cannot lend one. Raises CorruptStore."""
        jpeg = self.background_jpeg(row)
        return decode_rgb(jpeg) if jpeg else None

    def background_jpeg(self, row: int) -> bytes:
        """The row's background as a JPEG; b"" where it cannot lend one. Raises CorruptStore."""
        part, at = self.place(row)
        return part.blob("background", at)

    def saliency(self, row: int) -> np.ndarray | None:
        """The row's soft map, (H, W) uint8, 255 = foreground; None where none was kept. Raises CorruptStore."""
        part, at = self.place(row)
        return part.saliency(at)

    def has_part(self, part: int) -> bool:
        """Whether a part is there; always so in a finished store."""
        return self.is_complete or self._part_path(part).is_dir()

    def part(self, part: int) -> Part:
        """One part, opened.

        Raises:
            UserError: it is not built yet.
            CorruptStore: it is missing or its receipt damaged.
        """
        if part not in self._parts:
            receipt = self._checked_receipt(part)
            fetch = functools.partial(self._fetch, [part]) if self._fetch else None
            self._parts[part] = Part(self._part_path(part), receipt, part * self.part_rows, self._map_blob, fetch)
        return self._parts[part]

    def place(self, row: int) -> tuple[Part, int]:
        """The part of a row, and the row's place in it: whoever reads a few rows needs no arrays over all of them."""
        if not 0 <= row < self.num_rows:
            raise IndexError(f"row {row} of a store of {self.num_rows} rows")
        number, at = divmod(int(row), self.part_rows)
        return self._parts.get(number) or self.part(number), at

    def _part_path(self, part: int) -> Path:
        return self.path / schema.PARTS / schema.part_name(part)

    def _checked_receipt(self, part: int) -> dict:
        if not self.has_part(part):
            raise UserError(f"{self.path}: {schema.part_name(part)} is not built yet")
        file = self._part_path(part) / schema.RECEIPT
        if self._fetch:
            self._fetch([part], [schema.RECEIPT])
        data, receipt = read_receipt(self.path, part)
        if self._manifest and sha256(data).hex() != self._manifest["parts"][part]["receipt_sha256"]:
            raise CorruptStore(f"{file} does not match {schema.MANIFEST}")
        if receipt["num_rows"] != len(rows_of_part(self._attributes, part)):
            raise CorruptStore(f"{file} says {receipt['num_rows']} rows")
        return receipt

    def _column(self, name: str, absent: int) -> np.ndarray:
        column = next(column for column in schema.COLUMNS if column.name == name)
        values = np.full((self.num_rows, *column.row_shape), absent, column.dtype)
        if self._fetch:
            self._fetch(range(self.num_parts), [chunk_path(name, values.ndim)])
        for part in range(self.num_parts):
            if self.has_part(part):
                rows = rows_of_part(self._attributes, part)
                values[rows.start : rows.stop] = self.part(part).column(name)
        values.setflags(write=False)
        return values


def _read_manifest(path: Path, attributes: dict, allow_partial: bool) -> tuple[dict | None, str | None]:
    """The manifest's content and the store's id; (None, None) for a store that is half built."""
    file = path / schema.MANIFEST
    if not file.exists():
        if allow_partial:
            return None, None
        raise UserError(
            f"{path} is half built (it has no {schema.MANIFEST}): give the command that builds it again, it resumes; "
            "or open it with --allow-partial"
        )
    data = read_bounded(file, schema.MAX_MANIFEST_BYTES)
    try:
        manifest = json.loads(data)
        same = all(manifest[name] == value for name, value in attributes.items())
        same = same and len(manifest["parts"]) == num_parts(attributes)
        same = same and all(isinstance(part["receipt_sha256"], str) for part in manifest["parts"])
        same = same and isinstance(manifest["totals"], dict)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptStore(f"{file} is damaged ({type(error).__name__})") from error
    if not same:
        raise CorruptStore(f"{file} does not match {path / schema.ROOT_METADATA}: one of them is damaged")
    return manifest, sha256(data).hex()
