"""Kept cells of `saliency ladder` to the tables of saliency/DETECTORS.md and README.md."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from backdrop.durable_files import write_aside
from backdrop.saliency.ladder_page import HEAD, markdown, of_sets, rows_of
from backdrop.saliency.scoring.ladder import Cell

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "tests" / "golden" / "ladder.json"
BEGIN, END = "<!-- made by: python -m tests.ladder -->", "<!-- end of what it made -->"
# The excerpt: rows of the first set that are in it, columns with their titles there.
EXCERPT = (
    "`rbd`",
    "`mc`",
    "`mean`",
    "`saliency train --preset small`",
    "TokenCut, DINO ViT-S/16",
    "SelfMask with bilateral solver",
    "DeepUSPS2",
)
COLUMNS = {"detector": "", "needs": "needs", "MAE": "MAE", "F(.5)": "F(.5)", "max F": "max F", "IoU": "IoU",
           "published": "published, all of ECSSD"}  # fmt: skip


def kept_cells() -> list[Cell]:
    """Return what the documents' tables are made of."""
    return [Cell(**cell) for cell in json.loads(KEPT.read_bytes())]


def keep(measured: Sequence[Cell], names: dict[str, str]) -> None:
    """Put cells in the place of those of the same detector and set, or behind the others.

    Args: measured: of a run of `saliency ladder`. names: detector there -> what it is called in the documents.
    """
    renamed = [replace(cell, detector=names.get(cell.detector, cell.detector)) for cell in measured]
    cells = {(cell.set_name, cell.detector): cell for cell in [*kept_cells(), *renamed]}
    write_aside(KEPT, (json.dumps([asdict(cell) for cell in cells.values()], indent=1) + "\n").encode())


def documents(cells: Sequence[Cell]) -> dict[Path, str]:
    """Return the text of each document with tables as the cells have them. Args: cells: kept ones."""
    tables = {ROOT / "saliency" / "DETECTORS.md": markdown(cells), ROOT / "README.md": excerpt(cells)}
    return {path: between_marks(path.read_text(), table) for path, table in tables.items()}


def between_marks(text: str, table: str) -> str:
    """Return a document with another table. Args: text: of the document. table: lines in Markdown."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    assert rest, f"{BEGIN} is gone"
    assert after, f"{END} is gone"
    return f"{before}{BEGIN}\n\n{table.strip()}\n\n{END}{after}"


def excerpt(cells: Sequence[Cell]) -> str:
    """Return some rows and columns of the first set's table. Args: cells: kept ones."""
    rows = {row[0]: row for row in rows_of(next(iter(of_sets(cells).values())), mark="`")}
    places = [HEAD.index(name) for name in COLUMNS]
    shown = [tuple(COLUMNS.values()), ("---",) * len(COLUMNS)]
    shown += [tuple(rows[name][at] for at in places) for name in EXCERPT]
    return "\n".join(f"| {' | '.join(row)} |" for row in shown)
