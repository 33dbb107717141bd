"""Random reads from a store beside zarr-python and h5py, builds per core, bytes per image, the tiled background."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import zarr

import backdrop.saliency.classical.rbd as rbd
from backdrop.pipeline.build.masks_and_backgrounds import BuildSettings, build_store
from backdrop.pipeline.build.tiled_background import fill_background
from backdrop.stores.datasets import open_index
from backdrop.stores.exports.hdf5 import CHUNK_BYTES, export
from backdrop.stores.format.mask_codec import decode_mask
from backdrop.stores.format.reader import Store, open_store
from backdrop.stores.images.image_codec import decode_grey, decode_rgb
from backdrop.stores.indexes.dataset_index import DatasetIndex
from tests.bench.photographs import blob_mask, photograph, write_dataset
from tests.bench.timing import best_seconds, one_core, row

NUM_IMAGES = 256
NUM_DETECTED = 32  # photographs that rbd is run on: it takes a tenth of a second for one
MICROSECONDS = 1e6


def measure(folder: Path) -> dict[str, dict]:
    """Return the lines named `store.*`."""
    write_dataset(folder / "data", NUM_IMAGES)
    write_dataset(folder / "few", NUM_DETECTED)
    index, few = (open_index("folder", root=folder / name / "images") for name in ("data", "few"))
    with_masks = build(index, f"masks:{folder / 'data' / 'masks'}", folder / "masks", BuildSettings())
    with_rbd = build(few, "rbd", folder / "rbd", BuildSettings(keeps_soft_maps=True))
    store = open_store(folder / "masks" / "0.zarr")
    order = np.random.default_rng(0).permutation(store.num_rows)
    export(store, folder / "masks.h5")
    return {
        **mask_reads(store, order, folder / "masks.h5"),
        **background_reads(store, order, folder / "backgrounds.h5"),
        "store.build_masks_img_per_s": build_rate(
            with_masks, decoding_alone(folder / "data"),
            "build-store --detector masks:DIR, 500 x 375, one core; peer: decoding the images and the masks alone",
        ),
        "store.build_rbd_img_per_s": build_rate(
            with_rbd, detector_alone(few),
            "build-store --detector rbd --soft-maps, 500 x 375, one core; peer: decoding the images and rbd alone",
        ),
        **bytes_per_image(open_store(folder / "rbd" / "0.zarr"), few),
        "store.tiled_background_ms": tiled_background(),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- reads


def per_read(read: Callable[[int], object], order: np.ndarray) -> float:
    """Microseconds of one read; many repetitions, for a few milliseconds are easily lost to other work."""
    seconds = best_seconds(lambda: [read(int(number)) for number in order], repetitions=40)
    return seconds / len(order) * MICROSECONDS


def mask_reads(store: Store, order: np.ndarray, exported: Path) -> dict[str, dict]:
    """Random masks to packed bits."""
    blob_of = by_zarr(store, "mask")

    def from_zarr(number: int) -> np.ndarray:
        return decode_mask(blob_of(number), int(store.height[number]), int(store.width[number]))

    with h5py.File(exported, "r", rdcc_nbytes=CHUNK_BYTES) as file:  # no set of many images would fit its cache
        masks, offsets, heights = file["mask"], file["mask_offsets"][:], file["height"][:]

        def from_h5py(number: int) -> np.ndarray:
            return masks[offsets[number] : offsets[number + 1]].reshape(heights[number], -1)

        for read in (from_zarr, from_h5py):
            assert (read(3) == store.mask_packed(3)).all()
        ours, zarr_us = per_read(store.mask_packed, order), per_read(from_zarr, order[:32])
        h5py_us = per_read(from_h5py, order)
    what = "random mask to packed bits, 500 x 375, checksum checked"
    return {
        "store.mask_read_us": beside(ours, zarr_us, f"{what}; peer: zarr-python, same files, opened before"),
        "store.mask_read_vs_h5py": beside(ours, h5py_us, f"{what}; peer: h5py, our --format hdf5, one chunk cached"),
    }  # fmt: skip


def background_reads(store: Store, order: np.ndarray, peer: Path) -> dict[str, dict]:
    """Random background JPEGs."""
    blob_of = by_zarr(store, "background")
    blobs = [store.background_jpeg(number) for number in range(store.num_rows)]
    offsets = np.cumsum([0, *map(len, blobs)])
    with h5py.File(peer, "w") as file:
        file["flat"] = np.frombuffer(b"".join(blobs), np.uint8)
        vlen = file.create_dataset("vlen", (store.num_rows,), dtype=h5py.vlen_dtype(np.uint8), chunks=(64,))
        for number, blob in enumerate(blobs):
            vlen[number] = np.frombuffer(blob, np.uint8)
    with h5py.File(peer, "r") as file:
        flat, vlen = file["flat"], file["vlen"]

        def from_flat(number: int) -> bytes:
            return flat[offsets[number] : offsets[number + 1]].tobytes()

        assert blob_of(3) == from_flat(3) == vlen[3].tobytes() == store.background_jpeg(3)
        ours, zarr_us = per_read(store.background_jpeg, order), per_read(blob_of, order[:32])
        flat_us, vlen_us = per_read(from_flat, order), per_read(lambda number: vlen[number], order)
    what = "random background JPEG, checksum checked"
    return {
        "store.jpeg_read_us": beside(ours, vlen_us, f"{what}; peer: h5py, one vlen array, no checksum"),
        "store.jpeg_read_vs_h5py_flat": beside(ours, flat_us, f"{what}; peer: h5py, flat with offsets, no checksum"),
        "store.jpeg_read_vs_zarr": beside(ours, zarr_us, f"{what}; peer: zarr-python, same files, opened before"),
    }


def by_zarr(store: Store, name: str) -> Callable[[int], bytes]:
    """Read a row's bytes as somebody with zarr alone would who opened the arrays, and read the offsets, before."""
    files = [store.path / f"parts/part-{part:05d}/arrays.zip" for part in range(store.num_parts)]
    parts = [zarr.open_group(zarr.storage.ZipStore(file, mode="r"), mode="r") for file in files]
    arrays = [(part[name], part[f"{name}_offsets"][:]) for part in parts]

    def read(number: int) -> bytes:
        array, offsets = arrays[number // store.part_rows]
        at = number % store.part_rows
        return array[offsets[at] : offsets[at + 1]].tobytes()

    return read


def beside(ours_us: float, peer_us: float, what: str) -> dict:
    """A line whose ratio says how many times faster ours is."""
    return row(ours_us, "us", peer=peer_us, ratio=peer_us / ours_us, what=what)


# --------------------------------------------------------------------------------------------------------------- builds


def build(index: DatasetIndex, detector: str, folder: Path, settings: BuildSettings) -> float:
    """Images per second of one core; leaves the store `0.zarr` in `folder`."""
    numbers = itertools.count()

    def work() -> None:
        build_store(index, detector, folder / f"{next(numbers)}.zarr", settings, num_workers=0)

    with one_core():
        return len(index) / best_seconds(work, repetitions=1)


def decoding_alone(data: Path) -> float:
    """Images per second of one core."""
    pairs = [(image, data / "masks" / f"{image.stem}.png") for image in sorted((data / "images").iterdir())]

    def work() -> None:
        for image, mask in pairs:
            decode_rgb(image.read_bytes())
            decode_grey(mask.read_bytes())

    with one_core():
        return len(pairs) / best_seconds(work, repetitions=2)


def detector_alone(index: DatasetIndex) -> float:
    """Images per second of one core."""
    with one_core():
        seconds = best_seconds(
            lambda: [rbd.saliency(decode_rgb(index.read(number))) for number in range(len(index))], repetitions=1
        )
    return len(index) / seconds


def build_rate(ours: float, peer: float, what: str) -> dict:
    """A line of images per second; the ratio is the share of the time that is not ours."""
    return row(ours, "images/s", peer=peer, ratio=ours / peer, what=what)


def bytes_per_image(store: Store, index: DatasetIndex) -> dict[str, dict]:
    """What a row takes on disk, by field."""
    of = {field: chunk_bytes(store, field) for field in ("mask", "saliency", "background")}
    total = sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file()) / store.num_rows
    masks = png_bytes([store.mask(number) * 255 for number in range(store.num_rows)])
    maps = png_bytes([store.saliency(number) for number in range(store.num_rows)])
    photographs = float(index.sizes_bytes.mean())
    rbd_of = "of rbd on 500 x 375 photographs"
    return {
        "store.mask_bytes": size(of["mask"], masks, f"mask {rbd_of}, packed rows and zstd; peer: PNG, 8 bit"),
        "store.soft_map_bytes": size(of["saliency"], maps, f"8-bit soft map {rbd_of}, zstd; peer: PNG"),
        "store.background_bytes": size(of["background"], photographs, "JPEG, 256 px; peer: the photograph itself"),
        "store.other_bytes": row(
            total - sum(of.values()), "bytes", what=f"keys, columns, checksums, metadata; {store.part_rows} rows a part"
        ),
    }  # fmt: skip


def chunk_bytes(store: Store, field: str) -> float:
    """Mean bytes of a row in a blob."""
    receipts = [json.loads(file.read_bytes()) for file in (store.path / "parts").glob("part-*/part.json")]
    return sum(receipt["arrays"].get(f"{field}/c/0", {"bytes": 0})["bytes"] for receipt in receipts) / store.num_rows


def png_bytes(images: list[np.ndarray]) -> float:
    """Mean size as PNG files."""
    return sum(len(cv2.imencode(".png", image)[1]) for image in images) / len(images)


def size(ours: float, peer: float, what: str) -> dict:
    """A line of bytes per image."""
    return row(ours, "bytes", peer=peer, ratio=peer / ours, what=what)


# ----------------------------------------------------------------------------------------------------------- background


def tiled_background() -> dict:
    """Milliseconds to tile one background."""
    image_HWC, mask_HW = photograph(0), blob_mask(0)
    ours = best_seconds(lambda: fill_background(image_HWC, mask_HW, "tile")) * 1e3
    dilated = cv2.dilate(mask_HW, np.ones((5, 5), np.uint8))
    peer = best_seconds(lambda: cv2.inpaint(image_HWC, dilated, 5, cv2.INPAINT_TELEA), repetitions=2) * 1e3
    return row(ours, "ms", peer=peer, ratio=peer / ours, what="500 x 375; peer: cv2.inpaint Telea, radius 5")
