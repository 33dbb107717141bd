"""A folder of files, one a part of the store, that appears whole; a part that is there already is kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from backdrop.durable_files import sync, written_aside
from backdrop.stores.exports import FOLDER_RECORD
from backdrop.stores.exports._folder import growing_folder
from backdrop.stores.exports._record import is_exported
from backdrop.stores.format.reader import Store
from backdrop.stores.format.schema import Status

# Writes rows of the store to a file of this name.
WriteShard = Callable[[Store, range, Path], None]


def export_shards(
    store: Store, out: Path, write: WriteShard, *, format_name: str, suffix: str, progress: Callable[[int], None]
) -> Path:
    """Write a folder with a file per part, `part-00000.tar` say, and the record beside them.

    Args: store: a finished store. out: the folder. write: fills a file. format_name: of the record. suffix: of the
        files. progress: called with the number of rows written since the last call.
    Returns: out. Raises: UserError: something else lies there. CorruptStore: the store is damaged.
    """
    if is_exported(out, out / FOLDER_RECORD, store, format_name):
        return out
    with growing_folder(store, out, format_name) as partial:
        for part in range(store.num_parts):
            first = part * store.part_rows
            rows = range(first, first + store.part(part).num_rows)
            file = partial / f"part-{part:05d}{suffix}"
            if not file.exists():
                with written_aside(file) as aside:
                    write(store, rows, aside)
            progress(len(rows))
        sync(partial)
    return out


def row_facts(store: Store, row: int) -> dict[str, Any]:
    """Return what a store says of a row beside its pictures, JSON-able, by the names of its arrays."""
    return {
        "key": store.key(row),
        "label": int(store.label[row]),
        "status": Status(int(store.status[row])).label,
        "message": store.message(row),
        "height": int(store.height[row]),
        "width": int(store.width[row]),
        "foreground_fraction": float(store.foreground_fraction[row]),
    }
