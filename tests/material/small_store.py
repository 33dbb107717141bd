"""A small store made by hand, for tests that need one without building it."""

from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

from backdrop.stores.format.mask_codec import pack_rows
from backdrop.stores.format.reader import Store
from backdrop.stores.format.schema import Status
from backdrop.stores.format.writer import StoreRow, finish, missing_parts, open_for_build, write_part
from backdrop.stores.images.image_codec import encode_jpeg, sha256

IDENTITY = {
    "dataset": "folder",
    "split": "train",
    "detector": {"name": "by-hand", "algorithm_version": 1},
    "threshold": 0.9,
}
NUM_ROWS = 11
PART_ROWS = 4


def mask_of(row: int) -> np.ndarray:
    """The mask of a row, (H, W) uint8; every row has another size."""
    rng = np.random.default_rng(row)
    mask_HW = (rng.random((20 + row, 30 + 3 * row)) < 0.5).astype(np.uint8)
    return np.kron(mask_HW, np.ones((2, 2), np.uint8))


def row_of(row: int) -> StoreRow:
    """Rows 3 and 8 have no mask, 5 no foreground, 6 no background; odd rows have soft maps."""
    mask_HW = mask_of(row) * (row != 5)
    height, width = mask_HW.shape
    status = {3: Status.DECODE_ERROR, 8: Status.MASK_ERROR, 5: Status.NO_FOREGROUND}.get(row, Status.OK)
    background = encode_jpeg(np.full((16, 16, 3), 20 * row, np.uint8)) if row not in (3, 6) else b""
    return StoreRow(
        row=row,
        key=f"class {row % 3}/bild-\u00e4-{row}.jpg",
        label=row % 3,
        height=0 if row == 3 else height,
        width=0 if row == 3 else width,
        status=status,
        message="" if status.has_mask else f"reason {row}",
        mask_packed=pack_rows(mask_HW) if status.has_mask else None,
        saliency_HW=mask_HW * 200 if row % 2 and status.has_mask else None,
        background_jpeg=background,
        source_sha256=sha256(b"%d" % row),
        source_bytes=row * 10**10,
    )


def write_parts(path: Path, parts: list[int] | None = None) -> None:
    """Begin or go on with the store; all missing parts, or only those named."""
    open_for_build(path, IDENTITY, NUM_ROWS, PART_ROWS)
    for part in missing_parts(path) if parts is None else parts:
        write_part(path, part, [row_of(row) for row in range(part * PART_ROWS, min((part + 1) * PART_ROWS, NUM_ROWS))])


def small_store(path: Path) -> Path:
    """Write the whole store."""
    write_parts(path)
    finish(path)
    return path


def tree(path: Path) -> dict[str, bytes]:
    """Every file below a folder: path -> content."""
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def digest_of_all(store: Store, queue: Queue | None = None) -> str:
    """Read every mask and background; the digest, also put into a queue."""
    rows = [row for row in range(len(store)) if row not in (3, 8)]
    digest = sha256(b"".join(store.mask(row).tobytes() + store.background_jpeg(row) for row in rows)).hex()
    if queue is not None:
        queue.put(digest)
    return digest


def race(path: Path, barrier: Barrier, queue: Queue) -> None:
    """Build the store together with others that wait at the same barrier."""
    barrier.wait()
    write_parts(path)
    queue.put(finish(path))
