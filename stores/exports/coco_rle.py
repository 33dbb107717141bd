"""The masks of a store as COCO results: a JSON list of run-length encoded segmentations, as pycocotools reads them.

Every mask is one line, `{"image_id": ..., "category_id": 1, "segmentation": {"size": [height, width], "counts": ...},
"score": 1.0}`; category 1 is "foreground". Image ids are those in COCO's file names (`000000000139.jpg` is 139) where
all names of the store are such numbers, and otherwise row numbers. `<out>.export.json` beside it says which, and names
the store and the rows without a mask.
"""

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
from pycocotools import mask as coco_mask

from backdrop.disk_errors import disk_errors
from backdrop.durable_files import written_aside
from backdrop.stores.exports._record import is_exported, write_record
from backdrop.stores.format.reader import Store

FORMAT_NAME = "coco-rle"
FOREGROUND_CATEGORY = 1


def export(store: Store, out: Path, *, progress: Callable[[int], None] = lambda num_rows: None) -> Path:
    """Write the masks of a store as COCO results; a file of the same store that is there already is kept.

    Args:
        store: a finished store.
        out: the JSON file; it appears whole or not at all.
        progress: called with the number of rows written since the last call.

    Returns:
        out.

    Raises:
        UserError: something else lies at `out`.
        CorruptStore: the store is damaged.
    """
    if is_there(out, store):
        return out
    store.prefetch("status", "height", "width", "key", "message", "mask")
    image_ids, meaning = _image_ids(store)
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_record(
            record_path(out), store, FORMAT_NAME, image_ids=meaning, categories={FOREGROUND_CATEGORY: "foreground"}
        )
        with written_aside(out) as aside, open(aside, "w", encoding="ascii") as file:
            file.write("[")
            separator = "\n"
            for row, image_id in enumerate(image_ids):
                if (mask_HW := store.mask(row)) is not None:
                    file.write(separator + json.dumps(_result(mask_HW, image_id)))
                    separator = ",\n"
                progress(1)
            file.write("\n]\n")
            file.flush()
    return out


def is_there(out: Path, store: Store) -> bool:
    """Whether the export of a store is there. Raises: UserError: something else is."""
    return is_exported(out, record_path(out), store, FORMAT_NAME)


def record_path(out: Path) -> Path:
    """Where the record of an export lies."""
    return out.with_name(out.name + ".export.json")


def _result(mask_HW: np.ndarray, image_id: int) -> dict:
    runs = coco_mask.encode(np.asfortranarray(mask_HW))
    return {
        "image_id": image_id,
        "category_id": FOREGROUND_CATEGORY,
        "segmentation": {"size": runs["size"], "counts": runs["counts"].decode("ascii")},
        "score": 1.0,
    }


def _image_ids(store: Store) -> tuple[list[int], str]:
    """An id per row, and what it is."""
    stems = [PurePosixPath(store.key(row)).stem for row in range(len(store))]
    if all(stem.isascii() and stem.isdecimal() for stem in stems):
        ids = [int(stem) for stem in stems]
        if len(set(ids)) == len(ids):
            return ids, "numbers in the file names"
    return list(range(len(stems))), "rows of the store"
