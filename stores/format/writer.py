"""Writing a store: parts staged beside it, made durable, and moved into place by one rename each; the manifest last.

    open_for_build(path, identity, num_rows, part_rows)      # again with the same arguments: resumes
    for part in missing_parts(path):
        write_part(path, part, rows)
    store_id = finish(path)

There is no lock. Everything a reader can see appears by an atomic rename; of two builders racing for a part the slower
one finds the place taken and drops its copy, which is the same. What a killed builder leaves lies in `<store>.staging`,
beside the store, and goes when the store is finished.
"""

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from backdrop.bounded_files import read_bounded
from backdrop.disk_errors import disk_errors
from backdrop.durable_files import sync
from backdrop.errors import CorruptStore, UserError
from backdrop.stores.format import schema
from backdrop.stores.format.mask_codec import encode_mask, encode_saliency, packed_shape
from backdrop.stores.format.packed_arrays import ARRAYS, array_place, arrays_of, is_packed, pack
from backdrop.stores.format.provenance import canonical_json, differing_fields, identity_digest, plain_identity
from backdrop.stores.format.schema import Status
from backdrop.stores.format.zarr_files import array_files, group_metadata
from backdrop.stores.images.image_codec import sha256

PART_ROWS = 1024  # 30 MB of backgrounds: large for a file system, small for a worker to lose
MIN_PART_ROWS = 32
PARTS_OF_A_SMALL_SET = 32

PLACE_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


@dataclass(frozen=True, kw_only=True)
class StoreRow:
    """One row as the builder hands it over; boxes and fractions are computed from the mask here."""

    row: int
    """Its number in the dataset index."""
    key: str
    label: int
    height: int
    """px, of the decoded image; 0 where it could not be decoded."""
    width: int
    status: Status
    message: str = ""
    """Why there is no mask; "" where there is one."""
    mask_packed: np.ndarray | None
    """(H, ceil(W / 8)) uint8, 1 = foreground; None for the two error states."""
    saliency_HW: np.ndarray | None = None
    """uint8 soft map; None where soft maps are not kept."""
    background_jpeg: bytes = b""
    """b"" = the row cannot lend its background."""
    source_sha256: bytes = bytes(32)
    source_bytes: int = 0


@dataclass(frozen=True)
class EncodedRow:
    """One row as the bytes of a part: what a `StoreRow` becomes, or what a part of another store holds of it."""

    row: int
    columns: dict[str, object]
    """Value of every column of the schema, by name."""
    blobs: dict[str, bytes]
    """Bytes of every blob of the schema, by name."""


def part_rows_for(num_rows: int) -> int:
    """Rows per part: 1024, fewer for small sets so that they resume and run in parallel too; a power of two.

    A function of `num_rows` alone: parts never depend on the number of workers.
    """
    rows = MIN_PART_ROWS
    while rows < PART_ROWS and rows * PARTS_OF_A_SMALL_SET < num_rows:
        rows *= 2
    return rows


def open_for_build(path: Path, identity: dict, num_rows: int, part_rows: int) -> None:
    """Create an empty store, or accept the one that is there for resuming.

    Args:
        path: the store's folder.
        identity: what decides its content, plain JSON values.
        num_rows: rows of the finished store, at least 1.
        part_rows: rows per part; the last part may hold fewer.

    Raises:
        UserError: the place is taken by something else, by a store of another identity (the fields that differ are
            named), or cannot be written.
    """
    assert num_rows >= 1, num_rows
    assert 1 <= part_rows <= schema.MAX_PART_ROWS, part_rows
    attributes = {
        "schema": schema.SCHEMA_NAME,
        "schema_version": schema.SCHEMA_VERSION,
        "mask_polarity": schema.MASK_POLARITY,
        "identity": plain_identity(identity),
        "identity_sha256": identity_digest(identity),
        "num_rows": num_rows,
        "part_rows": part_rows,
    }
    if not (path / schema.ROOT_METADATA).exists():
        _refuse_foreign(path)
        files = {schema.ROOT_METADATA: group_metadata(attributes)}
        files[f"{schema.PARTS}/{schema.ROOT_METADATA}"] = group_metadata()
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _publish(path, "store", files, path)
    _refuse_other_identity(path, attributes)


def read_attributes(path: Path) -> dict:
    """What a store says of itself in its root `zarr.json`, half built or finished.

    Raises:
        UserError: there is no store, or one of a schema this version cannot read.
        CorruptStore: the file is damaged.
    """
    root_file = path / schema.ROOT_METADATA
    try:
        attributes = json.loads(read_bounded(root_file, schema.MAX_METADATA_BYTES))["attributes"]
        name, version = attributes["schema"], str(attributes["schema_version"])
        sound = isinstance(attributes["identity"], dict) and isinstance(attributes["identity_sha256"], str)
        sound = sound and _is_count(attributes["num_rows"], 1, schema.MAX_ROWS)
        sound = sound and _is_count(attributes["part_rows"], 1, schema.MAX_PART_ROWS)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{path} is not a store: it has no {schema.ROOT_METADATA}. Give the folder of a store."
        ) from error
    except PermissionError as error:
        raise UserError(f"{root_file} cannot be read ({error.strerror}); have its owner change that") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptStore(f"{root_file} is damaged, or no metadata of a store ({type(error).__name__})") from error
    if name != schema.SCHEMA_NAME or version.partition(".")[0] not in map(str, schema.READABLE_VERSIONS):
        raise UserError(
            f"{path} has schema {name} {version}; this version reads {schema.SCHEMA_NAME} {readable_versions()}. "
            "Use the version of Backdrop that wrote it, or build the store anew."
        )
    if not sound:
        raise CorruptStore(f"{root_file} is damaged: some of its fields are none of a store")
    return attributes


def readable_versions() -> str:
    """The schemas that are read, for a message: "1.x and 2.x"."""
    return " and ".join(f"{major}.x" for major in schema.READABLE_VERSIONS)


def num_parts(attributes: dict) -> int:
    """How many parts the finished store has."""
    return -(-attributes["num_rows"] // attributes["part_rows"])


def rows_of_part(attributes: dict, part: int) -> range:
    """The rows that part number `part` holds."""
    first = part * attributes["part_rows"]
    return range(first, min(first + attributes["part_rows"], attributes["num_rows"]))


def missing_parts(path: Path) -> list[int]:
    """The parts not built yet, in order."""
    there = set(os.listdir(path / schema.PARTS))
    return [part for part in range(num_parts(read_attributes(path))) if schema.part_name(part) not in there]


def write_part(path: Path, part: int, rows: Sequence[StoreRow | EncodedRow]) -> dict:
    """Write one part, all rows of it, and make it visible in one step.

    Returns:
        The part's receipt (as in its `part.json`); that of the part already there where another builder was faster.

    Raises:
        UserError: the disk is full or cannot be written; the part is then not there, and building it again resumes.
    """
    expected = rows_of_part(read_attributes(path), part)
    assert [row.row for row in rows] == list(expected), f"part {part} must hold rows {expected}, in order"
    encoded = [encode_row(row) if isinstance(row, StoreRow) else row for row in rows]
    statuses = [row.columns["status"] for row in encoded]
    return write_part_files(
        path, part, part_files(encoded), {status.label: statuses.count(int(status)) for status in Status}
    )


def write_part_files(path: Path, part: int, files: dict[str, bytes], status_counts: dict[str, int]) -> dict:
    """Write one part from the files of its arrays; `write_part` for one that is taken from another store as it is.

    Args:
        path: the store's folder.
        part: number of the part.
        files: name -> content, as `part_files` and `checked_part_files` give them.
        status_counts: rows per status.

    Returns, raises: as `write_part`.
    """
    attributes = read_attributes(path)
    expected = rows_of_part(attributes, part)
    packed, offsets = pack(files)
    receipt = {
        "part": part,
        "first_row": expected.start,
        "num_rows": len(expected),
        "identity_sha256": attributes["identity_sha256"],
        "status_counts": status_counts,
        "files": {ARRAYS: {"bytes": len(packed), "sha256": sha256(packed).hex()}},
        "arrays": {
            name: {"bytes": len(data), "offset": offsets[name], "sha256": sha256(data).hex()}
            for name, data in sorted(files.items())
        },
    }
    place = path / schema.PARTS / schema.part_name(part)
    with disk_errors(path):
        _publish(path, schema.part_name(part), {ARRAYS: packed, schema.RECEIPT: canonical_json(receipt)}, place)
    return json.loads((place / schema.RECEIPT).read_bytes())


def encode_row(row: StoreRow) -> EncodedRow:
    """A row's columns and bytes, the foreground's fraction and box computed from its mask."""
    fraction, box = _foreground(row)
    columns = {
        "height": row.height,
        "width": row.width,
        "label": row.label,
        "status": int(row.status),
        "foreground_fraction": fraction,
        "box": box,
        "source_sha256": list(row.source_sha256),
        "source_bytes": row.source_bytes,
    }
    return EncodedRow(row.row, columns, {blob.name: _payload(blob.name, row) for blob in schema.BLOBS})


def part_files(rows: Sequence[EncodedRow]) -> dict[str, bytes]:
    """The files of a part's arrays: name -> content."""
    files = {schema.ROOT_METADATA: group_metadata()}
    for column in schema.COLUMNS:
        values = np.asarray([row.columns[column.name] for row in rows], dtype=column.dtype)
        files |= array_files(column.name, values.reshape(len(rows), *column.row_shape))
    for blob in schema.BLOBS:
        payloads = [row.blobs[blob.name] for row in rows]
        offsets = np.cumsum([0, *map(len, payloads)], dtype="<i8")
        checksums = np.array([google_crc32c.value(payload) for payload in payloads], dtype="<u4")
        files |= array_files(blob.name, np.frombuffer(b"".join(payloads), np.uint8))
        files |= array_files(blob.offsets, offsets) | array_files(blob.crc32c, checksums)
    return files


def finish(path: Path) -> str:
    """Write the manifest of a store that has all its parts.

    Returns:
        The store's id: SHA-256 (hex) of the bytes of `MANIFEST.json`.

    Raises:
        UserError: parts are missing, or the disk cannot be written.
    """
    missing = missing_parts(path)
    if missing:
        raise UserError(f"{path} lacks {len(missing)} parts (the first is {missing[0]}); build them, then finish it")
    manifest = manifest_bytes(path)
    target = path / schema.MANIFEST
    with disk_errors(path):
        if not target.exists() or read_bounded(target, schema.MAX_MANIFEST_BYTES) != manifest:
            _publish(path, "manifest", {schema.MANIFEST: manifest}, target, source=schema.MANIFEST)
        shutil.rmtree(staging_folder(path), ignore_errors=True)
    return sha256(manifest).hex()


def manifest_bytes(path: Path) -> bytes:
    """What `MANIFEST.json` must hold: a function of the root metadata and the receipts, so that it can be checked.

    Raises:
        CorruptStore: a receipt is damaged.
    """
    attributes = read_attributes(path)
    root_files = (schema.ROOT_METADATA, f"{schema.PARTS}/{schema.ROOT_METADATA}")
    parts, status_counts, total_bytes = [], dict.fromkeys((status.label for status in Status), 0), 0
    for part in range(num_parts(attributes)):
        data, receipt = read_receipt(path, part)
        parts.append(
            {"name": schema.part_name(part), "rows": receipt["num_rows"], "receipt_sha256": sha256(data).hex()}
        )
        total_bytes += sum(file["bytes"] for file in receipt["files"].values())
        for label, count in receipt["status_counts"].items():
            status_counts[label] += count
    return canonical_json(
        {
            **attributes,
            "files": {name: sha256(read_bounded(path / name, schema.MAX_METADATA_BYTES)).hex() for name in root_files},
            "parts": parts,
            "totals": {"rows": sum(part["rows"] for part in parts), "bytes": total_bytes, "status": status_counts},
        }
    )


def read_receipt(path: Path, part: int) -> tuple[bytes, dict]:
    """The bytes and the content of a part's receipt.

    Raises:
        CorruptStore: it is missing or damaged.
    """
    file = path / schema.PARTS / schema.part_name(part) / schema.RECEIPT
    try:
        data = read_bounded(file, schema.MAX_RECEIPT_BYTES)
        receipt = json.loads(data)
        counts = receipt["status_counts"]
        sound = receipt["part"] == part and _is_count(receipt["num_rows"], 1, schema.MAX_PART_ROWS)
        for stated in (*receipt["files"].values(), *arrays_of(receipt).values()):
            sound = sound and _is_count(stated["bytes"], 0, 1 << 60) and isinstance(stated["sha256"], str)
            sound = sound and _is_count(stated.get("offset", 0), 0, 1 << 60)
        sound = sound and counts.keys() <= {status.label for status in Status}
        sound = sound and all(_is_count(count, 0, receipt["num_rows"]) for count in counts.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptStore(f"{file} is missing or damaged ({type(error).__name__})") from error
    if not sound:
        raise CorruptStore(f"{file} is damaged, or of another part")
    return data, receipt


def _is_count(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def checked_part_files(path: Path, part: int) -> dict[str, bytes]:
    """The files of a part's arrays: name -> content, after its digest was compared.

    Raises:
        CorruptStore: one is missing, or does not match the receipt.
    """
    folder = path / schema.PARTS / schema.part_name(part)
    receipt, files = read_receipt(path, part)[1], {}
    for name, stated in arrays_of(receipt).items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CorruptStore(f"{folder / schema.RECEIPT} names a file outside its part: {name!r}")
        place = array_place(folder, receipt, name, is_packed=is_packed(receipt))
        try:
            files[name] = place.read()
        except OSError as error:
            raise CorruptStore(f"{folder / name} cannot be read: {error.strerror}") from error
        if sha256(files[name]).hex() != stated["sha256"]:
            raise CorruptStore(f"{folder / name} is damaged: it does not match the part's {schema.RECEIPT}")
    return files


def _foreground(row: StoreRow) -> tuple[float, tuple[int, int, int, int]]:
    """Fraction and bounding box of a row's foreground, from its packed mask."""
    packed = row.mask_packed
    if packed is None:
        assert not row.status.has_mask, f"{row.key}: status {row.status.label} without a mask"
        return 0.0, (0, 0, 0, 0)
    assert row.status.has_mask, f"{row.key}: status {row.status.label} with a mask"
    assert packed.shape == packed_shape(row.height, row.width), f"{row.key}: mask {packed.shape}"
    in_rows = np.flatnonzero(packed.any(axis=1))
    if not in_rows.size:
        return 0.0, (0, 0, 0, 0)
    in_columns = np.flatnonzero(np.unpackbits(np.bitwise_or.reduce(packed, axis=0)))
    top, left = int(in_rows[0]), int(in_columns[0])
    box = (top, left, int(in_rows[-1]) + 1 - top, int(in_columns[-1]) + 1 - left)
    assert left + box[3] <= row.width, f"{row.key}: foreground in the padding of its packed rows"
    return int(np.bitwise_count(packed).sum()) / (row.height * row.width), box


def _payload(name: str, row: StoreRow) -> bytes:
    match name:
        case "key":
            return row.key.encode("utf-8", "surrogateescape")
        case "message":
            return row.message.encode("utf-8", "surrogateescape")
        case "mask":
            return b"" if row.mask_packed is None else encode_mask(row.mask_packed)
        case "background":
            return row.background_jpeg
        case "saliency":
            return b"" if row.saliency_HW is None else encode_saliency(row.saliency_HW)
    raise AssertionError(name)


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, not a store; give another --out")
    # Looked at in this order, for a racing builder may have put the store there a moment ago.
    if path.is_dir() and any(path.iterdir()) and not (path / schema.ROOT_METADATA).exists():
        raise UserError(f"{path} is a folder with other things in it, not a store; give another --out, or empty it")


def _refuse_other_identity(path: Path, attributes: dict) -> None:
    there = read_attributes(path)
    lines = differing_fields(attributes["identity"], there["identity"])
    for name in ("schema_version", "num_rows", "part_rows"):
        if there[name] != attributes[name]:
            lines.append(f"{name}: {attributes[name]} here, {there[name]} there")
    if lines:
        raise UserError(
            f"{path} was begun with other settings and cannot be resumed with these:\n  "
            + "\n  ".join(lines)
            + "\nGive another --out, or the settings it was begun with."
        )


def staging_folder(path: Path) -> Path:
    """Where parts of a store are written before they are moved into place: beside it."""
    return path.parent / f"{path.name}.staging"


@contextmanager
def _staged(path: Path, name: str, files: dict[str, bytes]) -> Iterator[Path]:
    """Write files durably to a folder of their own beside the store; whatever is left there goes at the end."""
    stage = staging_folder(path) / f"{name}-{uuid.uuid4().hex}"
    try:
        folders = {(stage / file).parent for file in files} | {stage}
        for folder in sorted(folders):
            folder.mkdir(parents=True, exist_ok=True)
        for file, data in files.items():
            _write(stage / file, data)
        folders |= {parent for folder in folders for parent in folder.parents if stage in parent.parents}
        # After all is written, not file by file: the first call then flushes what the others ask for.
        for path_written in (*(stage / file for file in files), *folders):
            sync(path_written)
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _publish(path: Path, name: str, files: dict[str, bytes], place: Path, source: str = "") -> None:
    """Stage files and rename the folder, or `source` in it, to `place`.

    Where the place is taken a racing builder was faster, and ours is dropped; likewise where the staging folder is
    gone, because that builder has finished the store and swept it.
    """
    try:
        with _staged(path, name, files) as stage:
            os.rename(stage / source, place)
    except OSError as error:
        swept = error.errno == errno.ENOENT and place.exists()
        if error.errno not in PLACE_TAKEN and not swept:
            raise
    sync(place.parent)


def _write(file: Path, data: bytes) -> None:
    file.write_bytes(data)
