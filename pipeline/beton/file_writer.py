"""One file in FFCV's format, written row after row by one process: the same rows, the same bytes.

Header, description of our one field, the records, then pages of one size with the blobs of whole rows, at last FFCV's
table of allocations. Memory is a page, and some 200 bytes for each of the file's rows.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from backdrop.pipeline.beton.ffcv_layout import (
    ALLOCATION_DTYPE,
    CUSTOM_FIELD,
    FFCV_VERSION,
    FIELD_DTYPE,
    HEADER_DTYPE,
)
from backdrop.pipeline.beton.scene import (
    BLOBS,
    FIELD_NAME,
    SCENE_DTYPE,
    Scene,
    encode_scene,
    padded_bytes,
    scene_blobs,
)
from backdrop.pipeline.beton.table_reader import TABLE_START


def write_file(
    path: Path, scenes: Iterable[Scene], *, num_rows: int, page_bytes: int, progress: Callable[[int], object]
) -> None:
    """Write a file; it is not synced.

    Args: path: of the file, written over. scenes: of its rows, in order. num_rows: how many. page_bytes: a power of two
        that holds the blobs of any row. progress: called with 1 for each row.
    """
    records = np.zeros(num_rows, SCENE_DTYPE)
    start = -(-(TABLE_START + records.nbytes) // page_bytes) * page_bytes
    with path.open("wb") as file:
        pages = _Pages(file, start, page_bytes, np.zeros(len(BLOBS) * num_rows, ALLOCATION_DTYPE))
        for at, scene in enumerate(scenes):
            blobs = scene_blobs(scene)
            pages.begin_row(at, sum(map(padded_bytes, blobs.values())))
            encode_scene(records[at : at + 1], scene, blobs, pages.malloc)
            progress(1)
        assert at == num_rows - 1, "a scene for each row"
        pages.end_page()
        allocations_at = file.tell()
        file.write(pages.allocations[: pages.num_allocations].tobytes())
        file.seek(0)
        file.write(_header(num_rows, page_bytes, allocations_at))
        file.write(records.tobytes())


def _header(num_rows: int, page_bytes: int, allocations_at: int) -> bytes:
    header, field = np.zeros(1, HEADER_DTYPE), np.zeros(1, FIELD_DTYPE)
    header["version"], header["num_fields"], header["page_size"] = FFCV_VERSION, 1, page_bytes
    header["num_samples"], header["alloc_table_ptr"] = num_rows, allocations_at
    field["type_id"] = CUSTOM_FIELD
    field["name"][0, : len(FIELD_NAME)] = np.frombuffer(FIELD_NAME.encode(), np.uint8)
    return header.tobytes() + field.tobytes()


class _Pages:
    """Where blobs go: a page after the other, each written when it is full; no row lies on two."""

    def __init__(self, file: BinaryIO, start: int, page_bytes: int, allocations: np.ndarray) -> None:
        """Args: start: of the first page in the file. allocations: FFCV's table, to be filled."""
        self._file, self._start, self._used, self._row = file, start, 0, 0
        self._page = np.zeros(page_bytes, np.uint8)
        self.allocations, self.num_allocations = allocations, 0
        file.seek(start)

    def begin_row(self, row: int, num_bytes: int) -> None:
        """Find room for a row's blobs."""
        assert num_bytes <= self._page.size, "a page holds any row"
        if self._used + num_bytes > self._page.size:
            self.end_page()
        self._row = row

    def malloc(self, num_bytes: int) -> tuple[int, np.ndarray]:
        """Return where a blob of that many bytes begins in the file, and the memory for them."""
        first, self._used = self._used, self._used + num_bytes
        self.allocations[self.num_allocations] = (self._row, self._start + first, num_bytes)
        self.num_allocations += 1
        return self._start + first, self._page[first : self._used]

    def end_page(self) -> None:
        """Write the page, if there is anything on it."""
        if self._used:
            self._file.write(self._page.data)
            self._page[:] = 0
            self._start, self._used = self._start + self._page.size, 0
