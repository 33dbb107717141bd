"""The masks of a store as a tree of PNG files: key `a/b.jpg` becomes `a/b.png`, 8-bit grey, 255 = foreground.

`build-store --detector masks:DIR` reads such a tree. `export.json` in it names the store and the rows without a mask.
The tree grows as `<out>.partial` and takes its name when it is whole; given again, the export goes on where it stopped.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from backdrop.durable_files import sync
from backdrop.errors import UserError
from backdrop.stores.exports import FOLDER_RECORD
from backdrop.stores.exports._folder import growing_folder
from backdrop.stores.exports._record import is_exported
from backdrop.stores.format.reader import Store

FORMAT_NAME = "png"
RECORD = FOLDER_RECORD
# The last bytes of every PNG: a file that ends in them was written whole.
PNG_END = b"IEND\xae\x42\x60\x82"


def export(store: Store, out: Path, *, progress: Callable[[int], None] = lambda num_rows: None) -> Path:
    """Write the masks of a store to a folder of PNG files; one of the same store that is there already is kept.

    Args:
        store: a finished store.
        out: the folder; it appears whole or not at all.
        progress: called with the number of rows written since the last call.

    Returns:
        out.

    Raises:
        UserError: two of its keys would share a file or one would lie outside the folder, or something else lies at
            `out`.
        CorruptStore: the store is damaged.
    """
    store.prefetch("status", "height", "width", "key", "message", "mask")
    names = file_names(store)
    if is_there(out, store):
        return out
    with growing_folder(store, out, FORMAT_NAME, foreground=255) as partial:
        for part in range(store.num_parts):
            first = part * store.part_rows
            _write_rows(store, partial, {row: names[row] for row in range(first, first + store.part(part).num_rows)})
            progress(store.part(part).num_rows)
        for folder, _, _ in os.walk(partial):
            sync(Path(folder))
    return out


def is_there(out: Path, store: Store) -> bool:
    """Whether the export of a store is there. Raises: UserError: something else is."""
    return is_exported(out, out / RECORD, store, FORMAT_NAME)


def _write_rows(store: Store, folder: Path, names: dict[int, PurePosixPath]) -> None:
    files = []
    for row, name in names.items():
        file = folder / name
        mask_HW = None if is_whole(file) else store.mask(row)
        if mask_HW is None:
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png_of(mask_HW))
        files.append(file)
    for file in files:  # after all are written: the first call then flushes what the others ask for
        sync(file)


def is_whole(file: Path) -> bool:
    """Return whether a PNG was written to its end before a kill."""
    try:
        with open(file, "rb") as handle:
            handle.seek(-len(PNG_END), os.SEEK_END)
            return handle.read() == PNG_END
    except OSError:  # not there, or shorter than that
        return False


def png_of(mask_HW: np.ndarray) -> bytes:
    """Return a mask as a PNG, 255 = foreground. Args: mask_HW: uint8 in {0, 1}."""
    out = io.BytesIO()
    Image.fromarray(mask_HW * np.uint8(255)).save(out, "PNG", compress_level=3)
    return out.getvalue()


def file_names(store: Store) -> list[PurePosixPath]:
    """The file of every row, below the folder."""
    names: list[PurePosixPath] = []
    row_of: dict[PurePosixPath, int] = {}
    for row in range(len(store)):
        key = PurePosixPath(store.key(row))
        if key.is_absolute() or ".." in key.parts or not key.name or "\0" in str(key):
            raise UserError(f"row {row} of {store.path} has the key {str(key)!r}, which is no file inside a folder")
        name = key.with_suffix(".png")
        if name in row_of:
            raise UserError(
                f"{store.key(row_of[name])} and {store.key(row)} of {store.path} would both be {name}; export them in "
                "another format"
            )
        row_of[name] = row
        names.append(name)
    return names
