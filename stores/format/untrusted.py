"""What a store from elsewhere may say of itself: nothing in it is believed before it has passed these checks.

A digest proves only that bytes are those the publisher meant. These checks refuse what a publisher must not ask for:
files outside the folder, sizes that do not follow from the number of rows, frames and pictures that would swell up when
they are decoded. No name of a file is taken from what was received unless it is one that the schema itself would give.
"""

import json
import mmap
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import zstandard

from backdrop.errors import CorruptStore, UserError
from backdrop.stores.format import schema
from backdrop.stores.format.mask_codec import packed_shape
from backdrop.stores.format.packed_arrays import (
    ARRAYS,
    MAX_OVERHEAD_BYTES,
    ArrayPlace,
    array_place,
    arrays_of,
    is_packed,
)
from backdrop.stores.format.provenance import canonical_json, identity_digest
from backdrop.stores.format.schema import (
    MAX_BACKGROUND_BYTES,
    MAX_METADATA_BYTES,
    MAX_PART_ROWS,
    MAX_ROWS,
    MAX_TEXT_BYTES,
    Status,
)
from backdrop.stores.format.writer import num_parts, readable_versions, rows_of_part
from backdrop.stores.format.zarr_files import chunk_path
from backdrop.stores.images.image_codec import MAX_PIXELS, jpeg_header, sha256

MAX_BACKGROUND_PIXELS = 1 << 26
ZSTD_HEADER_BYTES = 18

# In a store of a newer minor version there may be arrays unknown to us; even then only files of this form.
ARRAY_FILE = re.compile(r"[a-z][a-z0-9_]{0,63}/(zarr\.json|c(/0){1,4})")
HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


def read_json(data: bytes, what: str) -> dict:
    """Parse a JSON object.

    Raises:
        CorruptStore: the bytes are none, or nested too deeply.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptStore(f"{what} is damaged ({type(error).__name__})") from error
    if not isinstance(value, dict):
        raise CorruptStore(f"{what} is damaged: it is no JSON object")
    return value


def check_manifest(data: bytes, what: str) -> dict:
    """Check a manifest by itself.

    Args:
        data: its bytes.
        what: where it is from, for messages.

    Returns:
        Its content: attributes of the store, `files`, `parts`, `totals`.

    Raises:
        UserError: it is of a schema that this version cannot read.
        CorruptStore: it is damaged, or no manifest that our writer writes.
    """
    manifest = _canonical(data, what)
    if manifest.get("schema") != schema.SCHEMA_NAME or _version(manifest, what)[0] not in schema.READABLE_VERSIONS:
        version = f"{manifest.get('schema')!r:.80} {manifest.get('schema_version')!r:.80}"
        raise UserError(f"{what} has schema {version}; this version reads {schema.SCHEMA_NAME} {readable_versions()}")
    sound = _is_count(manifest.get("num_rows"), 1, MAX_ROWS)
    sound = sound and _is_count(manifest.get("part_rows"), 1, MAX_PART_ROWS)
    sound = sound and isinstance(manifest.get("identity"), dict)
    sound = sound and manifest.get("identity_sha256") == identity_digest(manifest["identity"])
    sound = sound and _are_root_files(manifest.get("files"))
    totals = manifest.get("totals")
    sound = sound and isinstance(totals, dict) and _is_count(totals.get("bytes"), 0, 1 << 60)
    if not sound:
        raise CorruptStore(f"{what} is damaged, or of no store that Backdrop wrote")
    parts = manifest.get("parts")
    if not isinstance(parts, list) or len(parts) != num_parts(manifest):
        raise CorruptStore(f"{what} does not list the {num_parts(manifest)} parts that its rows need")
    for number, part in enumerate(parts):
        expected = {"name": schema.part_name(number), "rows": len(rows_of_part(manifest, number))}
        if not isinstance(part, dict) or {**part, **expected} != part or not _is_digest(part.get("receipt_sha256")):
            raise CorruptStore(f"{what} is damaged: its entry {number} is not that of {expected['name']}")
    if not _are_status_counts(manifest["totals"].get("status"), manifest["num_rows"]):
        raise CorruptStore(f"{what} is damaged: its rows by status are not {manifest['num_rows']}")
    return manifest


def check_receipt(data: bytes, manifest: dict, part: int, what: str) -> dict:
    """Check a part's receipt against a manifest that was checked before.

    Raises:
        CorruptStore: it is another one than the manifest states, or no receipt that our writer writes; the message
            names the file that it should not list.
    """
    if sha256(data).hex() != manifest["parts"][part]["receipt_sha256"]:
        raise CorruptStore(f"{what} does not match {schema.MANIFEST}")
    receipt = _canonical(data, what)
    rows = rows_of_part(manifest, part)
    expected = {
        "part": part,
        "first_row": rows.start,
        "num_rows": len(rows),
        "identity_sha256": manifest["identity_sha256"],
    }
    sound = {**receipt, **expected} == receipt and isinstance(receipt.get("files"), dict)
    if not sound or not _are_status_counts(receipt.get("status_counts"), len(rows)):
        raise CorruptStore(f"{what} is damaged, or of another part or store")
    major, minor = _version(manifest, what)
    if is_packed(receipt) != (major > 1):
        raise CorruptStore(f"{what} is damaged, or of another version than its store")
    if is_packed(receipt):
        _check_packed(receipt, what)
    _check_arrays(arrays_of(receipt), len(rows), minor > schema.READABLE_VERSIONS[major], what)
    return receipt


def check_rows(folder: Path, receipt: dict) -> None:
    """Check what a part's rows would make us allocate, without decoding anything.

    Args:
        folder: a part, whole, whose files match its receipt.
        receipt: its content.

    Raises:
        CorruptStore: a row's size, offset, status, or the header of its mask, soft map or background is out of bounds.
    """
    place = partial(array_place, folder, receipt, is_packed=is_packed(receipt))
    check_statuses(folder, place(chunk_path("status")))
    for blob in schema.BLOBS:
        check_blob(folder, blob, place, place(chunk_path(blob.name)))


def check_statuses(folder: Path, place: ArrayPlace) -> None:
    """Check the statuses of the part `folder`, kept at `place`. Raises CorruptStore: one of them is unknown."""
    if not np.isin(_array(place, "|u1"), [int(status) for status in Status]).all():
        raise CorruptStore(f"{_where(folder)}: a row's status is unknown")


def check_blob(folder: Path, blob: schema.Blob, place_of: Callable[[str], ArrayPlace], place: ArrayPlace) -> None:
    """Check one blob as `check_rows` does.

    Args:
        folder: of the part.
        blob: which.
        place_of: where the files that `needed_for` names lie.
        place: the blob's bytes, where they are kept or on their way there.

    Raises:
        CorruptStore: an offset, a row's size or the header of its bytes is out of bounds.
    """
    heights, widths = (_array(place_of(chunk_path(name)), "<i4").astype(np.int64) for name in ("height", "width"))
    if min(heights.min(), widths.min()) < 0 or (heights * widths).max() > MAX_PIXELS:
        raise CorruptStore(f"{_where(folder)}: a row's height and width are out of bounds")
    offsets = _array(place_of(chunk_path(blob.offsets)), "<i8")
    if offsets[0] != 0 or offsets[-1] != place.num_bytes or (np.diff(offsets) < 0).any():
        raise CorruptStore(f"{_where(folder)}: {blob.offsets} do not follow one another to the end of {blob.name}")
    if place.num_bytes and blob.name in ("mask", "saliency", "background"):
        _check_headers(place, blob.name, offsets, heights, widths, _where(folder))


def needed_for(blob: schema.Blob) -> list[str]:
    """The files of a part that `check_blob` reads besides the blob itself."""
    return [chunk_path(name) for name in ("height", "width", blob.offsets)]


def _where(folder: Path) -> str:
    return f"{folder.name} of a store from elsewhere"


def _check_headers(
    place: ArrayPlace, name: str, offsets: np.ndarray, heights: np.ndarray, widths: np.ndarray, where: str
) -> None:
    offsets = offsets + place.offset
    with open(place.file, "rb") as handle, mmap.mmap(handle.fileno(), 0, prot=mmap.PROT_READ) as data:
        for at in np.flatnonzero(np.diff(offsets)):
            begin, end, height, width = (int(of) for of in (offsets[at], offsets[at + 1], heights[at], widths[at]))
            if name == "background":
                header = jpeg_header(data[begin:end])
                sound = header is not None and header.height * header.width <= MAX_BACKGROUND_PIXELS
            else:
                shape = packed_shape(height, width) if name == "mask" else (height, width)
                sound = _content_size(data[begin : min(end, begin + ZSTD_HEADER_BYTES)]) == shape[0] * shape[1]
            if not sound:
                raise CorruptStore(f"{where}: {name} of its row {at} would decode to something else than its row")


def _content_size(frame: bytes) -> int:
    """How long a zstd frame says its content is; -1 where it does not say so, or is none."""
    try:
        return zstandard.frame_content_size(frame)
    except zstandard.ZstdError:
        return -1


def _array(place: ArrayPlace, dtype: str) -> np.ndarray:
    return np.frombuffer(place.read(), dtype)


def _canonical(data: bytes, what: str) -> dict:
    """Parse what our writer wrote; other spellings of the same JSON (repeated keys, say) are refused."""
    value = read_json(data, what)
    try:
        same = canonical_json(value) == data
    except RecursionError:
        same = False
    if not same:
        raise CorruptStore(f"{what} is damaged: it is not in the form in which Backdrop writes it")
    return value


def _version(manifest: dict, what: str) -> tuple[int, int]:
    """Major and minor number of the schema."""
    found = re.fullmatch(r"(\d{1,6})\.(\d{1,6})", str(manifest.get("schema_version")))
    if not found:
        raise CorruptStore(f"{what} states no version of its schema")
    return int(found.group(1)), int(found.group(2))


def _check_packed(receipt: dict, what: str) -> None:
    """The one file that holds a part's arrays: no other, of the size that they need, and every array within it."""
    files, arrays = receipt["files"], receipt["arrays"]
    sound = files.keys() == {ARRAYS} and isinstance(files[ARRAYS], dict) and isinstance(arrays, dict)
    sound = sound and _is_digest(files[ARRAYS].get("sha256")) and _is_count(files[ARRAYS].get("bytes"), 1, 1 << 50)
    if not sound:
        raise CorruptStore(f"{what} is damaged: its files are not {ARRAYS} alone")
    at = 0
    for name, stated in arrays.items():  # in the order of their names, in which they lie
        sound = isinstance(stated, dict) and _is_count(stated.get("bytes"), 1, 1 << 50)
        sound = sound and _is_count(stated.get("offset"), at, at + MAX_OVERHEAD_BYTES)
        if not sound:
            raise CorruptStore(f"{what} is damaged at {name!r:.120}")
        at = stated["offset"] + stated["bytes"]
    most = at + MAX_OVERHEAD_BYTES * (len(arrays) + 1)
    if not at <= files[ARRAYS]["bytes"] <= most:
        raise CorruptStore(f"{what} gives {ARRAYS} {files[ARRAYS]['bytes']} bytes, which its arrays cannot have")


def _check_arrays(files: dict, num_rows: int, is_newer: bool, what: str) -> None:
    """Names and sizes of the files of a part's arrays; those of fixed size must have it."""
    fixed, most = _sizes(num_rows)
    missing = [name for name in fixed if name not in files]
    if missing:
        raise CorruptStore(f"{what} does not list {missing[0]}")
    for name, stated in files.items():
        known = name in fixed or name in most
        if not known and not (is_newer and ARRAY_FILE.fullmatch(name)):
            raise CorruptStore(f"{what} lists {name!r:.120}, which is no file of a part")
        sound = isinstance(stated, dict) and _is_count(stated.get("bytes"), 1, 1 << 50)
        if not sound or not _is_digest(stated.get("sha256")):
            raise CorruptStore(f"{what} is damaged at {name!r:.120}")
        if stated["bytes"] > most.get(name, fixed.get(name, 1 << 50)) or stated["bytes"] < fixed.get(name, 0):
            raise CorruptStore(f"{what} gives {name} {stated['bytes']} bytes, which {num_rows} rows cannot have")


def _sizes(num_rows: int) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes that files must have, and the most that others may have."""
    fixed, most = {}, {schema.ROOT_METADATA: MAX_METADATA_BYTES}
    for column in schema.COLUMNS:
        item = np.dtype(column.dtype).itemsize * int(np.prod(column.row_shape))
        fixed[chunk_path(column.name, 1 + len(column.row_shape))] = num_rows * item
        most[f"{column.name}/{schema.ROOT_METADATA}"] = MAX_METADATA_BYTES
    per_row = {"key": MAX_TEXT_BYTES, "message": MAX_TEXT_BYTES, "background": MAX_BACKGROUND_BYTES}
    for blob in schema.BLOBS:
        fixed |= {chunk_path(blob.offsets): 8 * (num_rows + 1), chunk_path(blob.crc32c): 4 * num_rows}
        most[chunk_path(blob.name)] = num_rows * per_row.get(blob.name, 2 * MAX_PIXELS)
        for name in (blob.name, blob.offsets, blob.crc32c):
            most[f"{name}/{schema.ROOT_METADATA}"] = MAX_METADATA_BYTES
    return fixed, most


def _are_root_files(files: object) -> bool:
    names = {schema.ROOT_METADATA, f"{schema.PARTS}/{schema.ROOT_METADATA}"}
    return isinstance(files, dict) and files.keys() == names and all(map(_is_digest, files.values()))


def _are_status_counts(counts: object, num_rows: int) -> bool:
    if not isinstance(counts, dict) or not counts.keys() <= {status.label for status in Status}:
        return False
    return all(_is_count(count, 0, num_rows) for count in counts.values()) and sum(counts.values()) == num_rows


def _is_count(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and HEX_DIGEST.fullmatch(value) is not None
