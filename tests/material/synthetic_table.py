"""A .beton of any number of rows whose records are real and whose blobs are a hole in the file."""

import json
from pathlib import Path

import numpy as np

from backdrop.pipeline.beton.ffcv_layout import CUSTOM_FIELD, FFCV_VERSION, FIELD_DTYPE, HEADER_DTYPE
from backdrop.pipeline.beton.layout import FORMAT, FORMAT_VERSION
from backdrop.pipeline.beton.reader import BetonSettings, sidecar_path
from backdrop.pipeline.beton.scene import FIELD_NAME, SCENE_DTYPE
from backdrop.pipeline.beton.table_reader import TABLE_START, map_file, table_checksum
from backdrop.stores.format.provenance import identity_digest
from backdrop.stores.format.schema import Status

IMAGE_BYTES, ROW_BYTES = 98_000, 99 << 10
AT_ONCE = 1 << 20


def write_table(path: Path, num_rows: int) -> Path:
    """Write it with its sidecar; every tenth row has no mask, all others lend a background."""
    blobs = -(-(TABLE_START + num_rows * SCENE_DTYPE.itemsize) // 4096) * 4096
    with path.open("wb") as file:
        header, field = np.zeros(1, HEADER_DTYPE), np.zeros(1, FIELD_DTYPE)
        header["version"], header["num_fields"], header["num_samples"] = FFCV_VERSION, 1, num_rows
        field["type_id"], field["name"][0, : len(FIELD_NAME)] = CUSTOM_FIELD, list(FIELD_NAME.encode())
        file.write(header.tobytes() + field.tobytes())
        for first in range(0, num_rows, AT_ONCE):
            file.write(records(np.arange(first, min(first + AT_ONCE, num_rows)), blobs).tobytes())
        file.truncate(blobs + num_rows * ROW_BYTES)
    content = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "sha256": "", "num_bytes": path.stat().st_size,
        "num_rows": num_rows, "table_checksum": table_checksum(map_file(path), num_rows), "store_id": "synthetic",
        "dataset": "synthetic", "split": "train", "settings": BetonSettings().__dict__, "masks": {},
    }  # fmt: skip
    sidecar_path(path).write_text(json.dumps(content | {"digest": identity_digest(content)}))
    return path


def records(row: np.ndarray, blobs: int) -> np.ndarray:
    """The records of some rows, whose blobs begin at a place of the file."""
    made = np.zeros(len(row), SCENE_DTYPE)
    has_mask = row % 10 != 0
    made["row"], made["label"] = row, row % 1000
    made["status"] = np.where(has_mask, int(Status.OK), int(Status.DECODE_ERROR))
    for name, value in (("height", 375), ("width", 500), ("image_bytes", IMAGE_BYTES), ("foreground_pixels", 9000)):
        made[name] = np.where(has_mask, value, 0)
    for name, value in (("background_height", 96), ("background_width", 128), ("background_bytes", 900)):
        made[name] = np.where(has_mask, value, 0)
    made["image_ptr"] = blobs + row * ROW_BYTES
    made["background_ptr"] = made["image_ptr"] + IMAGE_BYTES // 8 * 8
    return made
