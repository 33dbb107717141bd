"""The rows that are kept, and the table in COSTS.md that is made of them."""

import json
from collections.abc import Sequence
from pathlib import Path

from tests.scale.growth import FEW_ROWS_ALONE, fits

_ROOT = Path(__file__).resolve().parents[2]
COSTS = _ROOT / "pipeline" / "build" / "COSTS.md"
KEPT = _ROOT / "pipeline" / "build" / "scale.jsonl"
BEGIN, END = "<!-- made by: python -m tests.scale --keep -->", "<!-- end of what it made -->"


def read_rows(file: Path) -> list[dict]:
    """The rows of a file; none where it is not there."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def lines(rows: Sequence[dict]) -> str:
    """Rows as they are kept."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def with_rows(kept: Sequence[dict], new: Sequence[dict]) -> list[dict]:
    """Put new rows in the place of those of the same stage and number of rows; in order of these numbers."""
    places = {(row["stage"], row["rows"]): row for row in (*kept, *new)}
    return sorted(places.values(), key=lambda row: row["rows"])


def line_of(row: dict) -> str:
    """A row for the terminal."""
    return (
        f"{row['stage']:12s} {row['rows']:9,d} rows  {row['seconds']:9.1f} s  {row['cpu_seconds']:9.1f} s of CPU  "
        f"{row['peak_mb']:7.0f} MB, {row['own_mb']:.0f} of its own"
    )


def with_table(text: str, rows: Sequence[dict]) -> str:
    """Put the table of the rows between its marks in COSTS.md."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{_table(rows)}{END}{rest.partition(END)[2]}"


def _table(rows: Sequence[dict]) -> str:
    if not rows:
        return ""
    numbers = sorted({row["rows"] for row in rows})
    found = {(row["stage"], row["rows"]): row for row in rows}
    heads = "".join(f" {number:,} rows |" for number in numbers)
    made = [
        f"| stage |{heads} ImageNet (a) | over rows |",
        f"|---|{'---|' * (len(numbers) + 2)}",
    ]
    fit_of = {fit.stage: fit for fit in fits(rows)}
    for stage in dict.fromkeys(row["stage"] for row in rows):
        cells = [_cell(found.get((stage, number))) for number in numbers]
        fit = fit_of.get(stage)
        at_imagenet = f"{fit.cpu_seconds:,.0f}, {fit.megabytes:,.0f}" if fit and stage not in FEW_ROWS_ALONE else ""
        last = f"{at_imagenet} | {fit.factor:.2f}" if fit else "|"
        made.append(f"| {stage} | {' | '.join(cells)} | {last} |")
    return "\n".join(made) + "\n"


def _cell(row: dict | None) -> str:
    return "" if row is None else f"{row['cpu_seconds']:,.1f}, {row['peak_mb']:,.0f}, {row['own_mb']:,.0f}"
