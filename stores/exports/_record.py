"""What lies beside an export that has no place of its own for it: which store it is of, and which rows it lacks.

The record is written before the export gets its name, so that a file or folder of that name with a record of the same
store is whole, and one without is not ours.
"""

import json
from pathlib import Path

from backdrop.durable_files import write_aside
from backdrop.errors import UserError
from backdrop.stores.format.reader import Store
from backdrop.stores.format.schema import Status

FORMAT_VERSION = 1


def write_record(record: Path, store: Store, format_name: str, **details: object) -> None:
    """Write the record of an export.

    Args:
        record: the file.
        store: what is exported.
        format_name: of the export.
        details: what else a reader of the export must know.
    """
    left_out = [
        {"row": row, "key": store.key(row), "status": status.label, "message": store.message(row)}
        for row, status in enumerate(map(Status, store.status.tolist()))
        if not status.has_mask
    ]
    content = {
        "format": f"backdrop-{format_name}",
        "format_version": FORMAT_VERSION,
        "store_id": store.store_id,
        "dataset": store.dataset,
        "split": store.split,
        "num_rows": store.num_rows,
        "num_masks": store.num_rows - len(left_out),
        **details,
        "rows_without_mask": left_out,
    }
    write_aside(record, json.dumps(content, indent=1) + "\n")


def is_exported(out: Path, record: Path, store: Store, format_name: str) -> bool:
    """Whether an export is there already.

    Args:
        out: the export.
        record: its record.
        store: what is to be exported.
        format_name: of the export.

    Raises:
        UserError: something else lies there, or the export of another store.
    """
    if not out.exists():
        return False
    try:
        content = json.loads(record.read_bytes())
        there = content["format"], content["store_id"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{out} is there already and no {format_name} export with its {record.name} beside or in it; remove it, or "
            "give another --out"
        ) from error
    if there != (f"backdrop-{format_name}", store.store_id):
        raise UserError(
            f"{out} is the {there[0]} export of another store ({str(there[1])[:12]}, not {str(store.store_id)[:12]}); "
            "give another --out, or --overwrite to have it replaced"
        )
    return True
