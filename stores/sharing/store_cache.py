"""Reading a published store through a folder on this machine: each file is fetched when it is first needed, and kept.

    store = open_published("s3://bucket/imagenet-train", Path("/scratch/stores"))
    store.mask(417)            # fetches the mask file of part 0, once

    CACHE/<store id>.zarr      what was fetched so far, each array's files by themselves: no whole store, to open it
                               by itself use `remote.pull`
    CACHE/<store id>.partial   files that are not whole yet
    CACHE/<store id>.locks     one file per part: of processes that want the same part one fetches, the others wait
    CACHE/<digest>.url         which store lay at a URL when it was last looked at

A published store never changes, so what is here is as good as what is there: a store of which all that is read was
fetched before opens without the network. Locks only spare traffic. Where a file system has none, two processes fetch
the same file and one rename wins.
"""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backdrop.data_folders import ARTIFACTS
from backdrop.disk_errors import disk_errors
from backdrop.durable_files import locked, sync
from backdrop.errors import StorageUnreachable, UserError
from backdrop.progress import note_default, stage_bar, warn
from backdrop.stores.format import schema
from backdrop.stores.format.packed_arrays import array_place, arrays_of, file_by_itself
from backdrop.stores.format.provenance import canonical_json
from backdrop.stores.format.reader import Store, open_store
from backdrop.stores.format.untrusted import check_blob, check_manifest, check_receipt, check_statuses, needed_for
from backdrop.stores.format.zarr_files import chunk_path
from backdrop.stores.images.image_codec import sha256
from backdrop.stores.sharing.object_storage import ObjectStorage, concurrently, is_usable
from backdrop.stores.sharing.place import place_of
from backdrop.stores.sharing.published import (
    ROOT_FILES,
    fetch_file,
    fetch_metadata,
    fetch_receipt,
    read_published,
    write_durably,
)

NEXT_STEP = "give another place with --cache or BACKDROP_CACHE"
BAR_AFTER_S = 2.0

BLOB_FILES = {chunk_path(blob.name): blob for blob in schema.BLOBS}
STATUS_FILE = chunk_path("status")


def open_for_reading(store: Path | str, cache: Path | None = None, *, allow_partial: bool = False) -> Store:
    """Open a store on this machine, or through the cache one that is published.

    Args: store: its folder, or a URL. cache: as `cache_folder` takes it. allow_partial: see `open_store`.
    Raises: UserError as `open_store` and `open_published`.
    """
    place = place_of(store)
    if isinstance(place, str):
        return open_published(place, cache_folder(cache))
    return open_store(place, allow_partial=allow_partial)


def cache_folder(cache: Path | None) -> Path:
    """Return the folder that keeps what is read of published stores, and say so where it is the default.

    Args: cache: as the user gave it; None = the default.
    """
    if cache is None:
        cache = ARTIFACTS / "cache"
        note_default("cache", cache, "the default of --cache and BACKDROP_CACHE")
    return cache


def open_published(url: str, cache_dir: Path | str) -> Store:
    """Open a published store for reading.

    Args:
        url: s3://bucket/prefix or file:///folder, as it was published.
        cache_dir: a folder of this machine, shared by all processes and stores; it is made.

    Returns:
        A store as `open_store` returns it, which may be pickled and used after a fork. Where the storage
        cannot be reached, and the URL was opened with this folder before: that store, after a warning.

    Raises:
        UserError: nothing is published there, the storage cannot be reached, or the folder cannot be written.
        CorruptStore: what is published is damaged, or claims the impossible. Reading raises both likewise.
    """
    cache_dir = Path(cache_dir).absolute()
    try:
        storage = ObjectStorage(url)
        data, manifest = read_published(storage)
    except StorageUnreachable as error:
        return _open_kept(url, cache_dir, error)
    cached = _CachedStore(url, cache_dir, sha256(data).hex())
    with disk_errors(cache_dir, NEXT_STEP):
        for folder in (cached.folder / schema.PARTS, cached.partial, cached.locks):
            folder.mkdir(parents=True, exist_ok=True)
        for name in ROOT_FILES:
            cached.keep(cached.folder / name, manifest["files"][name], functools.partial(fetch_metadata, storage, name))
        cached.keep(cached.folder / schema.MANIFEST, cached.store_id, lambda digest: data)
        record = canonical_json({"store_id": cached.store_id, "url": storage.url})
        cached.keep(_record(url, cache_dir), sha256(record).hex(), lambda digest: record)
    return cached.open()


def _open_kept(url: str, cache_dir: Path, error: StorageUnreachable) -> Store:
    """The store that lay at a URL when it was last looked at."""
    record = _record(url, cache_dir)
    if not record.exists():
        raise error
    cached = _CachedStore(url, cache_dir, json.loads(record.read_bytes())["store_id"])
    warn(f"warning: {error}\nGoing on with what {cache_dir} holds of store {cached.store_id}, which was there last.")
    return cached.open()


def _record(url: str, cache_dir: Path) -> Path:
    return cache_dir / f"{sha256(url.encode()).hex()}.url"


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

    def open(self) -> Store:
        return Store(self.folder, False, self.store_id, self.fetch)

    def keep(self, place: Path, digest: str, content: Callable[[str], bytes]) -> None:
        """Have a small file of this digest here."""
        if not place.exists() or sha256(place.read_bytes()).hex() != digest:
            write_durably(content(digest), place, self.partial)

    def fetch(self, parts: Sequence[int], files: Sequence[str]) -> None:
        """Have files of these parts here, checked; one that a part's receipt does not list stays absent."""
        missing = [part for part in parts if any(not (self._part(part) / file).exists() for file in files)]
        if missing and is_usable():
            bar = stage_bar(total=len(missing), stage=f"fetch {self.url}", unit="part", shown_after_s=BAR_AFTER_S)
            with disk_errors(self.cache_dir, NEXT_STEP), bar:
                for _ in concurrently(functools.partial(self._fetch_one, files), missing):
                    bar.update()
        elif missing:
            self._fetch_in_new_process(missing, files)

    def _fetch_one(self, files: Sequence[str], part: int) -> None:
        folder = self._part(part)
        with locked(self.locks / schema.part_name(part)):
            folder.mkdir(exist_ok=True)
            receipt = self._receipt(part)
            arrays = arrays_of(receipt)
            needed = [file for blob_file in files for file in self._needed(blob_file, arrays)]
            for file in dict.fromkeys([*needed, *files]):
                if file in arrays and not (folder / file).exists():
                    check = functools.partial(self._check, folder, file, receipt)
                    fetch_file(_storage(self.url), part, file, arrays[file], folder, self.partial, check)

    @staticmethod
    def _needed(file: str, arrays: dict) -> list[str]:
        """The files by which one is checked."""
        return needed_for(BLOB_FILES[file]) if file in BLOB_FILES and file in arrays else []

    @staticmethod
    def _check(folder: Path, file: str, receipt: dict, aside: Path) -> None:
        """Check and make durable what will be believed as soon as it has its name."""
        place = file_by_itself(aside, aside.stat().st_size)
        if file in BLOB_FILES:
            check_blob(
                folder, BLOB_FILES[file], functools.partial(array_place, folder, receipt, is_packed=False), place
            )
        elif file == STATUS_FILE:
            check_statuses(folder, place)
        sync(aside)

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
        self.fetch([part], [schema.RECEIPT])
        self.fetch([part], [file for file in arrays_of(self._receipt(part)) if not file.endswith(schema.ROOT_METADATA)])

    def _fetch_in_new_process(self, parts: Sequence[int], files: Sequence[str]) -> None:
        """After a fork, when this process can make no requests itself; of one part all files, to start but one."""
        what = [] if len(parts) == 1 else [",".join(files)]
        command = [
            sys.executable,
            "-m",
            "backdrop.stores.sharing.store_cache",
            self.url,
            str(self.cache_dir),
            self.store_id,
        ]
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


def _main(url: str, cache_dir: str, store_id: str, parts: str, files: str | None = None) -> None:
    cached, numbers = _CachedStore(url, Path(cache_dir), store_id), [int(part) for part in parts.split(",")]
    try:
        if files is None:
            cached.fetch_part(*numbers)
        else:
            cached.fetch(numbers, files.split(","))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _main(*sys.argv[1:])
