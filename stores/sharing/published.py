"""A published store, read object by object, each checked before it is used; and files made whole before they appear."""

import errno
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from backdrop.durable_files import sync
from backdrop.errors import CorruptStore, UserError
from backdrop.stores.format import schema
from backdrop.stores.format.packed_arrays import ARRAYS
from backdrop.stores.format.schema import MAX_MANIFEST_BYTES, MAX_METADATA_BYTES, MAX_RECEIPT_BYTES
from backdrop.stores.format.untrusted import check_manifest, check_receipt, read_json
from backdrop.stores.images.image_codec import sha256
from backdrop.stores.sharing.object_storage import ObjectStorage

# Names the store whose publishing was begun at an address; gone when it is finished.
CLAIM = "PUBLISHING.json"
MAX_CLAIM_BYTES = 1 << 12
ROOT_FILES = (schema.ROOT_METADATA, f"{schema.PARTS}/{schema.ROOT_METADATA}")


def read_published(storage: ObjectStorage) -> tuple[bytes, dict]:
    """The manifest of a published store, its bytes and its checked content.

    Raises:
        UserError: there is none, or one of a schema that this version cannot read.
        CorruptStore: it is damaged, or claims the impossible.
    """
    data = storage.read(schema.MANIFEST, MAX_MANIFEST_BYTES)
    if data is None:
        begun = storage.read(CLAIM, MAX_CLAIM_BYTES) is not None
        why = "its publishing was begun and not finished: give 'store publish' again" if begun else "correct the URL"
        raise UserError(f"there is no store at {storage.url} (no {schema.MANIFEST}); {why}")
    return data, check_manifest(data, f"{schema.MANIFEST} at {storage.url}")


def fetch_file(
    storage: ObjectStorage,
    part: int,
    file: str,
    stated: dict,
    folder: Path,
    partial: Path,
    check: Callable[[Path], None] = lambda aside: None,
) -> None:
    """Fetch one file of a part, or one of its packed arrays; check it, and move it into place; of racers any wins.

    It is not made durable here: for thousands of files that is done once, at the end.

    Args:
        file: its name, below the part, from a receipt that was checked.
        stated: its "bytes" and "sha256" there, and "offset" of an array that is packed with others.
        folder: the part's folder; folders below it are made.
        partial: a folder on the same disk for what is not whole yet.
        check: called with the file before it is moved; what it raises keeps the file out.

    Raises:
        UserError: as `ObjectStorage.download`.
        OSError: the disk cannot be written, or has no room for it.
    """
    if stated["bytes"] > shutil.disk_usage(partial).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(partial))
    # One by one, for the part's folder itself may be gone: moved into place by a pull that was faster.
    for parent in reversed(Path(file).parents[:-1]):
        (folder / parent).mkdir(exist_ok=True)
    aside = partial / uuid.uuid4().hex
    try:
        name = object_name(part, ARRAYS if "offset" in stated else file)
        storage.download(name, aside, stated["bytes"], stated["sha256"], stated.get("offset"))
        check(aside)
        os.replace(aside, folder / file)
    finally:
        aside.unlink(missing_ok=True)


def check_room(what: str, num_bytes: int, folder: Path) -> None:
    """Refuse what the disk has no room for. Args: what: is fetched. num_bytes: that it needs. folder: on that disk.

    Raises: UserError: so much is not free.
    """
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise UserError(
            f"{what} needs {num_bytes} bytes more, the disk that holds {folder.parent} has {free}; free space, then "
            "give the same command again"
        )


def write_durably(data: bytes, place: Path, partial: Path) -> None:
    """Write a small file aside in `partial`, make it durable, and move it to `place`."""
    aside = partial / uuid.uuid4().hex
    try:
        aside.write_bytes(data)
        sync(aside)
        os.replace(aside, place)
    finally:
        aside.unlink(missing_ok=True)


def fetch_metadata(storage: ObjectStorage, name: str, digest: str) -> bytes:
    """A group's `zarr.json` of a published store, checked. Raises CorruptStore."""
    data = storage.read(name, MAX_METADATA_BYTES)
    what = f"{name} at {storage.url}"
    if data is None or sha256(data).hex() != digest:
        raise CorruptStore(f"{what} is {'missing' if data is None else 'damaged: its digest is another'}")
    read_json(data, what)
    return data


def fetch_receipt(storage: ObjectStorage, manifest: dict, part: int) -> tuple[bytes, dict]:
    """A part's receipt of a published store, its bytes and its checked content. Raises CorruptStore."""
    name = object_name(part, schema.RECEIPT)
    data = storage.read(name, MAX_RECEIPT_BYTES)
    if data is None:
        raise CorruptStore(f"{name} is missing at {storage.url}")
    return data, check_receipt(data, manifest, part, f"{name} at {storage.url}")


def object_name(part: int, file: str) -> str:
    """Name of the object that holds a part's file."""
    return f"{schema.PARTS}/{schema.part_name(part)}/{file}"
