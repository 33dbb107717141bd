"""Rows that a run leaves out, as its user names them: those whose masks somebody marked as bad in the gallery."""

from pathlib import Path

import numpy as np

from backdrop.errors import CorruptStore, UserError
from backdrop.pipeline.beton import ffcv_images
from backdrop.pipeline.beton.beton_of_store import StoreSource, beton_of
from backdrop.pipeline.beton.reader import open_beton, read_blob, read_sidecar
from backdrop.stores.indexes.named_rows import named_rows, parse_rows, written_rows

OPTION = "--without"


def left_out_by_name(text: str, source: StoreSource) -> str:
    """Return the setting `without` of what --without was given: numbers, which a run keeps and its store's id explains.

    Args: text: "1,5-9" or "@FILE" of keys. source: which store.
    Raises: UserError: as `named_rows` and `beton_of`; or the file that is trained on has no keys.
    """
    beton = beton_of(source)
    opened = open_beton(beton)
    if text.startswith("@") and opened.sidecar["format"] == ffcv_images.FORMAT:
        raise UserError(f"{beton} is a data set of FFCV's own, without keys: give {OPTION} row numbers such as 1,5-9")

    def key_of(row: int) -> str:
        return read_blob(opened.file_bytes, opened.records[row], "key").decode("utf-8", "surrogateescape")

    try:
        return written_rows(named_rows(text, len(opened.records), key_of, option=OPTION))
    except CorruptStore as error:
        raise CorruptStore(f"{beton}: {error}") from error


def rows_left(without: str, beton: Path) -> np.ndarray | None:
    """Return the rows that a run may visit, int32, ascending; None = all.

    Args: without: the setting. beton: that is trained on.
    Raises: UserError: it is no list of rows of that file.
    """
    if not without:
        return None
    num_rows = read_sidecar(beton)["num_rows"]
    return np.setdiff1d(np.arange(num_rows, dtype=np.int32), parse_rows(without, num_rows, option="without"))
