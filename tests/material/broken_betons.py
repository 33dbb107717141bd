"""Copies of a .beton with wrong bytes in them: as a disk leaves them, or with every checksum made to fit."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from backdrop.pipeline.beton.ffcv_layout import HEADER_DTYPE
from backdrop.pipeline.beton.plane_kernels import STORED
from backdrop.pipeline.beton.reader import sidecar_path
from backdrop.pipeline.beton.scene import SCENE_DTYPE, checksum
from backdrop.pipeline.beton.table_reader import TABLE_START, open_records, table_checksum
from backdrop.stores.format.provenance import identity_digest


def copy_of(beton: Path, folder: Path) -> Path:
    """A copy with its sidecar."""
    for path in (beton, sidecar_path(beton)):
        shutil.copy(path, folder / path.name)
    return folder / beton.name


def record_of(beton: Path, row: int) -> np.void:
    return open_records(beton)[row]


def set_bytes(beton: Path, at: int, data: bytes) -> None:
    with beton.open("r+b") as file:
        file.seek(at)
        file.write(data)


def set_fields(beton: Path, row: int, **fields: int) -> None:
    """Change fields of a record; the sidecar's checksum of the table then no longer fits."""
    start = TABLE_START + row * SCENE_DTYPE.itemsize
    record = np.fromfile(beton, SCENE_DTYPE, count=1, offset=start)
    for name, value in fields.items():
        record[name] = value
    set_bytes(beton, start, record.tobytes())


def set_blob(beton: Path, row: int, blob: str, data: bytes, *, hides: bool = True) -> None:
    """Put other bytes where a blob stands; hides: with size and checksum that fit them."""
    set_bytes(beton, int(record_of(beton, row)[f"{blob}_ptr"]), data)
    if hides:
        set_fields(beton, row, **{f"{blob}_bytes": len(data), f"{blob}_checksum": checksum(data)})
        seal(beton)


def blob_of(beton: Path, row: int, blob: str) -> bytes:
    record = record_of(beton, row)
    start = int(record[f"{blob}_ptr"])
    return beton.read_bytes()[start : start + int(record[f"{blob}_bytes"])]


def seal(beton: Path, **changes: Any) -> None:
    """Make the sidecar fit the file as it is, apart from the changes: damage that no checksum tells of."""
    path, file_bytes = sidecar_path(beton), np.fromfile(beton, np.uint8)
    content = json.loads(path.read_text())
    at = HEADER_DTYPE.fields["num_samples"][1]
    num_rows = int.from_bytes(file_bytes[at : at + 8].tobytes(), "little")
    checksum_fits = table_checksum(file_bytes, min(num_rows, file_bytes.size // SCENE_DTYPE.itemsize))
    content |= {"num_bytes": file_bytes.size, "num_rows": num_rows, "table_checksum": checksum_fits} | changes
    content.pop("digest", None)
    path.write_text(json.dumps(content | {"digest": identity_digest(content)}))


def damaged(beton: Path, folder: Path, row: int, blob: str, *, hides: bool) -> Path:
    """A copy with wrong bytes in one blob; hides: with checksums that fit them."""
    copy = copy_of(beton, folder)
    data = blob_of(copy, row, blob)
    half = len(data) // 2
    wrong = b"\xff" * 8 + data[8:] if blob == "mask" else data[:half] + bytes(len(data) - half)
    if data.startswith(STORED.tobytes()):  # of planes any bytes are pixels, but for the first
        wrong = bytes(half) + data[half:]
    set_blob(copy, row, blob, wrong, hides=hides)
    return copy
