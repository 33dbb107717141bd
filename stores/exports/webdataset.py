"""Masks and backgrounds as WebDataset shards: a tar file per part of the store, `part-00000.tar`.

A sample is named by its row: `000000417.mask.png` (255 = foreground), `000000417.background.jpg` where the row can lend
one, and `000000417.json` with key, label, status and sizes; a row without a mask has the last alone.
"""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

from backdrop.stores.exports import FOLDER_RECORD
from backdrop.stores.exports._record import is_exported
from backdrop.stores.exports._shards import export_shards, row_facts
from backdrop.stores.exports.png import png_of
from backdrop.stores.format.reader import Store

FORMAT_NAME = "webdataset"


def export(store: Store, out: Path, *, progress: Callable[[int], None] = lambda num_rows: None) -> Path:
    """Write the shards; a folder of the same store that is there already is kept.

    Args: store: a finished store. out: the folder; it appears whole or not at all. progress: called with the number of
        rows written since the last call.
    Returns: out. Raises: UserError: something else lies at `out`. CorruptStore: the store is damaged.
    """
    store.prefetch("status", "label", "height", "width", "foreground_fraction", "key", "message", "mask", "background")
    return export_shards(store, out, _write, format_name=FORMAT_NAME, suffix=".tar", progress=progress)


def is_there(out: Path, store: Store) -> bool:
    """Whether the export of a store is there. Raises: UserError: something else is."""
    return is_exported(out, out / FOLDER_RECORD, store, FORMAT_NAME)


def _write(store: Store, rows: range, file: Path) -> None:
    with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row in rows:
            for suffix, data in _sample(store, row).items():
                header = tarfile.TarInfo(f"{row:09d}.{suffix}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))


def _sample(store: Store, row: int) -> dict[str, bytes]:
    """What a row has, by the ends of its files' names."""
    mask_HW, background = store.mask(row), store.background_jpeg(row)
    about = {"key": store.key(row), "row": row} | row_facts(store, row)
    sample = {} if mask_HW is None else {"mask.png": png_of(mask_HW)}
    if background:
        sample["background.jpg"] = background
    return sample | {"json": json.dumps(about).encode()}
