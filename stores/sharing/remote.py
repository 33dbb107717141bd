"""Publishing a finished store to object storage, and fetching one back: nothing is visible before it is whole.

The published store has the layout of the folder, so zarr reads it in place. The manifest is put last, by a conditional
create: an address without one holds no store. What keeps two publishers of different stores from mixing their parts is
a claim, `PUBLISHING.json`, created at the start in the same way and deleted at the end.

Both directions resume. Publishing sends no object again that is there with the right size and recorded digest; pulling
works in `<out>.staging` beside the target, keeps what it has there, and moves the whole into place by one rename.
"""

import errno
import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backdrop.disk_errors import disk_errors
from backdrop.durable_files import sync, sync_all
from backdrop.errors import CorruptStore, UserError
from backdrop.progress import stage_bar, warn
from backdrop.stores.format import schema
from backdrop.stores.format.provenance import canonical_json
from backdrop.stores.format.reader import Store, open_store
from backdrop.stores.format.schema import MAX_MANIFEST_BYTES
from backdrop.stores.format.untrusted import HEX_DIGEST, check_receipt, check_rows
from backdrop.stores.format.writer import manifest_bytes, read_receipt, staging_folder
from backdrop.stores.images.image_codec import sha256
from backdrop.stores.maintenance.verify import verify
from backdrop.stores.sharing.object_storage import ObjectStorage, concurrently
from backdrop.stores.sharing.published import (
    CLAIM,
    MAX_CLAIM_BYTES,
    ROOT_FILES,
    check_room,
    fetch_file,
    fetch_metadata,
    fetch_receipt,
    object_name,
    read_published,
    write_durably,
)


def publish(store: Path, url: str, *, progress: bool = True) -> dict:
    """Copy a finished store to object storage; the same command resumes.

    Args:
        store: the store's folder. Every file is checked against its digest while it is sent.
        url: where it shall lie, s3://bucket/prefix or file:///folder; one store per address.
        progress: show a bar.

    Returns:
        url, store_id, objects and bytes sent (0 where the store was published before), and whether the storage honours
        conditional creates; without them two publishers racing for one address are not kept apart.

    Raises:
        UserError: the store is not finished, another one is or is being published there, or the storage refuses.
        CorruptStore: a file of the store is damaged; nothing is visible then.
    """
    opened = open_store(store)
    manifest = (opened.path / schema.MANIFEST).read_bytes()
    if manifest_bytes(opened.path) != manifest:
        raise CorruptStore(f"{store}: {schema.MANIFEST} does not match its receipts; 'store verify' says more")
    assert opened.store_id == sha256(manifest).hex()
    storage = ObjectStorage(url, is_upload=True)
    if _refuse_other_store(storage, opened.store_id):
        if storage.read(CLAIM, MAX_CLAIM_BYTES) is not None:  # killed, or about to end, after its manifest was put
            storage.delete(CLAIM)
        return _report(storage, opened.store_id, 0, 0, None)
    is_conditional = _claim(storage, opened.store_id)
    if _refuse_other_store(storage, opened.store_id):  # finished by another between the first look and the claim
        storage.delete(CLAIM)
        return _report(storage, opened.store_id, 0, 0, is_conditional)
    if not is_conditional:
        warn(f"warning: {storage.url} does not honour conditional creates: see that nobody else publishes there now")
    objects, num_bytes = _send_all(storage, opened, progress)
    storage.make_durable()
    storage.create(schema.MANIFEST, manifest) if is_conditional else _put_unless_there(storage, manifest)
    if not _refuse_other_store(storage, opened.store_id):
        raise UserError(f"{storage.url}: {schema.MANIFEST} was put and is not there; give the same command again")
    storage.delete(CLAIM)
    storage.make_durable()
    return _report(storage, opened.store_id, objects + 1, num_bytes + len(manifest), is_conditional)


def pull(url: str, out: Path, *, progress: bool = True) -> dict:
    """Copy a published store to a folder; the same command resumes.

    Args:
        url: s3://bucket/prefix or file:///folder, as it was published.
        out: the store's folder here; it appears when all of it is there and checked.
        progress: show a bar.

    Returns:
        url, out, store_id, objects and bytes fetched (0 where the store is there already).

    Raises:
        UserError: nothing is published there, `out` is taken by something else, the disk is full, or the storage
            cannot be reached; what was fetched is kept for the next try.
        CorruptStore: an object is missing or damaged, or the store asks for what no store may ask for.
    """
    storage = ObjectStorage(url)
    data, manifest = read_published(storage)
    store_id = sha256(data).hex()
    if _is_there(out, store_id):
        return {"url": storage.url, "out": str(out), "store_id": store_id, "objects": 0, "bytes": 0}
    staging = staging_folder(out) / f"pull-{store_id}"
    with disk_errors(out):
        try:
            (staging / "store" / schema.PARTS).mkdir(parents=True, exist_ok=True)
            (staging / "partial").mkdir(exist_ok=True)
            objects, num_bytes = _fetch_all(storage, manifest, staging, progress)
            write_durably(data, staging / "store" / schema.MANIFEST, staging / "partial")
            _put_in_place(staging / "store", out)
        except (FileNotFoundError, UserError):
            # The stage goes when it is renamed, also from under a check: another pull of this store was faster.
            if not _is_there(out, store_id):
                raise
            objects, num_bytes = 0, 0
    if not _is_there(out, store_id):
        raise UserError(f"{out} was taken by something else meanwhile; give another --out")
    shutil.rmtree(staging, ignore_errors=True)
    with suppress(OSError):  # gone already, or others still work in it
        staging.parent.rmdir()
    return {"url": storage.url, "out": str(out), "store_id": store_id, "objects": objects, "bytes": num_bytes}


# ----------------------------------------------------------------------------------------------------------- publishing


def _refuse_other_store(storage: ObjectStorage, store_id: str) -> bool:
    """Whether this very store is published already; refuses where another one is."""
    data = storage.read(schema.MANIFEST, MAX_MANIFEST_BYTES)
    if data is None:
        return False
    if sha256(data).hex() != store_id:
        raise UserError(
            f"{storage.url} holds the store {sha256(data).hex()}, yours is {store_id}; "
            "a published store never changes: give another URL"
        )
    return True


def _claim(storage: ObjectStorage, store_id: str) -> bool:
    """Reserve the address for this store, or go on where it is reserved for it.

    Returns:
        Whether the storage honours conditional creates: a second one must be refused.
    """
    claim = canonical_json({"store_id": store_id})
    there = storage.read(CLAIM, MAX_CLAIM_BYTES)
    created = storage.create(CLAIM, claim) if there is None else False
    if created is None:
        storage.put(CLAIM, claim)
    there = storage.read(CLAIM, MAX_CLAIM_BYTES)
    if there is not None and there != claim:
        found = HEX_DIGEST.search(there.decode("ascii", "replace"))
        other = found.group() if found else "(unknown)"
        raise UserError(
            f"{storage.url} is taken: the publishing of store {other} was begun there, yours is {store_id}. "
            f"Give another URL, or finish that one. If it was given up, delete {CLAIM} there."
        )
    return created is not None and storage.create(CLAIM, claim) is False


def _put_unless_there(storage: ObjectStorage, manifest: bytes) -> None:
    if storage.read(schema.MANIFEST, MAX_MANIFEST_BYTES) is None:
        storage.put(schema.MANIFEST, manifest)


def _send_all(storage: ObjectStorage, store: Store, progress: bool) -> tuple[int, int]:
    """Send what is not there yet, all but the manifest; the number of objects and bytes sent."""
    there = storage.sizes()
    for name in ROOT_FILES:
        storage.put(name, (store.path / name).read_bytes())
    sent = _Sent(storage, store, there)
    objects, num_bytes = len(ROOT_FILES), sum((store.path / name).stat().st_size for name in ROOT_FILES)
    total = json.loads((store.path / schema.MANIFEST).read_bytes())["totals"]["bytes"]
    with stage_bar(
        total=total, unit="B", stage=f"publish {store.path.name}", shown_after_s=0.0 if progress else None
    ) as bar:
        for objects_of_part, bytes_of_part, size_of_part in concurrently(sent.send_part, range(store.num_parts)):
            objects, num_bytes = objects + objects_of_part, num_bytes + bytes_of_part
            bar.update(size_of_part)
    return objects, num_bytes


@dataclass(frozen=True)
class _Sent:
    """Sends parts of a store; the receipt of a part only after all its files."""

    storage: ObjectStorage
    store: Store
    there: dict[str, int]
    """Objects at the start, name -> bytes."""

    def send_part(self, part: int) -> tuple[int, int, int]:
        """Send what is not there; objects and bytes sent, and the size of the part."""
        data, receipt = read_receipt(self.store.path, part)
        folder = self.store.path / schema.PARTS / schema.part_name(part)
        size = sum(stated["bytes"] for stated in receipt["files"].values())
        files = {object_name(part, file): (file, stated) for file, stated in receipt["files"].items()}
        receipt_name = object_name(part, schema.RECEIPT)
        whole = all(self.there.get(name) == stated["bytes"] for name, (_, stated) in files.items())
        if whole and self._is_there(receipt_name, {"bytes": len(data), "sha256": sha256(data).hex()}):
            return 0, 0, size
        missing = {name: of for name, of in files.items() if not self._is_there(name, of[1])}
        for name, (file, stated) in missing.items():
            self.storage.put_file(name, folder / file, stated["bytes"], stated["sha256"])
        self.storage.put(receipt_name, data)
        return len(missing) + 1, sum(of[1]["bytes"] for of in missing.values()) + len(data), size

    def _is_there(self, name: str, stated: dict) -> bool:
        """Whether an object was there at the start with this size and digest."""
        return self.there.get(name) == stated["bytes"] and self.storage.digest(name) == stated["sha256"]


def _report(storage: ObjectStorage, store_id: str, objects: int, num_bytes: int, conditional: bool | None) -> dict:
    return {
        "url": storage.url,
        "store_id": store_id,
        "objects": objects,
        "bytes": num_bytes,
        "conditional_creates": conditional,
    }


# -------------------------------------------------------------------------------------------------------------- pulling


def _is_there(out: Path, store_id: str) -> bool:
    """Whether `out` is this very store; refuses whatever else is there."""
    if not out.exists() and not out.is_symlink():
        return False
    if out.is_dir() and not any(out.iterdir()):
        return False
    try:
        there = open_store(out, allow_partial=True).store_id
    except UserError as error:
        raise UserError(f"{out} is taken, and not by a store that can be read ({error}); give another --out") from error
    if there != store_id:
        raise UserError(f"{out} holds the store {there or '(half built)'}, there it is {store_id}; give another --out")
    return True


def _fetch_all(storage: ObjectStorage, manifest: dict, staging: Path, progress: bool) -> tuple[int, int]:
    """Fetch everything but the manifest into `staging`, keeping what is there and right; objects and bytes fetched."""
    for name in ROOT_FILES:
        data = fetch_metadata(storage, name, manifest["files"][name])
        write_durably(data, staging / "store" / name, staging / "partial")
    fetch = _Fetched(storage, manifest, staging)
    total = sum(concurrently(fetch.receipt, range(len(manifest["parts"]))))
    if total != manifest["totals"]["bytes"]:
        raise CorruptStore(f"{schema.MANIFEST} at {storage.url} says {manifest['totals']['bytes']} bytes, not {total}")
    there = sum(file.stat().st_size for file in (staging / "store").rglob("*") if file.is_file())
    check_room(f"the store at {storage.url}", total - there, staging)
    objects, num_bytes = len(ROOT_FILES) + len(manifest["parts"]), 0
    with stage_bar(total=total, unit="B", stage=f"pull {storage.url}", shown_after_s=0.0 if progress else None) as bar:
        for objects_of_part, bytes_of_part, size_of_part in concurrently(fetch.part, range(len(manifest["parts"]))):
            objects, num_bytes = objects + objects_of_part, num_bytes + bytes_of_part
            bar.update(size_of_part)
    return objects, num_bytes


@dataclass(frozen=True)
class _Fetched:
    """Fetches parts of a store into a stage."""

    storage: ObjectStorage
    manifest: dict
    staging: Path

    def receipt(self, part: int) -> int:
        """Fetch a part's receipt, unless it is there; the bytes of the part's files."""
        place = self._folder(part) / schema.RECEIPT
        if place.exists() and sha256(place.read_bytes()).hex() == self.manifest["parts"][part]["receipt_sha256"]:
            receipt = check_receipt(place.read_bytes(), self.manifest, part, str(place))
        else:
            data, receipt = fetch_receipt(self.storage, self.manifest, part)
            place.parent.mkdir(exist_ok=True)
            write_durably(data, place, self.staging / "partial")
        return sum(stated["bytes"] for stated in receipt["files"].values())

    def part(self, part: int) -> tuple[int, int, int]:
        """Fetch a part's files, those that are there and right excepted; objects, bytes fetched, bytes of the part."""
        folder = self._folder(part)
        receipt = check_receipt((folder / schema.RECEIPT).read_bytes(), self.manifest, part, str(folder))
        objects, num_bytes = 0, 0
        for file, stated in receipt["files"].items():
            if not _matches(folder / file, stated):
                fetch_file(self.storage, part, file, stated, folder, self.staging / "partial")
                objects, num_bytes = objects + 1, num_bytes + stated["bytes"]
        check_rows(folder, receipt)
        return objects, num_bytes, sum(stated["bytes"] for stated in receipt["files"].values())

    def _folder(self, part: int) -> Path:
        return self.staging / "store" / schema.PARTS / schema.part_name(part)


def _matches(file: Path, stated: dict) -> bool:
    """Whether a file of an earlier try is there and right."""
    if not file.is_file() or file.stat().st_size != stated["bytes"]:
        return False
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest() == stated["sha256"]


def _put_in_place(stage: Path, out: Path) -> None:
    """Check the whole once more, make it durable, and rename it to `out`."""
    problems = verify(stage, full=False)
    if problems:
        raise CorruptStore(f"{stage}: {problems[0]}; remove this folder, then pull again")
    sync_all(stage)
    try:
        os.rename(stage, out)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
    sync(out.parent)
