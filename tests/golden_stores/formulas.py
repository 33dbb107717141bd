"""What the golden stores hold: formulas, so that a test can say what a reader must find without asking its code.

`v1.0/` is what `python -m tests.golden_stores.formulas FOLDER` wrote with the writer of schema 1.0, `v2.0/` is that
store merged into a new one by the writer of schema 2.0. Neither is ever written again.
"""

import sys
from pathlib import Path

import numpy as np

from backdrop.stores.format.schema import Status
from backdrop.stores.format.writer import StoreRow, finish, open_for_build, write_part
from backdrop.stores.images.image_codec import encode_jpeg

# Fields like those that build-store writes, by hand: no later version of build-store has a say in this file.
IDENTITY = {
    "dataset": "golden",
    "split": "train",
    "index_sha256": "0" * 64,
    "detector": {"name": "formula", "algorithm_version": 1},
    "mask": {"threshold": 0.5, "comparator": ">"},
    "background": {"fill": "grey", "max_side_px": 16, "jpeg_quality": 90},
    "soft_maps": "uint8",
    "schema_version": "1.0",
}
STATUSES = (
    Status.OK,
    Status.NO_FOREGROUND,
    Status.ALL_FOREGROUND,
    Status.DECODE_ERROR,
    Status.MASK_ERROR,
    Status.OK,
    Status.OK,
)
PART_ROWS = 8


def size_of(row: int) -> tuple[int, int]:
    """Height and width in px; widths that are and are not whole bytes."""
    return (0, 0) if STATUSES[row] == Status.DECODE_ERROR else (6 + row, 13 + row)


def mask_of(row: int) -> np.ndarray:
    """(H, W) uint8: a rectangle from (2, 3) that grows with the row."""
    mask_HW = np.zeros(size_of(row), np.uint8)
    if STATUSES[row] == Status.OK:
        mask_HW[2 : 4 + row // 2, 3 : 8 + row] = 1
    return mask_HW + 1 if STATUSES[row] == Status.ALL_FOREGROUND else mask_HW


def saliency_of(row: int) -> np.ndarray | None:
    """(H, W) uint8, 200 on the mask; of rows 0 to 5, those with a mask."""
    return mask_of(row) * np.uint8(200) if STATUSES[row].has_mask and row < 6 else None


def key_of(row: int) -> str:
    """Row 6 has a name beyond ASCII."""
    name = "6-\u00e4" if row == 6 else str(row)
    return f"class-{row % 2}/{name}.jpg"


def row_of(row: int, background_jpeg: bytes) -> StoreRow:
    """One row; the background is given, for no two versions of a JPEG library need agree."""
    status, (height, width) = STATUSES[row], size_of(row)
    return StoreRow(
        row=row,
        key=key_of(row),
        label=row % 2 - (row == 5) * 2,
        height=height,
        width=width,
        status=status,
        message="" if status.has_mask else f"reason {row}",
        mask_packed=np.packbits(mask_of(row), axis=1) if status.has_mask else None,
        saliency_HW=saliency_of(row),
        background_jpeg=background_jpeg,
        source_sha256=bytes([row] * 32),
        source_bytes=1000 * row,
    )


def main(path: Path) -> str:
    """Write the store; its id."""
    rows = []
    for row, status in enumerate(STATUSES):
        lends = status in (Status.OK, Status.NO_FOREGROUND)
        rows.append(row_of(row, encode_jpeg(np.full((8, 8, 3), 30 * row, np.uint8)) if lends else b""))
    open_for_build(path, IDENTITY, len(rows), PART_ROWS)
    write_part(path, 0, rows)
    return finish(path)


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
