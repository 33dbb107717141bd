"""A folder of files, one a part of the store, that appears whole; a part that is there already is kept."""

import os
from collections.abc import Callable
from pathlib import Path

from backdrop.disk_errors import disk_errors
from backdrop.durable_files import PARTIAL, sync, written_aside
from backdrop.stores.exports import FOLDER_RECORD
from backdrop.stores.exports._record import is_exported, write_record
from backdrop.stores.format.reader import Store

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
    partial = out.with_name(out.name + PARTIAL)
    with disk_errors(out):
        partial.mkdir(parents=True, exist_ok=True)
        for stale in partial.glob(f".*{PARTIAL}"):  # of a kill while a file was written
            stale.unlink()
        if any(partial.iterdir()):
            is_exported(partial, partial / FOLDER_RECORD, store, format_name)  # refuses one of another store
        write_record(partial / FOLDER_RECORD, store, format_name)
        for part in range(store.num_parts):
            first = part * store.part_rows
            rows = range(first, first + store.part(part).num_rows)
            file = partial / f"part-{part:05d}{suffix}"
            if not file.exists():
                with written_aside(file) as aside:
                    write(store, rows, aside)
            progress(len(rows))
        sync(partial)
        os.rename(partial, out)
        sync(out.parent)
    return out
