"""The table of records at the start of a .beton, mapped; given out only after every number in it was found possible.

What is checked here: the header, the description of our one field, that the table lies inside the file, and, record by
record, everything that sizes a buffer or chooses a row. Pointers to blobs are checked where they are followed, so that
the row is named.
"""

from pathlib import Path

import numpy as np

from backdrop.errors import CorruptStore
from backdrop.pipeline.beton import scene_kernels as kernels
from backdrop.pipeline.beton import table_kernels
from backdrop.pipeline.beton.ffcv_layout import CUSTOM_FIELD, FFCV_VERSION, FIELD_DTYPE, HEADER_DTYPE
from backdrop.pipeline.beton.scene import FIELD_NAME, SCENE_DTYPE
from backdrop.stores.format.schema import Status

# The largest side that an export allows (`export_beton.BetonSettings`).
MAX_SIDE_PX = 4096
TABLE_START = HEADER_DTYPE.itemsize + FIELD_DTYPE.itemsize
_HAS_MASK = np.array([status.has_mask for status in sorted(Status)])  # statuses are numbered from 0 on


def map_file(path: Path) -> np.ndarray:
    """Return the bytes of a file, uint8, read-only, as the page cache holds them: shared by all processes."""
    return np.asarray(np.memmap(path, np.uint8, mode="r"))


def open_records(beton: Path, *, first_row: int = 0) -> np.ndarray:
    """Return the records of a file, (N,) of SCENE_DTYPE, mapped and checked; CorruptStore where it is no export.

    Args: first_row: of a shard.
    """
    try:
        records = _records(map_file(beton))
    except ValueError as error:
        raise CorruptStore(f"{beton} is not a .beton of ours ({error}); export it again") from error
    check_records(beton, records, first_row=first_row)
    return records


def _records(file_bytes: np.ndarray) -> np.ndarray:
    """The table in a mapped file; ValueError where header or field are not ours or it does not fit."""
    if file_bytes.size < TABLE_START:
        raise ValueError(f"it ends after {file_bytes.size} bytes, inside its header")
    header = file_bytes[: HEADER_DTYPE.itemsize].view(HEADER_DTYPE)[0]
    if header["version"] != FFCV_VERSION:
        raise ValueError(f"its header says version {header['version']} instead of {FFCV_VERSION}")
    if header["num_fields"] != 1:
        raise ValueError(f"its header says {header['num_fields']} fields instead of 1")
    end = TABLE_START + int(header["num_samples"]) * SCENE_DTYPE.itemsize
    if end > file_bytes.size:
        raise ValueError(f"its header says {header['num_samples']} rows, which the file is too short for")
    field = file_bytes[HEADER_DTYPE.itemsize : TABLE_START].view(FIELD_DTYPE)[0]
    if field["type_id"] != CUSTOM_FIELD or field["name"].tobytes().rstrip(b"\0") != FIELD_NAME.encode():
        raise ValueError(f"its field is not {FIELD_NAME!r}")
    return file_bytes[TABLE_START:end].view(SCENE_DTYPE)


def table_checksum(file_bytes: np.ndarray, num_rows: int) -> str:
    """Return XXH64 of header, field and records as 16 hexadecimal digits.

    The records hold what no blob's own checksum covers: labels, statuses, sizes and those checksums.

    Args: file_bytes: uint8, the mapped file. num_rows: its records.
    """
    return f"{int(kernels.checksum(file_bytes[: TABLE_START + num_rows * SCENE_DTYPE.itemsize])):016x}"


def records_checksum(records: np.ndarray) -> str:
    """XXH64 of records without a header, as 16 hexadecimal digits. Args: records: (N,) of SCENE_DTYPE."""
    return f"{int(kernels.checksum(records.view(np.uint8))):016x}"


def has_mask(records: np.ndarray) -> np.ndarray:
    """Return bool (N,): rows that can be trained on, i.e. whose status says that there is a mask."""
    return np.isin(records["status"], [status for status in Status if status.has_mask])


def rows_with_mask(records: np.ndarray) -> np.ndarray:
    """Return the rows that can be trained on, int32, ascending: those of `has_mask`, at four bytes each."""
    rows = np.empty(len(records), np.int32)
    return rows[: table_kernels.rows_with_mask(records, _HAS_MASK, rows)]


def check_records(beton: Path, records: np.ndarray, *, first_row: int = 0) -> None:
    """Raise CorruptStore at the first row whose record no export writes.

    Args: beton: for messages. records: (N,) of SCENE_DTYPE. first_row: row of the first.
    """
    wrong, at = table_kernels.first_wrong(records, first_row, _HAS_MASK, MAX_SIDE_PX)
    if wrong != table_kernels.OK:
        what = table_kernels.WRONG[wrong].format(max_side_px=MAX_SIDE_PX)
        raise CorruptStore(f"{beton}: the record of row {first_row + at} {what}; export it again")
