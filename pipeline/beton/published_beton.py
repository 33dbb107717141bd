"""The .beton of a published store: below `beton/` at its address, its sidecar last, so that none is seen half there.

Both directions resume: what is there with the right size and digest is not sent again, a file that has its name here
was checked before it got it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backdrop.disk_errors import disk_errors
from backdrop.durable_files import PARTIAL, sync_all, write_aside
from backdrop.errors import UserError
from backdrop.pipeline.beton.reader import MAX_SIDECAR_BYTES, files_of, parse_sidecar, read_sidecar, sidecar_path
from backdrop.pipeline.beton.writer import make_room
from backdrop.progress import note, stage_bar
from backdrop.stores.format.reader import open_store
from backdrop.stores.sharing.object_storage import ObjectStorage, concurrently
from backdrop.stores.sharing.published import check_room

PREFIX = "beton/"
SIDECAR_OBJECT = PREFIX + "sidecar.json"
# The one file of a .beton that is not in shards.
FILE_OBJECT = "scenes.beton"


@dataclass(frozen=True, kw_only=True)
class _Object:
    """A file of a .beton, here and there."""

    name: str
    file: Path
    num_bytes: int
    sha256: str


def publish_beton(store: Path, url: str) -> dict[str, int]:
    """Copy the .beton beside a store to where the store is published; the same command resumes.

    Args: store: the store's folder. url: of `remote.publish`, which comes first.
    Returns: objects and bytes sent, 0 where it was there.
    Raises: UserError: there is no .beton of that store, another one is there, or the storage refuses. CorruptStore: a
        file is damaged.
    """
    beton = store.with_suffix(".beton")
    sidecar = read_sidecar(beton)
    if sidecar["store_id"] != open_store(store).store_id:
        raise UserError(f"{beton} is of another store than {store}; export it again: store export {store} --overwrite")
    storage, data = ObjectStorage(url, is_upload=True), sidecar_path(beton).read_bytes()
    there = storage.read(SIDECAR_OBJECT, MAX_SIDECAR_BYTES)
    if there == data:
        return {"objects": 0, "bytes": 0}
    if there is not None:
        raise UserError(
            f"{storage.url} has a .beton of other settings; a published one never changes: give another URL"
        )
    note("the .beton holds the images: whether they may be passed on, their licence says, and you decide")
    sizes, objects = storage.sizes(), _objects(beton, sidecar)

    def send(each: _Object) -> int:
        if sizes.get(each.name) == each.num_bytes and storage.digest(each.name) == each.sha256:
            return 0
        storage.put_file(each.name, each.file, each.num_bytes, each.sha256)
        return each.num_bytes

    sent = _with_bar(send, objects, f"publish {beton.name}")
    storage.make_durable()
    storage.put(SIDECAR_OBJECT, data)
    storage.make_durable()
    return {"objects": sum(num > 0 for num in sent) + 1, "bytes": sum(sent) + len(data)}


def pull_beton(url: str, store_id: str, out: Path) -> dict[str, int] | None:
    """Copy the .beton of a published store here, each file checked; the same command resumes.

    Args: url: of the store. store_id: of the store there. out: the .beton here.
    Returns: objects and bytes fetched, 0 where it is there; None where none is published.
    Raises: UserError: out is taken by something else, the disk is full, or the storage refuses. CorruptStore: an object
        is missing or damaged.
    """
    storage = ObjectStorage(url)
    data = storage.read(SIDECAR_OBJECT, MAX_SIDECAR_BYTES)
    if data is None:
        return None
    sidecar = parse_sidecar(data, f"{SIDECAR_OBJECT} at {storage.url}")
    if sidecar["store_id"] != store_id:
        raise UserError(f"the .beton at {storage.url} is of another store; have it published again")
    if _is_there(out, sidecar):
        return {"objects": 0, "bytes": 0}
    with disk_errors(out):
        if "shards" in sidecar:
            out.mkdir(parents=True, exist_ok=True)
        objects = _objects(out, sidecar)
        left = sum(each.num_bytes for each in objects if not each.file.exists())
        check_room(f"the .beton at {storage.url}", left, out.parent)
        fetched = _with_bar(lambda each: _fetch(storage, each), objects, f"pull {out.name}")
        sync_all(out.parent)
        write_aside(sidecar_path(out), data)
    return {"objects": sum(num > 0 for num in fetched) + 1, "bytes": sum(fetched) + len(data)}


def _is_there(out: Path, sidecar: dict[str, Any]) -> bool:
    """Whether out is that .beton, complete; what is half there of it stays.

    Raises: UserError: out is another one.
    """
    if sidecar_path(out).exists():
        there = read_sidecar(out)
        if there["digest"] != sidecar["digest"]:
            raise UserError(f"{out} is another .beton than the published one; give another --out, or --no-beton")
        return True
    if out.is_dir() != ("shards" in sidecar):
        make_room(out)
    return False


def _fetch(storage: ObjectStorage, each: _Object) -> int:
    if each.file.exists():
        return 0
    aside = each.file.with_name(each.file.name + PARTIAL)
    aside.unlink(missing_ok=True)
    try:
        storage.download(each.name, aside, each.num_bytes, each.sha256)
        aside.replace(each.file)
    finally:
        aside.unlink(missing_ok=True)
    return each.num_bytes


def _objects(beton: Path, sidecar: dict[str, Any]) -> list[_Object]:
    """The files of a .beton, all but its sidecar."""
    return [
        _Object(name=PREFIX + (file.name if file != beton else FILE_OBJECT), file=file, num_bytes=size, sha256=sha256)
        for file, size, sha256 in files_of(beton, sidecar)
    ]


def _with_bar(function: Callable[[_Object], int], objects: list[_Object], stage: str) -> list[int]:
    """Call a function with each object, several at a time."""
    results = []
    with stage_bar(total=sum(each.num_bytes for each in objects), unit="B", stage=stage) as bar:
        for each, result in zip(objects, concurrently(function, objects), strict=True):
            results.append(result)
            bar.update(each.num_bytes)
    return results
