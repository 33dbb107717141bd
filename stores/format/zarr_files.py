"""Zarr v3 metadata and the files of one part, written by hand.

Every array is one chunk with the codec `bytes` only, so the chunk file is the raw array: mapped into memory or read by
a ranged GET without zarr, and opened by any zarr v3 reader. Writing these few lines of JSON ourselves keeps the bytes
of a store independent of the version of a zarr library; a test opens everything with zarr alone.
"""

import numpy as np

from backdrop.stores.format import schema
from backdrop.stores.format.provenance import canonical_json

ZARR_NAMES = {"|u1": "uint8", "<i4": "int32", "<u4": "uint32", "<i8": "int64", "<f4": "float32"}


def group_metadata(attributes: dict | None = None) -> bytes:
    """The `zarr.json` of a group."""
    return canonical_json({"zarr_format": 3, "node_type": "group", "attributes": attributes or {}})


def array_metadata(array: np.ndarray) -> bytes:
    """The `zarr.json` of an array kept as one raw little-endian chunk."""
    codec: dict = {"name": "bytes"}
    if array.dtype.itemsize > 1:
        codec["configuration"] = {"endian": "little"}
    return canonical_json(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(array.shape),
            "data_type": ZARR_NAMES[array.dtype.str],
            # An array without entries has no chunk, yet the specification wants a chunk of at least one.
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [max(1, n) for n in array.shape]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [codec],
            "attributes": {},
        }
    )


def chunk_path(name: str, num_dimensions: int = 1) -> str:
    """Path of the only chunk of array `name` below its group."""
    return "/".join([name, "c", *["0"] * num_dimensions])


def chunks_of(name: str) -> list[str]:
    """Paths below a part's group of the chunks that a column or a blob of the schema is read from."""
    for column in schema.COLUMNS:
        if column.name == name:
            return [chunk_path(name, 1 + len(column.row_shape))]
    blob = next(blob for blob in schema.BLOBS if blob.name == name)
    return [chunk_path(array) for array in (blob.offsets, blob.crc32c, blob.name)]


def array_files(name: str, array: np.ndarray) -> dict[str, bytes]:
    """The files of one array, path below its group -> content; an empty array has no chunk file."""
    files = {f"{name}/{schema.ROOT_METADATA}": array_metadata(array)}
    if array.size:
        files[chunk_path(name, array.ndim)] = np.ascontiguousarray(array).tobytes()
    return files
