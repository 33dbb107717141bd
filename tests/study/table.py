"""Rows of the study to a table: mean and standard error over seeds."""

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from backdrop.durable_files import write_aside

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
    "grounding IoU": "grounding_iou",
    "steps/s": SPEED,
}
KEY = ("data", "training", "px", "masks")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows kept so far, texts as they stand. Args: path: study.csv, may be absent."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row to the file, which is written aside and renamed; rows stay sorted, whatever order they came in."""
    rows = [*read_rows(path), {name: str(value) for name, value in row.items()}]
    names = list(dict.fromkeys(name for kept in rows for name in kept))
    rows.sort(key=lambda kept: (*(kept[name] for name in KEY), int(kept["seed"])))
    lines = [names, *([kept.get(name, "") for name in names] for kept in rows)]
    write_aside(path, "".join(",".join(line) + "\n" for line in lines))


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    """Return the mean and its standard error: the standard deviation (n - 1) over sqrt(n); nan for one value."""
    numbers = list(values)
    mean = math.fsum(numbers) / len(numbers)
    if len(numbers) == 1:
        return mean, math.nan
    variance = math.fsum((number - mean) ** 2 for number in numbers) / (len(numbers) - 1)
    return mean, math.sqrt(variance / len(numbers))


def markdown(rows: list[dict[str, str]]) -> str:
    """Return the table of all cells, in the order in which they first come.

    Speeds of different hardware have no mean: theirs is over the rows of the hardware that most rows were made on.
    """
    hardware = [row["hardware"] for row in rows]
    usual = max(hardware, key=hardware.count, default="")
    cells: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        own = row if row["hardware"] == usual else row | {SPEED: ""}
        cells.setdefault(tuple(row[name] for name in KEY), []).append(own)
    lines = [f"| {' | '.join((*KEY, 'seeds', *COLUMNS))} |", "|---" * (len(KEY) + 1 + len(COLUMNS)) + "|"]
    for key, kept in cells.items():
        numbers = [_cell([float(row[column]) for row in kept if row.get(column)]) for column in COLUMNS.values()]
        lines.append(f"| {' | '.join((*key, str(len(kept)), *numbers))} |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    mean, error = mean_and_error(values)
    return f"{mean:.1f}" if math.isnan(error) else f"{mean:.1f} ± {error:.1f}"
