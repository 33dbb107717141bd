"""Reading a published store through a folder on this machine: each file is fetched when it is first needed, and kept.

    store = open_published("s3://bucket/imagenet-train", Path("/scratch/stores"))
    store.mask(417)            # fetches the mask file of part 0, once

    CACHE/<store id>.zarr      the files fetched so far: no whole store, to open it by itself use `stores.remote.pull`
    CACHE/<store id>.partial   files that are not whole yet
    CACHE/<store id>.locks     one file per part: of processes that want the same part one fetches, the others wait

Locks only spare traffic. Where a file system has none, two processes fetch the same file and one rename wins.
"""

import fcntl
import functools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from stores import schema
from stores.disk_errors import disk_errors
from stores.errors import UserError
from stores.image_codec import sha256
from stores.object_storage import ObjectStorage, concurrently, is_usable
from stores.published import ROOT_FILES, fetch_file, fetch_metadata, fetch_receipt, read_published, write_durably
from stores.reader import Store
from stores.untrusted import check_manifest, check_receipt


def open_published(url: str, cache_dir: Path | str) -> Store:
    """Open a published store for reading.

    Args:
        url: s3://bucket/prefix or file:///folder, as it was published.
        cache_dir: a folder of this machine, shared by all processes and stores; it is made.

    Returns:
        A store as `stores.reader.open_store` returns it, which may be pickled and used after a fork.

    Raises:
        UserError: nothing is published there, the storage cannot be reached, or the folder cannot be written.
        CorruptStore: what is published is damaged, or claims the impossible. Reading raises both likewise.
    """
    storage = ObjectStorage(url)
    data, manifest = read_published(storage)
    cached = _CachedStore(url, Path(cache_dir).absolute(), sha256(data).hex())
    with disk_errors(cached.cache_dir):
        for folder in (cached.folder / schema.PARTS, cached.partial, cached.locks):
            folder.mkdir(parents=True, exist_ok=True)
        for name in ROOT_FILES:
            write_durably(fetch_metadata(storage, name, manifest["files"][name]), cached.folder / name, cached.partial)
        write_durably(data, cached.folder / schema.MANIFEST, cached.partial)
    return Store(cached.folder, False, cached.store_id, cached.fetch)


@dataclass(frozen=True)
class _CachedStore:
    """Where a store is published and where it is kept; what a `Store` pickles."""

    url: str
    cache_dir: Path
    store_id: str

    @property
    def folder(self) -> Path:
        return self.cache_dir / f"{self.store_id}.zarr"

    @property
    def partial(self) -> Path:
        return self.cache_dir / f"{self.store_id}.partial"

    @property
    def locks(self) -> Path:
        return self.cache_dir / f"{self.store_id}.locks"

    def fetch(self, parts: Sequence[int], file: str) -> None:
        """Have a file of these parts here, checked; a file that the receipt does not list stays absent."""
        missing = [part for part in parts if not (self._part(part) / file).exists()]
        if missing and is_usable():
            with disk_errors(self.cache_dir):
                list(concurrently(functools.partial(self._fetch_one, file), missing))
        elif missing:
            self._fetch_in_new_process(missing, file)

    def _fetch_one(self, file: str, part: int) -> None:
        folder = self._part(part)
        with _locked(self.locks / schema.part_name(part)):
            folder.mkdir(exist_ok=True)
            receipt = self._receipt(part)
            if file in receipt["files"] and not (folder / file).exists():
                fetch_file(_storage(self.url), part, file, receipt["files"][file], folder, self.partial)

    def _receipt(self, part: int) -> dict:
        """The part's receipt, from here or from there."""
        manifest, place = _manifest(self.folder), self._part(part) / schema.RECEIPT
        if place.exists():
            return check_receipt(place.read_bytes(), manifest, part, str(place))
        data, receipt = fetch_receipt(_storage(self.url), manifest, part)
        write_durably(data, place, self.partial)
        return receipt

    def fetch_part(self, part: int) -> None:
        """Have all files of a part here that reading it may need."""
        self.fetch([part], schema.RECEIPT)
        files = [file for file in self._receipt(part)["files"] if not file.endswith(schema.ROOT_METADATA)]
        list(concurrently(functools.partial(self.fetch, [part]), files))

    def _fetch_in_new_process(self, parts: Sequence[int], file: str) -> None:
        """After a fork, when this process can make no requests itself; of one part all files, to start but one."""
        what = [] if len(parts) == 1 else [file]
        command = [sys.executable, "-m", "stores.store_cache", self.url, str(self.cache_dir), self.store_id]
        done = subprocess.run(
            [*command, ",".join(map(str, parts)), *what],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        if done.returncode:
            raise UserError(done.stderr.decode(errors="replace").strip().rpartition("\n")[2])

    def _part(self, part: int) -> Path:
        return self.folder / schema.PARTS / schema.part_name(part)


@functools.lru_cache(maxsize=8)
def _storage(url: str) -> ObjectStorage:
    return ObjectStorage(url)


@functools.lru_cache(maxsize=8)
def _manifest(folder: Path) -> dict:
    file = folder / schema.MANIFEST
    return check_manifest(file.read_bytes(), str(file))


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold a lock that goes with this process, however it ends; without one where the file system has none."""
    with open(file, "ab") as handle:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _main(url: str, cache_dir: str, store_id: str, parts: str, file: str | None = None) -> None:
    cached, numbers = _CachedStore(url, Path(cache_dir), store_id), [int(part) for part in parts.split(",")]
    try:
        if file is None:
            cached.fetch_part(*numbers)
        else:
            cached.fetch(numbers, file)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _main(*sys.argv[1:])
