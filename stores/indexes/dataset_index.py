"""A split of a data set as an ordered list of rows: the order every store, export and loader of it shares."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import zstandard

from backdrop.errors import UserError
from backdrop.stores.indexes.kept_trees import Tree, files_below
from backdrop.stores.indexes.key_table import compress_keys, decompress_keys

# What reading says of a file that is not there any more; one that may not be read, or is on a bad disk, still is.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT)
SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")

# What a scan yields before sorting: (key, size in bytes).
FoundImage = tuple[str, int]


class Archive(Protocol):
    """Images that are no files of their own: in shards, in tables. Picklable."""

    def read(self, key: str) -> bytes:
        """The bytes of an image. Raises: OSError, UserError: they cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The images of a split as a data set's file finds them, in any order."""

    found: Sequence[FoundImage]
    class_of: Callable[[str], int]
    """Key -> class, -1 = none."""
    class_names: tuple[str, ...]
    """In the order of the classes; () = it has no classes."""
    archive: Archive | None = None
    """Where images are read; None = they are files below the folder."""


@dataclass(frozen=True, eq=False)
class DatasetIndex:
    """The rows of one split of a data set. Row i is keys[i]; only `root` depends on where the images lie."""

    dataset: str
    split: str
    root: Path
    """Folder that the keys are relative to (the split's own folder where the layout has one)."""
    keys: Sequence[str]
    """Sorted paths with forward slashes."""
    labels: np.ndarray
    """int32 (N,), -1 = no class."""
    sizes_bytes: np.ndarray
    """int64 (N,), size of each file when it was listed."""
    class_names: tuple[str, ...]
    archive: Archive | None = None
    """See `Listing`."""

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over keys, labels and sizes: the same for every copy of the data set."""
        digest = hashlib.sha256(f"backdrop index 1\n{len(self)}\n".encode())
        digest.update("\0".join(self.keys).encode("utf-8", "surrogateescape"))
        digest.update(self.labels.astype("<i4").tobytes())
        digest.update(self.sizes_bytes.astype("<i8").tobytes())
        return digest.hexdigest()

    def __reduce__(self) -> tuple:
        # Every worker of a build gets a pickle: 9 MB for ImageNet so, 59 MB as strings.
        labels, sizes_bytes = (zstandard.compress(values.tobytes(), 1) for values in (self.labels, self.sizes_bytes))
        keys = compress_keys(self.keys)
        content = _Packed(
            self.dataset, self.split, self.root, len(self), keys, labels, sizes_bytes, self.class_names, self.digest,
            self.archive,
        )  # fmt: skip
        return _unpickled, (content,)

    def path(self, row: int) -> Path:
        """Where the image of `row` lies."""
        return self.root / self.keys[row]

    def read(self, row: int) -> bytes:
        """The bytes of the image file of `row`; raises as `read_listed`, or as the archive."""
        if self.archive is not None:
            return self.archive.read(self.keys[row])
        return read_listed(self.path(row), int(self.sizes_bytes[row]))


def read_listed(path: Path, size_bytes: int) -> bytes:
    """Read an image file that a data set listed.

    Args: size_bytes: when it was listed; 0 = it was a link to nowhere.
    Raises: OSError: as `open` does. UserError: it was there and is gone, which says nothing of the image: a folder was
        moved, a disk taken away.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno in _GONE and size_bytes:
            raise UserError(
                f"{path} was there when the data set was listed and is gone ({error.strerror}). Put it back and run "
                "the same command again, which goes on where it was; or begin anew, with another --out, once the data "
                "set is settled."
            ) from error
        raise


class _Packed(NamedTuple):
    """An index as it is pickled: keys, labels and sizes compressed."""

    dataset: str
    split: str
    root: Path
    num_rows: int
    keys: bytes
    labels: bytes
    sizes_bytes: bytes
    class_names: tuple[str, ...]
    digest: str
    archive: Archive | None


def _unpickled(packed: _Packed) -> DatasetIndex:
    index = DatasetIndex(
        packed.dataset,
        packed.split,
        packed.root,
        decompress_keys(packed.keys, packed.num_rows),
        np.frombuffer(zstandard.decompress(packed.labels), np.int32),
        np.frombuffer(zstandard.decompress(packed.sizes_bytes), np.int64),
        packed.class_names,
        packed.archive,
    )
    index.__dict__["digest"] = packed.digest  # where cached_property keeps it
    return index


def index_of(listing: Listing, *, dataset: str, split: str, root: Path) -> DatasetIndex:
    """Put the images that were found into the order of their keys.

    Args: dataset, split: their names. root: the folder that keys are relative to. Returns: a row an image.
    """
    found = sorted(listing.found)
    keys = tuple(key for key, _ in found)
    labels = np.fromiter((listing.class_of(key) for key in keys), np.int32, len(keys))
    sizes_bytes = np.fromiter((size for _, size in found), np.int64, len(keys))
    class_names = tuple(listing.class_names)
    return DatasetIndex(dataset, split, root, keys, labels, sizes_bytes, class_names, listing.archive)


def _is_image(entry: os.DirEntry) -> bool:
    return entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".") and not entry.is_dir()


def _size_bytes(entry: os.DirEntry) -> int:
    """Size of the file; 0 for a dangling link, whose row then says that it cannot be read."""
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0


def images_in(folder: Path, prefix: str) -> Iterator[FoundImage]:
    """Yield the images of one folder. Args: prefix: what their keys begin with."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_image(entry):
                yield prefix + entry.name, _size_bytes(entry)


def images_below(folder: Path) -> Iterator[FoundImage]:
    """Yield the images of a whole tree, without hidden folders, in the order of their keys."""
    return images_of(files_below(folder))


def images_of(tree: Tree) -> Iterator[FoundImage]:
    """Yield the images among the files of a tree, without hidden folders, in the order of their keys."""
    for name, size_bytes in tree.files():
        if name.lower().endswith(SUFFIXES) and not name.startswith(".") and "/." not in name:
            # A dangling link's row then says that it cannot be read.
            yield name, max(size_bytes, 0)
