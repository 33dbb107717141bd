"""Rows of the study to a table: mean and standard error over seeds."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from backdrop.trainer.reproduction.comparison import Sample

ROWS = Path(__file__).parents[1] / "golden" / "study.csv"
SPEED = "steps_per_s"
# Columns of the printed table: title, row's column.
COLUMNS = {
    "kNN": "knn_val",
    "linear": "linear_val",
    "original": "linear_original",
    "Mixed-Same": "linear_mixed_same",
    "Mixed-Rand": "linear_mixed_rand",
    "BG-Gap": "linear_bg_gap",
    "Only-FG": "linear_only_fg",
    "No-FG": "linear_no_fg",
    "Only-BG-T": "linear_only_bg_t",
    "steps/s": SPEED,
}
KEY = ("data", "training", "masks")

Cells = Mapping[tuple[str, ...], Sequence[Mapping[str, str]]]


def read_cells() -> Cells:
    """Return the kept rows by (data, training, masks), seeds ascending, in the order in which cells first come.

    Speeds of different hardware have no mean: theirs is left to the rows of the hardware that most rows were made on.
    """
    with ROWS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    hardware = [row["hardware"] for row in rows]
    usual = max(hardware, key=hardware.count)
    cells: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        own = row if row["hardware"] == usual else row | {SPEED: ""}
        cells.setdefault(tuple(row[name] for name in KEY), []).append(own)
    return cells


def sample_of(rows: Sequence[Mapping[str, str]], column: str) -> Sample | None:
    """Return a column of a cell over its seeds; None where no seed has it."""
    by_seed = {int(row["seed"]): float(row[column]) for row in rows if row[column]}
    return Sample(by_seed=by_seed) if by_seed else None


def markdown(cells: Cells) -> str:
    """Return the table of all cells."""
    lines = [f"| {' | '.join((*KEY, 'seeds', *COLUMNS))} |", "|---" * (len(KEY) + 1 + len(COLUMNS)) + "|"]
    for key, rows in cells.items():
        numbers = [_text(sample_of(rows, column)) for column in COLUMNS.values()]
        lines.append(f"| {' | '.join((*key, str(len(rows)), *numbers))} |")
    return "\n".join(lines)


def _text(sample: Sample | None) -> str:
    if sample is None:
        return ""
    return f"{sample.mean:.1f}" if sample.sem is None else f"{sample.mean:.1f} ± {sample.sem:.1f}"
