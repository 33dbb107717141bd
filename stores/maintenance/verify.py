"""Checking a store: every file it should have, their sizes, and in full their digests and every row's content."""

import functools
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backdrop.bounded_files import open_plain
from backdrop.errors import CorruptStore
from backdrop.progress import stage_bar
from backdrop.stores.format import schema
from backdrop.stores.format.mask_codec import unpack_rows
from backdrop.stores.format.packed_arrays import ARRAYS, arrays_of, is_packed, listed_places
from backdrop.stores.format.part_reader import Part, map_file
from backdrop.stores.format.provenance import differing_fields, identity_digest
from backdrop.stores.format.reader import open_store
from backdrop.stores.format.schema import Status
from backdrop.stores.format.writer import manifest_bytes, num_parts, read_attributes, read_receipt, rows_of_part
from backdrop.stores.images.image_codec import jpeg_header, sha256

# With the .beton that a store which is published to a folder may have brought along.
ROOT_NAMES = {schema.ROOT_METADATA, schema.PARTS, schema.MANIFEST, "beton"}


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a store: where, as far as it is known, and what."""

    part: int | None
    row: int | None
    what: str

    def __str__(self) -> str:
        place = "" if self.part is None else f"{schema.part_name(self.part)}: "
        return place + ("" if self.row is None else f"row {self.row}: ") + self.what


def verify(path: Path | str, *, full: bool = True, allow_partial: bool = False) -> list[Problem]:
    """Check a store.

    Args:
        path: the store's folder.
        full: also compare the SHA-256 of every file with the receipts, and check the CRC, decode the mask and compare
            the columns of every row. Otherwise only which files are there, their sizes, and the receipts against the
            manifest.
        allow_partial: accept a store that is half built, and check the parts that are there.

    Returns:
        All problems found; an empty list for a sound store.

    Raises:
        UserError: there is no store at `path`, or it is half built and `allow_partial` is not given.
    """
    path = Path(path)
    try:
        attributes = read_attributes(path)
    except CorruptStore as error:
        return [Problem(None, None, str(error))]
    problems = list(_check_root(path, attributes, allow_partial))
    is_complete = (path / schema.MANIFEST).exists()
    for part in stage_bar(
        range(num_parts(attributes)), stage=f"verify {path.name}", unit="part", shown_after_s=0.0 if full else None
    ):
        if (path / schema.PARTS / schema.part_name(part)).is_dir():
            problems += _check_part(path, attributes, part, full)
        elif is_complete:
            problems.append(Problem(part, None, "the part is missing"))
    return problems


def _check_root(path: Path, attributes: dict, allow_partial: bool) -> Iterator[Problem]:
    if identity_digest(attributes["identity"]) != attributes["identity_sha256"]:
        yield Problem(None, None, f"{schema.ROOT_METADATA}: the identity does not have the digest beside it")
    try:
        if open_store(path, allow_partial=allow_partial).is_complete:
            yield from _check_manifest(path)
    except (CorruptStore, OSError) as error:
        yield Problem(None, None, str(error))
    parts = {schema.part_name(part) for part in range(num_parts(attributes))} | {schema.ROOT_METADATA}
    for folder, names in ((path, ROOT_NAMES), (path / schema.PARTS, parts)):
        for name in sorted(set(os.listdir(folder)) - names):
            yield Problem(None, None, f"{(folder / name).relative_to(path)} does not belong to the store")


def _check_manifest(path: Path) -> Iterator[Problem]:
    """Compare a manifest that can be read with what it must hold; receipts that cannot be are left to their parts."""
    data = (path / schema.MANIFEST).read_bytes()
    manifest = json.loads(data)
    sound = True
    for part, stated in enumerate(manifest["parts"]):
        try:
            receipt = read_receipt(path, part)[0]
        except CorruptStore:  # said with all else that is wrong in the part
            sound = False
            continue
        if sha256(receipt).hex() != stated["receipt_sha256"]:
            yield Problem(part, None, f"{schema.RECEIPT} does not match {schema.MANIFEST}: one of them was changed")
    expected = manifest_bytes(path) if sound else data
    if expected != data:
        lines = differing_fields(_without_parts(manifest), _without_parts(json.loads(expected)))
        what = "; ".join(lines) or "its list of parts, or the way it is written"
        yield Problem(None, None, f"{schema.MANIFEST} does not match the metadata and receipts of the store: {what}")


def _without_parts(manifest: dict) -> dict:
    return {name: value for name, value in manifest.items() if name != "parts"}


def _check_part(path: Path, attributes: dict, part: int, full: bool) -> list[Problem]:
    try:
        receipt = read_receipt(path, part)[1]
    except CorruptStore as error:
        return [Problem(part, None, str(error))]
    folder, rows = path / schema.PARTS / schema.part_name(part), rows_of_part(attributes, part)
    problems = []
    stated = receipt["num_rows"], receipt.get("first_row"), receipt.get("identity_sha256")
    if stated != (len(rows), rows.start, attributes["identity_sha256"]):
        problems.append(Problem(part, None, f"{schema.RECEIPT} is of another store, or damaged"))
    problems += _check_files(folder, part, receipt, full)
    if full and is_packed(receipt):
        problems += _check_packed(folder / ARRAYS, part, receipt)
    if full and receipt["num_rows"] == len(rows):
        problems += _check_rows(Part(folder, receipt, rows.start, functools.cache(map_file)), part, receipt)
    return problems


def _check_files(folder: Path, part: int, receipt: dict, full: bool) -> Iterator[Problem]:
    names = receipt["files"].keys() | {schema.RECEIPT}
    expected = names | {parent.as_posix() for name in names for parent in Path(name).parents}
    there = {file.relative_to(folder).as_posix() for file in folder.rglob("*")}
    for name in sorted(there - expected):
        yield Problem(part, None, f"{name} does not belong to the part")
    for name, stated in receipt["files"].items():
        if name not in there:
            yield Problem(part, None, f"{name} is missing")
            continue
        try:
            wrong = _wrong_with(folder / name, stated, full)
        except (OSError, CorruptStore) as error:
            wrong = f"cannot be read: {error.strerror if isinstance(error, OSError) else error}"
        if wrong:
            yield Problem(part, None, f"{name} {wrong}")


def _wrong_with(file: Path, stated: dict, full: bool) -> str:
    """What is wrong with a file, compared with its receipt; "" for nothing."""
    with open_plain(file) as opened:
        num_bytes = os.fstat(opened.fileno()).st_size
        if num_bytes != stated["bytes"]:
            return f"has {num_bytes} bytes, its receipt says {stated['bytes']}"
        if full and hashlib.file_digest(opened, "sha256").hexdigest() != stated["sha256"]:
            return "does not match the SHA-256 of its receipt"
    return ""


def _check_packed(file: Path, part: int, receipt: dict) -> Iterator[Problem]:
    """Compare what zarr finds in the one file of a part's arrays with what the receipt states of it."""
    stated = {name: (of.get("offset"), of["bytes"]) for name, of in arrays_of(receipt).items()}
    try:
        listed, packed = listed_places(file), map_file(file)
    except CorruptStore as error:
        yield Problem(part, None, str(error))
        return
    if listed != stated:
        yield Problem(part, None, f"{file.name} lists other arrays, or elsewhere, than {schema.RECEIPT} does")
        return
    for name, (offset, num_bytes) in listed.items():
        if sha256(packed[offset : offset + num_bytes]).hex() != receipt["arrays"][name]["sha256"]:
            yield Problem(part, None, f"{name} does not match the SHA-256 of its receipt")


def _check_rows(part: Part, number: int, receipt: dict) -> list[Problem]:
    """Read every field of every row as a user would."""
    try:
        for column in schema.COLUMNS:
            part.column(column.name)
    except CorruptStore as error:
        return [Problem(number, None, str(error))]
    problems = []
    codes = part.column("status").tolist()
    if receipt["status_counts"] != {status.label: codes.count(status) for status in Status}:
        problems.append(Problem(number, None, f"{schema.RECEIPT} miscounts the rows of each status"))
    for at in range(part.num_rows):
        row, sound = part.first_row + at, True
        for blob in schema.BLOBS:
            try:
                part.blob(blob.name, at)
            except CorruptStore as error:
                sound = False
                problems.append(Problem(number, row, str(error)))
        if sound:
            problems += [Problem(number, row, f"{part.text('key', at)}: {what}") for what in _check_row(part, at)]
    return problems


def _check_row(part: Part, at: int) -> Iterator[str]:
    """What is wrong in a row whose bytes all match their checksums."""
    background = part.blob("background", at)
    if background and jpeg_header(background) is None:
        yield "its background is no JPEG"
    code = int(part.column("status")[at])
    if code not in [int(status) for status in Status]:
        yield f"its status {code} is unknown"
    elif Status(code).has_mask != bool(part.blob("mask", at)):
        yield f"its status is {Status(code).label}, and its mask has {len(part.blob('mask', at))} bytes"
    elif Status(code).has_mask:
        try:
            part.saliency(at)
            yield from _check_mask(unpack_rows(part.mask_packed(at), int(part.column("width")[at])), part, at)
        except CorruptStore as error:
            yield str(error)


def _check_mask(mask_HW: np.ndarray, part: Part, at: int) -> Iterator[str]:
    num_foreground, code = int(mask_HW.sum()), int(part.column("status")[at])
    if (num_foreground == 0) != (code == Status.NO_FOREGROUND):
        yield f"its status is {Status(code).label}, and its mask has {num_foreground} foreground pixels"
    elif code == Status.ALL_FOREGROUND and num_foreground < mask_HW.size:
        yield f"its status is {Status(code).label}, and its mask has {mask_HW.size - num_foreground} background pixels"
    if not np.isclose(num_foreground / max(1, mask_HW.size), part.column("foreground_fraction")[at], atol=1e-6):
        yield "its foreground fraction does not match its mask"
    top, left, height, width = (int(edge) for edge in part.column("box")[at])
    if int(mask_HW[top : top + height, left : left + width].sum()) != num_foreground:
        yield "its box does not hold its mask"
