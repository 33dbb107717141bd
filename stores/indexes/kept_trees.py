"""The files of a data set's folder with their sizes: walked once, and kept for every command after it.

A tree of `KEPT_FROM` files or more is kept in ARTIFACTS/indexes, with the time of each of its folders. It is taken from
there where every folder still has its time: a look a folder, instead of one or more a file. What this cannot see is a
file written over under its own name, which changes no folder's time; `walked_anew` is for that (`--refresh-index`).
The kept files may be removed at any time.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from backdrop.data_folders import ARTIFACTS
from backdrop.disk_errors import disk_errors
from backdrop.durable_files import locked, written_aside
from backdrop.progress import note
from backdrop.stores.indexes.key_table import compress_keys, decompress_keys

KEPT_FROM = 10_000
# A folder that changed just before it was read may change again under the same time.
_CLOCK_NS = 2_000_000_000
_VERSION = 1
_walks_anew: ContextVar[bool] = ContextVar("_walks_anew", default=False)


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The files below a folder.

    names: paths of the files, forward slashes, sorted. sizes_bytes: int64 (N,), of each; -1 = a link to nowhere.
    folders: paths of the folders below, sorted; the first is "", the folder itself. times_ns: int64, when each changed.
    """

    names: Sequence[str]
    sizes_bytes: np.ndarray
    folders: Sequence[str]
    times_ns: np.ndarray

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield name and size of every file."""
        return zip(self.names, self.sizes_bytes.tolist(), strict=True)


@contextmanager
def walked_anew(is_wanted: bool = True) -> Iterator[None]:
    """Within, no kept tree is taken; what is walked is kept for later. Args: is_wanted: False = nothing changes."""
    token = _walks_anew.set(is_wanted or _walks_anew.get())
    try:
        yield
    finally:
        _walks_anew.reset(token)


def files_below(folder: Path) -> Tree:
    """List the files of a whole tree, hidden ones too; a link to a folder above itself is not followed.

    Args: folder: which is there.
    Raises: OSError: it cannot be read. UserError: the disk is full.
    """
    kept = _kept_at(folder)
    with _alone(kept):
        tree = None if _walks_anew.get() else _untouched(folder, kept)
        if tree is not None:
            note(f"files of {folder}: as listed before, no folder changed (--refresh-index walks it anew)")
            return tree
        begun_ns = time.time_ns()
        tree = _walked(folder)
        if len(tree.names) >= KEPT_FROM and tree.times_ns.max() < begun_ns - _CLOCK_NS and _may_write(kept.parent):
            _keep(tree, kept)
        return tree


@contextmanager
def _alone(kept: Path) -> Iterator[None]:
    """Of several processes that torchrun started one walks, and the others take what it kept."""
    is_one_of_several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    with locked(kept.with_suffix(".lock")) if is_one_of_several and _may_write(kept.parent) else nullcontext():
        yield


def _may_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _kept_at(folder: Path) -> Path:
    name = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:32]
    return (ARTIFACTS / "indexes" / f"{name}.npz").absolute()


def _untouched(folder: Path, kept: Path) -> Tree | None:
    """The kept tree; None where there is none, or a folder is another one since."""
    try:
        with kept.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            if int(file["version"]) != _VERSION:
                return None
            times_ns, sizes_bytes = file["times_ns"], file["sizes_bytes"]
            folders = tuple(decompress_keys(file["folders"].tobytes(), len(times_ns)))
            names = tuple(decompress_keys(file["names"].tobytes(), len(sizes_bytes)))
        is_same = all(
            os.stat(folder / name).st_mtime_ns == time_ns for name, time_ns in zip(folders, times_ns, strict=True)
        )
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None  # it is walked
    return Tree(names=names, sizes_bytes=sizes_bytes, folders=folders, times_ns=times_ns) if is_same else None


def _keep(tree: Tree, kept: Path) -> None:
    arrays = {
        "version": np.array(_VERSION),
        "names": np.frombuffer(compress_keys(tree.names), np.uint8),
        "sizes_bytes": tree.sizes_bytes,
        "folders": np.frombuffer(compress_keys(tree.folders), np.uint8),
        "times_ns": tree.times_ns,
    }
    with disk_errors(kept), written_aside(kept) as aside, aside.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _walked(folder: Path) -> Tree:
    files: list[tuple[str, int]] = []
    folders: list[tuple[str, int]] = []
    _walk(folder, "", frozenset(), files, folders)
    files.sort()
    folders.sort()
    return Tree(
        names=tuple(name for name, _ in files),
        sizes_bytes=np.fromiter((size for _, size in files), np.int64, len(files)),
        folders=tuple(name for name, _ in folders),
        times_ns=np.fromiter((time_ns for _, time_ns in folders), np.int64, len(folders)),
    )


def _walk(
    folder: Path,
    prefix: str,
    above: frozenset[tuple[int, int]],
    files: list[tuple[str, int]],
    folders: list[tuple[str, int]],
) -> None:
    """Add what lies below a folder. Args: above: device and inode of the folders that lead here."""
    status = os.stat(folder)
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    folders.append((prefix.rstrip("/"), status.st_mtime_ns))
    below = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                below.append(entry.name)
            else:
                files.append((prefix + entry.name, _size_bytes(entry)))
    for name in below:
        _walk(folder / name, f"{prefix}{name}/", above | {identity}, files, folders)


def _size_bytes(entry: os.DirEntry) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return -1
