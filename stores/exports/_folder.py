"""The folder that an export grows in: `<out>.partial`, which takes its name when all is in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backdrop.disk_errors import disk_errors
from backdrop.durable_files import PARTIAL, sync
from backdrop.stores.exports import FOLDER_RECORD
from backdrop.stores.exports._record import is_exported, write_record
from backdrop.stores.format.reader import Store


@contextmanager
def growing_folder(store: Store, out: Path, format_name: str, **facts: object) -> Iterator[Path]:
    """Give the folder, with the record in it and what an earlier start left; rename it at the end of the block.

    Args: store: that is exported. out: the folder's name when it is whole; the block syncs what it writes.
        format_name, facts: of the record.
    Raises: UserError: the folder is of another store.
    """
    partial = out.with_name(out.name + PARTIAL)
    with disk_errors(out):
        partial.mkdir(parents=True, exist_ok=True)
        for stale in partial.glob(f".*{PARTIAL}"):  # of a kill while a file was written
            stale.unlink()
        if any(partial.iterdir()):
            is_exported(partial, partial / FOLDER_RECORD, store, format_name)  # refuses one of another store
        write_record(partial / FOLDER_RECORD, store, format_name, **facts)
        yield partial
        partial.rename(out)
        sync(out.parent)
