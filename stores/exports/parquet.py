"""Masks and backgrounds as parquet files, one per part of the store, with Hugging Face's types of columns in them.

`datasets.load_dataset("parquet", data_files="X.parquet/*.parquet")` gives `mask` and `background` as images; a row
without one has null. Written by pyarrow (`pip install 'backdrop-ssl[parquet]'`).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backdrop.errors import UserError
from backdrop.stores.exports import FOLDER_RECORD
from backdrop.stores.exports._record import is_exported
from backdrop.stores.exports._shards import export_shards, row_facts
from backdrop.stores.exports.png import png_of
from backdrop.stores.format.reader import Store

FORMAT_NAME = "parquet"
# Column -> its type in Arrow and in Hugging Face's words.
_COLUMNS = {
    "key": "string", "label": "int32", "status": "string", "message": "string", "height": "int32", "width": "int32",
    "foreground_fraction": "float32",
}  # fmt: skip
_IMAGES = ("mask", "background")
# A group is read as a whole: small enough to read one row of.
_GROUP_ROWS = 100


def export(store: Store, out: Path, *, progress: Callable[[int], None] = lambda num_rows: None) -> Path:
    """Write the files; a folder of the same store that is there already is kept.

    Args: store: a finished store. out: the folder; it appears whole or not at all. progress: called with the number of
        rows written since the last call.
    Returns: out.
    Raises: UserError: pyarrow is missing, or something else lies at `out`. CorruptStore: the store is damaged.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UserError("--format parquet needs pyarrow: pip install 'backdrop-ssl[parquet]'") from error
    store.prefetch("status", "label", "height", "width", "foreground_fraction", "key", "message", "mask", "background")
    return export_shards(store, out, _write, format_name=FORMAT_NAME, suffix=".parquet", progress=progress)


def is_there(out: Path, store: Store) -> bool:
    """Whether the export of a store is there. Raises: UserError: something else is."""
    return is_exported(out, out / FOLDER_RECORD, store, FORMAT_NAME)


def _write(store: Store, rows: range, file: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    image = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    kinds = {name: pyarrow.type_for_alias(kind) for name, kind in _COLUMNS.items()} | dict.fromkeys(_IMAGES, image)
    features = {name: {"dtype": kind, "_type": "Value"} for name, kind in _COLUMNS.items()}
    features |= {name: {"_type": "Image"} for name in _IMAGES}
    schema = pyarrow.schema(kinds, metadata={"huggingface": json.dumps({"info": {"features": features}})})
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for start in range(rows.start, rows.stop, _GROUP_ROWS):
            group = [_row(store, row) for row in range(start, min(start + _GROUP_ROWS, rows.stop))]
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))


def _row(store: Store, row: int) -> dict[str, Any]:
    mask_HW, background = store.mask(row), store.background_jpeg(row)
    return row_facts(store, row) | {
        "mask": None if mask_HW is None else {"bytes": png_of(mask_HW), "path": None},
        "background": {"bytes": background, "path": None} if background else None,
    }
