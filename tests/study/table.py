"""Kept rows to tables: of the study, mean and standard error over seeds; of the papers' tables at scale small."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from backdrop.trainer.reproduction.comparison import Sample

GOLDEN = Path(__file__).parents[1] / "golden"
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
    rows = _read("study.csv")
    hardware = [row["hardware"] for row in rows]
    usual = max(hardware, key=hardware.count)
    cells: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        own = row if row["hardware"] == usual else row | {SPEED: ""}
        cells.setdefault(tuple(row[name] for name in KEY), []).append(own)
    return cells


def papers_tables() -> str:
    """Return cells of the papers' tables at scale small: ours, over the table's baseline, the paper's direction."""
    lines = [
        "| table | images | row | kNN top-1 | over the baseline, 95 % | paper | |",
        "|---|---|---|---|---|---|---|",
    ]
    for cell in _read("small_tables.csv"):
        ours = f"{float(cell['ours']):.1f} ± {float(cell['ours_sem']):.1f}"
        over = ""
        if cell["over_baseline"]:
            over, low, high = (f"{float(cell[name]):+.1f}" for name in ("over_baseline", "low", "high"))
            over = f"{over}, {low} to {high}, p = {float(cell['p']):.2f}"
        name = f"{'CAST' if cell['paper'] == 'cast' else 'Ryali'} {cell['table']}"
        images = "photographs" if cell["scale"] == "small-photographs" else "drawn"
        lines.append(
            f"| {name} | {images} | {cell['row']} | {ours} | {over} | {cell['paper_direction']} | {cell['verdict']} |"
        )
    return "\n".join(lines)


def _read(name: str) -> list[dict[str, str]]:
    with (GOLDEN / name).open(newline="") as file:
        return list(csv.DictReader(file))


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
