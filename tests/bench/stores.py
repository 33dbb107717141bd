"""Random reads from a store beside zarr-python and h5py on the same bytes; the tiled background."""

from pathlib import Path

import cv2
import h5py
import numpy as np
import zarr

from pipeline.build.masks_and_backgrounds import BuildSettings, build_store
from pipeline.build.tiled_background import fill_background
from stores.dataset_index import open_index
from stores.mask_codec import decode_mask
from stores.reader import Store, open_store
from tests.bench.photographs import blob_mask, photograph, write_dataset
from tests.bench.timing import best_seconds, row

NUM_IMAGES = 256
MICROSECONDS = 1e6


def measure(folder: Path) -> dict[str, dict]:
    """Return the lines named `store.*`."""
    write_dataset(folder / "data", NUM_IMAGES)
    index = open_index("folder", root=folder / "data" / "images")
    build_store(index, f"masks:{folder / 'data' / 'masks'}", folder / "s.zarr", BuildSettings(), num_workers=2)
    store = open_store(folder / "s.zarr")
    order = np.random.default_rng(0).permutation(store.num_rows)
    return {
        "store.mask_read_us": mask_reads(store, order),
        "store.jpeg_read_us": background_reads(store, order, folder),
        "store.tiled_background_ms": tiled_background(),
    }


def per_read(read, order: np.ndarray) -> float:
    return best_seconds(lambda: [read(int(number)) for number in order]) / len(order) * MICROSECONDS


def mask_reads(store: Store, order: np.ndarray) -> dict:
    """Random masks to packed bits, checksum checked."""

    def by_zarr(number: int) -> np.ndarray:
        group, at = part_of(store, number)
        start, stop = group["mask_offsets"][at : at + 2]
        return decode_mask(group["mask"][start:stop].tobytes(), int(group["height"][at]), int(group["width"][at]))

    assert (by_zarr(3) == store.mask_packed(3)).all()
    ours, peer = per_read(store.mask_packed, order), per_read(by_zarr, order[:32])
    return row(
        ours, "us", peer=peer, ratio=peer / ours, what="random mask to packed bits; peer: zarr-python, same files"
    )


def part_of(store: Store, number: int) -> tuple[zarr.Group, int]:
    part, at = divmod(number, store.part_rows)
    return zarr.open_group(store.path / "parts" / f"part-{part:05d}", mode="r"), at


def background_reads(store: Store, order: np.ndarray, folder: Path) -> dict:
    """Random background JPEGs, checksum checked."""
    with h5py.File(folder / "peer.h5", "w") as file:
        blobs = file.create_dataset("background", (store.num_rows,), dtype=h5py.vlen_dtype(np.uint8), chunks=(64,))
        for number in range(store.num_rows):
            blobs[number] = np.frombuffer(store.background_jpeg(number), np.uint8)
    with h5py.File(folder / "peer.h5", "r") as file:
        blobs = file["background"]
        ours, peer = per_read(store.background_jpeg, order), per_read(lambda number: blobs[number], order)
    return row(
        ours, "us", peer=peer, ratio=peer / ours, what="random background JPEG; peer: h5py, one vlen array, no checksum"
    )


def tiled_background() -> dict:
    """Milliseconds to tile one background."""
    image_HWC, mask_HW = photograph(0), blob_mask(0)
    ours = best_seconds(lambda: fill_background(image_HWC, mask_HW, "tile")) * 1e3
    dilated = cv2.dilate(mask_HW, np.ones((5, 5), np.uint8))
    peer = best_seconds(lambda: cv2.inpaint(image_HWC, dilated, 5, cv2.INPAINT_TELEA), repetitions=2) * 1e3
    return row(ours, "ms", peer=peer, ratio=peer / ours, what="500 x 375; peer: cv2.inpaint Telea, radius 5")
