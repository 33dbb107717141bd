"""Checking a store: every file it should have, their sizes, and in full their digests and every row's content."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stores import schema
from stores.errors import CorruptStore
from stores.image_codec import jpeg_header, sha256
from stores.mask_codec import unpack_rows
from stores.part_reader import Part
from stores.reader import Store, open_store
from stores.schema import Status
from stores.writer import manifest_bytes, num_parts, read_attributes, read_receipt, rows_of_part


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
            the columns of every row. Otherwise only which files are there, and their sizes.
        allow_partial: accept a store that is half built, and check the parts that are there.

    Returns:
        All problems found; an empty list for a sound store.

    Raises:
        UserError: there is no store at `path`, or it is half built and `allow_partial` is not given.
    """
    path = Path(path)
    try:
        attributes = read_attributes(path)
        store = open_store(path, allow_partial=allow_partial)
    except CorruptStore as error:
        return [Problem(None, None, str(error))]
    problems = list(_check_root(path, store))
    for part in range(num_parts(attributes)):
        if (path / schema.PARTS / schema.part_name(part)).is_dir():
            problems += _check_part(store, attributes, part, full)
        elif store.is_complete:
            problems.append(Problem(part, None, "the part is missing"))
    return problems


def _check_root(path: Path, store: Store) -> Iterator[Problem]:
    if store.is_complete:
        try:
            if manifest_bytes(path) != (path / schema.MANIFEST).read_bytes():
                yield Problem(None, None, f"{schema.MANIFEST} does not match the metadata and receipts of the store")
        except (CorruptStore, OSError) as error:
            yield Problem(None, None, f"{schema.MANIFEST} cannot be checked: {error}")
    parts = {schema.part_name(part) for part in range(store.num_parts)} | {schema.ROOT_METADATA}
    expected = {schema.ROOT_METADATA, schema.PARTS} | ({schema.MANIFEST} if store.is_complete else set())
    for folder, names in ((path, expected), (path / schema.PARTS, parts)):
        for name in sorted(set(os.listdir(folder)) - names):
            yield Problem(None, None, f"{(folder / name).relative_to(path)} does not belong to the store")


def _check_part(store: Store, attributes: dict, part: int, full: bool) -> list[Problem]:
    try:
        receipt = read_receipt(store.path, part)[1]
    except CorruptStore as error:
        return [Problem(part, None, str(error))]
    rows = rows_of_part(attributes, part)
    problems = []
    if (receipt["num_rows"], receipt.get("identity_sha256")) != (len(rows), attributes["identity_sha256"]):
        problems.append(Problem(part, None, f"{schema.RECEIPT} is of another store, or damaged"))
    problems += _check_files(store.path / schema.PARTS / schema.part_name(part), part, receipt, full)
    return problems + (_check_rows(store, rows, part) if full else [])


def _check_files(folder: Path, part: int, receipt: dict, full: bool) -> Iterator[Problem]:
    there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir()}
    for name in sorted(there - receipt["files"].keys() - {schema.RECEIPT}):
        yield Problem(part, None, f"{name} does not belong to the part")
    for name, stated in receipt["files"].items():
        if name not in there:
            yield Problem(part, None, f"{name} is missing")
            continue
        size = (folder / name).stat().st_size
        if size != stated["bytes"]:
            yield Problem(part, None, f"{name} has {size} bytes, its receipt says {stated['bytes']}")
        elif full and sha256((folder / name).read_bytes()).hex() != stated["sha256"]:
            yield Problem(part, None, f"{name} does not match the SHA-256 of its receipt")


def _check_rows(store: Store, rows: range, number: int) -> list[Problem]:
    """Read every field of every row as a user would."""
    try:
        part = store.part(number)
        for column in schema.COLUMNS:
            part.column(column.name)
    except CorruptStore as error:
        return [Problem(number, None, str(error))]
    problems = []
    for at, row in enumerate(rows):
        for blob in schema.BLOBS:
            try:
                part.blob(blob.name, at)
            except CorruptStore as error:
                problems.append(Problem(number, row, str(error)))
        if not problems or problems[-1].row != row:
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
    if not np.isclose(mask_HW.mean(dtype=np.float64), part.column("foreground_fraction")[at], atol=1e-6):
        yield "its foreground fraction does not match its mask"
    top, left, height, width = (int(edge) for edge in part.column("box")[at])
    if int(mask_HW[top : top + height, left : left + width].sum()) != int(mask_HW.sum()):
        yield "its box does not hold its mask"
