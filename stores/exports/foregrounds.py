"""Foregrounds cut out of their images, as ForNet keeps them (Nauen et al. 2025): key `a/b.jpg` becomes `a/b.png`.

Each is RGBA, the box of the mask; alpha is the mask, 255 = foreground, and colours outside it are 0. `sizes.csv` says
of each where it stood: file, key, label, top, left, height, width, image_height, image_width (px), foreground_fraction.
Rows without a foreground have no file.
"""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from backdrop.durable_files import sync_all
from backdrop.errors import UserError
from backdrop.stores.exports import FOLDER_RECORD
from backdrop.stores.exports._folder import growing_folder
from backdrop.stores.exports._record import is_exported
from backdrop.stores.exports.png import file_names, is_whole
from backdrop.stores.format.reader import Store
from backdrop.stores.images.image_codec import decode_rgb, sha256
from backdrop.stores.indexes.dataset_index import DatasetIndex

FORMAT_NAME = "foregrounds"
SIZES = "sizes.csv"
_HEADER = (
    "file", "key", "label", "top", "left", "height", "width", "image_height", "image_width", "foreground_fraction",
)  # fmt: skip


def export(
    store: Store, out: Path, *, index: DatasetIndex, progress: Callable[[int], None] = lambda num_rows: None
) -> Path:
    """Write the foregrounds of a store; what is there already of the same store is kept, after a kill too.

    Args: store: a finished store. out: the folder; it appears whole or not at all. index: the images it was built from.
        progress: called with the number of rows written since the last call.
    Returns: out.
    Raises: UserError: an image is another one now, two keys would share a file, or something else lies at `out`.
        CorruptStore: the store is damaged.
    """
    store.prefetch("status", "label", "height", "width", "foreground_fraction", "box", "key", "message", "mask")
    names = file_names(store)
    if is_there(out, store):
        return out
    with growing_folder(store, out, FORMAT_NAME, sizes=SIZES) as partial:
        with (partial / SIZES).open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            sizes = csv.writer(file, lineterminator="\n")
            sizes.writerow(_HEADER)
            for row, name in enumerate(names):
                if store.foreground_fraction[row] > 0:
                    _write(partial / name, store, index, row)
                    sizes.writerow([name.as_posix(), *_size(store, row)])
                progress(1)
        sync_all(partial)
    return out


def is_there(out: Path, store: Store) -> bool:
    """Whether the export of a store is there. Raises: UserError: something else is."""
    return is_exported(out, out / FOLDER_RECORD, store, FORMAT_NAME)


def _write(file: Path, store: Store, index: DatasetIndex, row: int) -> None:
    """Write a row's foreground, unless it is there whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not is_whole(file):
        file.write_bytes(_cut_out(store, index, row))


def _cut_out(store: Store, index: DatasetIndex, row: int) -> bytes:
    data, mask_HW = index.read(row), store.mask(row)
    assert mask_HW is not None, "a foreground is a part of a mask"
    if index.keys[row] != store.key(row) or sha256(data) != store.source_sha256(row):
        raise UserError(
            f"row {row}, {store.key(row)}: the image is not the one that {store.path} was built from; give with --root "
            "the folder of that data set"
        )
    top, left, height, width = (int(value) for value in store.box[row])
    box = np.s_[top : top + height, left : left + width]
    rgba_HWC = np.dstack([decode_rgb(data)[box] * mask_HW[box][..., None], mask_HW[box] * np.uint8(255)])
    file = io.BytesIO()
    Image.fromarray(rgba_HWC).save(file, "PNG", compress_level=3)
    return file.getvalue()


def _size(store: Store, row: int) -> list[object]:
    box = [int(value) for value in store.box[row]]
    image = [int(store.height[row]), int(store.width[row])]
    return [store.key(row), int(store.label[row]), *box, *image, float(store.foreground_fraction[row])]
