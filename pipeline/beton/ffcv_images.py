"""A file of FFCV's own, images with labels and no masks, as a table of scenes: for who has one and wants to try it.

What is read: the first field of RGB images (as JPEGs or as pixels) and the first of integers, which is the label. Such
a file keeps no checksums; its records are made in memory, 104 bytes a row.
"""

from pathlib import Path
from typing import Any

import numpy as np

from backdrop.errors import CorruptStore
from backdrop.pipeline.beton import scene_kernels as kernels
from backdrop.pipeline.beton.ffcv_layout import (
    ALLOCATION_DTYPE,
    CUSTOM_FIELD,
    FFCV_VERSION,
    FIELD_DTYPE,
    HEADER_DTYPE,
    INTEGERS,
    RECORDS,
    RGB_IMAGES,
)
from backdrop.pipeline.beton.scene import SCENE_DTYPE
from backdrop.stores.format.schema import Status

FORMAT = "ffcv"


def is_ffcvs_own(path: Path) -> bool:
    """Return whether a file is of FFCV's format, with images and without fields of others."""
    head = np.fromfile(path, np.uint8, count=HEADER_DTYPE.itemsize)
    if head.size < HEADER_DTYPE.itemsize or head.view(HEADER_DTYPE)["version"][0] != FFCV_VERSION:
        return False
    num_fields = int(head.view(HEADER_DTYPE)["num_fields"][0])
    kinds = np.fromfile(path, FIELD_DTYPE, count=num_fields, offset=HEADER_DTYPE.itemsize)["type_id"]
    return len(kinds) == num_fields and RGB_IMAGES in kinds and CUSTOM_FIELD not in kinds


def table_of(path: Path, file_bytes: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the records of such a file.

    Args: file_bytes: uint8, the mapped file.
    Returns: (N,) of SCENE_DTYPE, all without a foreground; where the file's own table ends, in bytes.
    Raises: CorruptStore where it does not fit together.
    """
    header = file_bytes[: HEADER_DTYPE.itemsize].view(HEADER_DTYPE)[0]
    start = HEADER_DTYPE.itemsize + int(header["num_fields"]) * FIELD_DTYPE.itemsize
    kinds = file_bytes[HEADER_DTYPE.itemsize : start].view(FIELD_DTYPE)["type_id"]
    row_dtype = np.dtype(
        [(f"f{number}", RECORDS.get(int(kind), "V0")) for number, kind in enumerate(kinds)], align=True
    )
    end, allocations = start + int(header["num_samples"]) * row_dtype.itemsize, int(header["alloc_table_ptr"])
    if not start <= end <= allocations <= file_bytes.size or any(int(kind) not in RECORDS for kind in kinds):
        raise CorruptStore(f"{path} is a file of FFCV's that does not fit together: write it again")
    samples = file_bytes[start:end].view(row_dtype)
    num_allocations = (file_bytes.size - allocations) // ALLOCATION_DTYPE.itemsize
    given = file_bytes[allocations : allocations + num_allocations * ALLOCATION_DTYPE.itemsize].view(ALLOCATION_DTYPE)
    labels = samples[f"f{list(kinds).index(INTEGERS)}"] if INTEGERS in kinds else np.full(len(samples), -1)
    return _records(path, samples[f"f{list(kinds).index(RGB_IMAGES)}"], labels, given), end


def _records(path: Path, images: np.ndarray, labels: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Args: images, labels: of each sample. given: the table of allocations, which alone says how long a JPEG is."""
    given = given[np.argsort(given["ptr"])]
    at = np.minimum(np.searchsorted(given["ptr"], images["data_ptr"]), max(0, len(given) - 1))
    if len(images) and (len(given) == 0 or (given["ptr"][at] != images["data_ptr"]).any()):
        raise CorruptStore(f"{path}: its table of allocations lacks some of its images: write it again")
    records = np.zeros(len(images), SCENE_DTYPE)
    records["row"], records["label"], records["status"] = np.arange(len(images)), labels, int(Status.NO_FOREGROUND)
    records["height"], records["width"] = images["height"], images["width"]
    records["image_ptr"], records["image_bytes"] = images["data_ptr"], given["size"][at] if len(images) else 0
    return records


def sidecar_of(path: Path) -> dict[str, Any]:
    """Return what the sidecar of a .beton says, as far as such a file does."""
    file_bytes = np.memmap(path, np.uint8, mode="r")
    records, end = table_of(path, file_bytes)
    digest = f"{int(kernels.checksum(np.array(file_bytes[:end]))):016x}"
    sides = [int(records[side].max(initial=1)) for side in ("height", "width")]
    return {
        "format": FORMAT,
        "sha256": "",
        "num_bytes": file_bytes.size,
        "num_rows": len(records),
        "store_id": f"ffcv-{digest}",
        "dataset": FORMAT,
        "split": path.stem,
        "settings": {"max_side_px": max(sides)},
    }
