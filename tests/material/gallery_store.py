"""A small store with its images and soft maps, every status, and keys that a careless page would stumble over."""

from pathlib import Path

import numpy as np

from backdrop.stores.format.mask_codec import pack_rows
from backdrop.stores.format.schema import Status
from backdrop.stores.format.writer import StoreRow, finish, missing_parts, open_for_build, write_part
from backdrop.stores.images.image_codec import encode_jpeg, sha256
from tests.material.small_store import IDENTITY

PART_ROWS = 16
HOSTILE = "weird/<img src=x onerror=alert(1)>.jpg"
MESSAGE = "</script><script>alert(2)</script> \u2028 \"so\" & 'so'"
KEYS = sorted(
    [f"{name}/{number:03d}.jpg" for name in ("ants", "bees") for number in range(28)]
    + [HOSTILE, "weird/\"quoted\" & 'so'.jpg", "weird/\u65e5\u672c-\u00e4.jpg", "weird/\U0001f408.jpg"]
)
STATUSES = {5: Status.NO_FOREGROUND, 6: Status.ALL_FOREGROUND, 40: Status.DECODE_ERROR, 41: Status.MASK_ERROR}
CLASSES = ("ants", "bees", "weird")
HEIGHT, WIDTH = 60, 80


def status_of(row: int) -> Status:
    """ok but for four rows."""
    return STATUSES.get(row, Status.OK)


def mask_of(row: int) -> np.ndarray:
    """A square whose side grows with the row, (60, 80) uint8; nothing or everything where the status says so."""
    mask_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask_HW[4 : 4 + row % 50 + 1, 8 : 8 + row % 50 + 1] = 1
    return mask_HW * (row != 5) | np.uint8(row == 6)


def image_of(row: int) -> bytes:
    """The row's image file: a flat colour with the foreground in another; of row 40 no image at all."""
    if row == 40:
        return b"no image"
    image_HWC = np.full((HEIGHT, WIDTH, 3), (4 * row, 90, 120), np.uint8)
    image_HWC[mask_of(row) == 1] = (200, 4 * row, 30)
    return encode_jpeg(image_HWC)


def row_of(row: int) -> StoreRow:
    """What the store holds of a row."""
    status, mask_HW = status_of(row), mask_of(row)
    can_lend = status in (Status.OK, Status.NO_FOREGROUND)
    return StoreRow(
        row=row,
        key=KEYS[row],
        label=CLASSES.index(KEYS[row].partition("/")[0]),
        height=0 if row == 40 else HEIGHT,
        width=0 if row == 40 else WIDTH,
        status=status,
        message="" if status.has_mask else MESSAGE,
        mask_packed=pack_rows(mask_HW) if status.has_mask else None,
        saliency_HW=mask_HW * np.uint8(240) if status.has_mask else None,
        background_jpeg=encode_jpeg(np.full((30, 40, 3), 4 * row, np.uint8)) if can_lend else b"",
        source_sha256=sha256(image_of(row)),
        source_bytes=len(image_of(row)),
    )


def write_images(root: Path) -> None:
    """Write the data set."""
    for row, key in enumerate(KEYS):
        file = root / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image_of(row))


def write_store(path: Path, parts: list[int] | None = None) -> Path:
    """Write the store; or only some parts of it, and then it stays half built."""
    open_for_build(path, {**IDENTITY, "soft_maps": {"bits": 8}}, len(KEYS), PART_ROWS)
    for part in missing_parts(path) if parts is None else parts:
        write_part(path, part, [row_of(row) for row in range(part * PART_ROWS, min((part + 1) * PART_ROWS, len(KEYS)))])
    if parts is None:
        finish(path)
    return path
