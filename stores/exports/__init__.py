"""Masks of a store in the formats of other tools, alone or with what they cut out of the images: one file a format."""

import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from backdrop.disk_errors import disk_errors
from backdrop.durable_files import PARTIAL
from backdrop.errors import UserError
from backdrop.progress import stage_bar

if TYPE_CHECKING:
    from backdrop.stores.format.reader import Store
    from backdrop.stores.indexes.dataset_index import DatasetIndex

# Name -> its file here, and what takes the place of ".zarr" in the store's name.
MASK_FORMATS = {
    "hdf5": ("hdf5", ".h5"),
    "png": ("png", ".masks"),
    "coco-rle": ("coco_rle", ".coco.json"),
    "webdataset": ("webdataset", ".webdataset"),
    "parquet": ("parquet", ".parquet"),
    "foregrounds": ("foregrounds", ".foregrounds"),
}
# Those that also need the images.
WITH_IMAGES = ("foregrounds",)

# What every export that is a folder has in it.
FOLDER_RECORD = "export.json"


def export_masks(
    store: "Store",
    format_name: str,
    out: Path | None = None,
    *,
    index: "DatasetIndex | None" = None,
    overwrite: bool = False,
) -> Path:
    """Write the masks of a store, with a progress bar; an export of the same store that is there already is kept.

    Args: store: a finished store. format_name: one of MASK_FORMATS. out: None = beside the store. index: of those
        WITH_IMAGES, the images the store was built from. overwrite: remove another export, or another file, that lies
        there; never a folder of anything else.
    Returns: what was written: a file, or a folder.
    Raises: UserError: something else lies there. CorruptStore: the store is damaged.
    """
    module, suffix = MASK_FORMATS[format_name]
    export, is_there = (getattr(import_module(f"{__name__}.{module}"), name) for name in ("export", "is_there"))
    out = out or store.path.with_suffix(suffix)
    if overwrite:
        _make_room(lambda path: is_there(path, store), out)
    images = {"index": index} if format_name in WITH_IMAGES else {}
    with stage_bar(total=store.num_rows, unit="row", stage=f"export {format_name}") as bar:
        return export(store, out, progress=bar.update, **images)


def _make_room(is_there: Callable[[Path], bool], out: Path) -> None:
    """Remove what lies at out, whole or begun, unless it is of the store."""
    for path in (out, out.with_name(out.name + PARTIAL)):
        try:
            is_there(path)
        except UserError:
            if path.is_dir() and not (path / FOLDER_RECORD).is_file():
                raise
            with disk_errors(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
