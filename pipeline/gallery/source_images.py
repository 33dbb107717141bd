"""The images that a store was built from, looked for where they usually lie: a store holds none.

An image of a data set's folder is shown only if its SHA-256 is the one that the store recorded: what stands beside a
mask is the very image that the mask was made of.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from backdrop.errors import ImageError, UserError
from backdrop.stores.datasets import image_folder, open_archive
from backdrop.stores.format.reader import Store
from backdrop.stores.images.image_codec import decode_rgb, sha256
from backdrop.stores.indexes.dataset_index import Archive


@dataclass(frozen=True)
class SourceImages:
    """Where a store's images come from.

    where: what to call that place, "" where there is none. missing: why there is none.
    is_there: whether a row's image can be expected, without reading it.
    read: a row's image as uint8 RGB (H, W, 3), possibly scaled down, but not below the side in px that it is given, 0 =
        as large as it is; ImageError where it is none or another one.
    """

    where: str
    missing: str
    is_there: Callable[[int], bool]
    read: Callable[[int, int], np.ndarray]


def find_images(store: Store, root: Path | None) -> SourceImages:
    """Find the images of a store: in its data set's folder, else in the .beton beside the store.

    Args:
        store: an open store.
        root: the data set's folder; None = BACKDROP_DATA/<dataset>.

    Returns:
        The images; with `missing` set where neither is there.

    Raises:
        UserError: `root` was given and is no such folder.
    """
    try:
        folder = image_folder(store.dataset, root=root, split=store.split)
        archive = open_archive(store.dataset, root=root, split=store.split)
        return _in_folder(store, folder) if archive is None else _in_archive(store, archive)
    except UserError as error:
        if root is not None:
            raise
        beton = store.path.with_suffix(".beton")
        if beton.exists():
            return _in_beton(store, beton)
        return SourceImages("", str(error), lambda row: False, _none)


def _none(row: int, least_side_px: int) -> np.ndarray:
    raise ImageError("the images are not at hand")


def _in_archive(store: Store, archive: Archive) -> SourceImages:
    def read(row: int, least_side_px: int) -> np.ndarray:
        try:
            data = archive.read(store.key(row))
        except (OSError, UserError) as error:
            raise ImageError(str(error)) from error
        return decode_rgb(_same(data, store, row), least_side_px=least_side_px)

    return SourceImages("the data set's shards or tables", "", lambda row: True, read)


def _same(data: bytes, store: Store, row: int) -> bytes:
    """An image's bytes. Raises: ImageError: they are not those that the store was built from."""
    if sha256(data) != store.source_sha256(row):
        raise ImageError("the data set holds another image under this key than the store was built from")
    return data


def _in_folder(store: Store, folder: Path) -> SourceImages:
    def file_of(row: int) -> Path | None:
        key = PurePosixPath(store.key(row))
        is_inside = not key.is_absolute() and ".." not in key.parts and "\0" not in str(key)
        return folder / key if is_inside else None

    def is_there(row: int) -> bool:
        file = file_of(row)
        return file is not None and os.path.isfile(file)  # no error where it may not be looked at

    def read(row: int, least_side_px: int) -> np.ndarray:
        file = file_of(row)
        if file is None or not os.path.isfile(file):
            raise ImageError("its image is not in the data set's folder")
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ImageError(f"its image cannot be read: {error.strerror}") from error
        return decode_rgb(_same(data, store, row), least_side_px=least_side_px)

    return SourceImages("the data set's folder", "", is_there, read)


def _in_beton(store: Store, beton: Path) -> SourceImages:
    # Here, because what it imports takes seconds that a store with its data set does without.
    from backdrop.pipeline.beton.plane_blobs import rgb_of_blob
    from backdrop.pipeline.beton.reader import open_beton, read_blob

    try:
        opened = open_beton(beton)
        store_id = opened.sidecar["store_id"]
        if store_id != store.store_id:
            raise UserError(f"{beton.name} is of another store ({str(store_id)[:12]})")
    except UserError as error:
        return SourceImages("", str(error), lambda row: False, _none)
    records, file_bytes = opened.records, opened.file_bytes

    def read(row: int, least_side_px: int) -> np.ndarray:
        record = records[row]
        if not record["image_bytes"]:
            raise ImageError("its image is not in the .beton")
        return rgb_of_blob(read_blob(file_bytes, record, "image"), (int(record["height"]), int(record["width"])))

    return SourceImages(f"{beton.name}, scaled down", "", lambda row: bool(records[row]["image_bytes"]), read)
