"""Masks of a store in the formats of other tools: one file a format."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from backdrop.progress import stage_bar

if TYPE_CHECKING:
    from backdrop.stores.format.reader import Store

# Name -> its file here, and what takes the place of ".zarr" in the store's name.
MASK_FORMATS = {
    "hdf5": ("hdf5", ".h5"),
    "png": ("png", ".masks"),
    "coco-rle": ("coco_rle", ".coco.json"),
}


def export_masks(store: "Store", format_name: str, out: Path | None = None) -> Path:
    """Write the masks of a store, with a progress bar; an export of the same store that is there already is kept.

    Args: store: a finished store. format_name: one of MASK_FORMATS. out: None = beside the store.
    Returns: what was written: a file, or of png a folder.
    Raises: UserError: something else lies there. CorruptStore: the store is damaged.
    """
    module, suffix = MASK_FORMATS[format_name]
    export = import_module(f"{__name__}.{module}").export
    with stage_bar(total=store.num_rows, unit="row", stage=f"export {format_name}") as bar:
        return export(store, out or store.path.with_suffix(suffix), progress=bar.update)
