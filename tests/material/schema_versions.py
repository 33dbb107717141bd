"""Stores of schema 1, which keeps each array of a part in files of its own; tests tamper with those easily."""

import json
import zipfile
from pathlib import Path

from backdrop.stores.format.packed_arrays import ARRAYS, pack
from backdrop.stores.format.provenance import canonical_json
from backdrop.stores.format.schema import MANIFEST, RECEIPT, SCHEMA_VERSION
from backdrop.stores.format.writer import manifest_bytes
from backdrop.stores.images.image_codec import sha256


def to_schema_1(path: Path) -> Path:
    """Make a finished store of today one of schema 1, as it would have been written then."""
    for part in (path / "parts").glob("part-*"):
        with zipfile.ZipFile(part / ARRAYS) as archive:
            archive.extractall(part)
        (part / ARRAYS).unlink()
        receipt = json.loads((part / RECEIPT).read_bytes())
        receipt["files"] = {
            name: {key: value for key, value in stated.items() if key != "offset"}
            for name, stated in receipt.pop("arrays").items()
        }
        (part / RECEIPT).write_bytes(canonical_json(receipt))
    return _with_version(path, "1.0")


def to_schema_2(path: Path) -> Path:
    """The other way: pack what the files now hold, and state of it what the receipt states."""
    for part in (path / "parts").glob("part-*"):
        receipt = json.loads((part / RECEIPT).read_bytes())
        files = {name: (part / name).read_bytes() for name in receipt["files"]}
        packed, offsets = pack(files)
        for name in files:
            (part / name).unlink()
            receipt["files"][name]["offset"] = offsets[name]
        for folder in sorted((folder for folder in part.rglob("*") if folder.is_dir()), reverse=True):
            folder.rmdir()
        (part / ARRAYS).write_bytes(packed)
        receipt["arrays"] = receipt.pop("files")
        receipt["files"] = {ARRAYS: {"bytes": len(packed), "sha256": sha256(packed).hex()}}
        (part / RECEIPT).write_bytes(canonical_json(receipt))
    return _with_version(path, SCHEMA_VERSION)


def _with_version(path: Path, version: str) -> Path:
    root = json.loads((path / "zarr.json").read_bytes())
    root["attributes"]["schema_version"] = version
    (path / "zarr.json").write_bytes(canonical_json(root))
    (path / MANIFEST).write_bytes(manifest_bytes(path))
    return path
