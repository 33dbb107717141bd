"""The table of records at the start of a .beton, read only after every number in it was found possible.

FFCV's reader believes a header: it makes room for as many samples as one claims and runs the handlers that one names.
What is checked here: the header, the description of our one field, that the table lies inside the file, and, record by
record, everything that sizes a buffer or chooses a row. Pointers to blobs are checked where they are followed, so that
the row is named.
"""

from pathlib import Path

import numpy as np

from backdrop.errors import CorruptStore
from backdrop.pipeline.beton import scene_kernels as kernels
from backdrop.pipeline.beton.ffcv_names import ALLOC_TABLE_TYPE, FieldDescType, HeaderType, Reader
from backdrop.pipeline.beton.scene import FIELD_NAME, SCENE_DTYPE, SceneField
from backdrop.stores.format.schema import Status

# The largest side that an export allows (`export_beton.BetonSettings`).
MAX_SIDE_PX = 4096
TABLE_START = HeaderType.itemsize + FieldDescType.itemsize
CUSTOM_FIELD = 255


class TableReader(Reader):
    """FFCV's reader of a .beton of ours; without its table of allocations, which FFCV would loop over in Python."""

    def read_header(self) -> None:
        """Read the header; ValueError where it is not one of ours."""
        self._num_bytes = Path(self._fname).stat().st_size
        if self._num_bytes < TABLE_START:
            raise ValueError(f"it ends after {self._num_bytes} bytes, inside its header")
        super().read_header()
        if self.num_fields != 1:
            raise ValueError(f"its header says {self.num_fields} fields instead of 1")
        table_bytes = int(self.num_samples) * SCENE_DTYPE.itemsize
        if TABLE_START + table_bytes > self._num_bytes:
            raise ValueError(f"its header says {self.num_samples} rows, which the file is too short for")

    def read_field_descriptors(self) -> None:
        """Read the description of the field; ValueError where it is not ours, before FFCV looks at its arguments."""
        field = np.fromfile(self._fname, dtype=FieldDescType, count=1, offset=HeaderType.itemsize)[0]
        if field["type_id"] != CUSTOM_FIELD or field["name"].tobytes().rstrip(b"\0") != FIELD_NAME.encode():
            raise ValueError(f"its field is not {FIELD_NAME!r}")
        super().read_field_descriptors()

    def read_allocation_table(self) -> None:
        """Nothing: sizes are in our records."""
        self.alloc_table = np.empty(0, dtype=ALLOC_TABLE_TYPE)


def open_reader(beton: Path) -> TableReader:
    """Return FFCV's reader of a .beton, its records checked; CorruptStore where it is no export of ours."""
    try:
        reader = TableReader(str(beton), {FIELD_NAME: SceneField})
    except (AssertionError, ValueError) as error:
        raise CorruptStore(f"{beton} is not a .beton of ours ({error}); export it again") from error
    _check_records(beton, records_of(reader))
    return reader


def records_of(reader: TableReader) -> np.ndarray:
    """Return the records, (N,) of SCENE_DTYPE."""
    return np.ascontiguousarray(reader.metadata["f0"])


def table_checksum(file_bytes: np.ndarray, num_rows: int) -> str:
    """Return XXH64 of header, field and records as 16 hexadecimal digits.

    The records hold what no blob's own checksum covers: labels, statuses, sizes and those checksums.

    Args: file_bytes: uint8, the mapped file. num_rows: its records.
    """
    return f"{int(kernels.checksum(file_bytes[: TABLE_START + num_rows * SCENE_DTYPE.itemsize])):016x}"


def has_mask(records: np.ndarray) -> np.ndarray:
    """Return bool (N,): rows that can be trained on, i.e. whose status says that there is a mask."""
    return np.isin(records["status"], [status for status in Status if status.has_mask])


def _check_records(beton: Path, records: np.ndarray) -> None:
    """Raise CorruptStore at the first row whose record no export writes."""
    height, width = records["height"], records["width"]
    lends = records["background_bytes"] > 0
    background = [records[f"background_{side}"] for side in ("height", "width")]
    checks = (
        (records["row"] != np.arange(len(records)), "is of another row"),
        (~np.isin(records["status"], list(Status)), "has an unknown status"),
        (has_mask(records) != (records["image_bytes"] > 0), "has an image where its status says none, or none"),
        (has_mask(records) & ((height == 0) | (width == 0)), "has a mask without pixels"),
        (records["foreground_pixels"] > height.astype(np.int64) * width, "has more foreground than pixels"),
        (np.maximum(height, width) > MAX_SIDE_PX, f"has a side of more than {MAX_SIDE_PX} px"),
        (lends != ((background[0] > 0) & (background[1] > 0)), "has a background without pixels"),
        (np.maximum(*background) > MAX_SIDE_PX, f"has a background with a side of more than {MAX_SIDE_PX} px"),
    )
    for is_wrong, what in checks:
        if is_wrong.any():
            raise CorruptStore(f"{beton}: the record of row {int(np.argmax(is_wrong))} {what}; export it again")
