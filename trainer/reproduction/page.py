"""The result as one HTML page: every table, its charts, and a link to the report of every run."""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from backdrop.stores.pages import document
from backdrop.stores.pages.document import Section
from backdrop.trainer.paper_tables.scales import PAPER
from backdrop.trainer.reproduction import words
from backdrop.trainer.reproduction.comparison import AGREES, CONFIDENCE, OPEN, OPPOSITE
from backdrop.trainer.reproduction.contents import Filled, FilledRow, FilledTable, column_of
from backdrop.trainer.reproduction.execution import run_folder_of
from backdrop.trainer.reproduction.interval_chart import Mark, interval_chart

_LEAD = (
    '<p class="note">Ours: mean ± standard error over seeds. Over the baseline: the mean of the differences of runs '
    f"with equal seeds, Student's interval at {CONFIDENCE:.0%} and its paired test. Seeds alone are counted, not the "
    "images that were scored.</p>"
)


def render(tables: Sequence[FilledTable], out: Path, commands: Sequence[str]) -> str:
    """Return the page. Args: tables: of `contents.fill`. out: the result's folder. commands: that gave it."""
    sections = [
        Section(anchor=f"table-{at}", heading=words.title(one), body=_body(one, out)) for at, one in enumerate(tables)
    ]
    lead = _LEAD + "".join(document.command(command) for command in commands)
    return document.page("Tables of the papers, computed here", lead, sections)


def verdicts(filled: FilledTable) -> dict[str, int]:
    """Return how many cells agree with the paper's direction, are not told apart, and go the other way."""
    found = [one.verdict for row in filled.rows for one in row.cells if one.verdict]
    return {name: found.count(name) for name in (AGREES, OPEN, OPPOSITE)}


def _body(filled: FilledTable, out: Path) -> str:
    return _departures(filled) + _table(filled, out) + _charts(filled) + _empty(filled)


def _departures(filled: FilledTable) -> str:
    """What every row is not, once at the head."""
    scale = filled.part.scale
    if scale.name == PAPER:
        return ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in scale.departures)
    counts = ", ".join(f"{number} {name}" for name, number in verdicts(filled).items())
    return (
        "<p>These are not the paper's numbers and are not set beside them: what can be compared is the direction, up "
        "or down against the table's baseline. A tie is an interval over seeds that holds 0. Directions: "
        f"<b>{escape(counts)}</b>.</p><p>In what every row departs from the paper's:</p><ul>{lines}</ul>"
    )


def _table(filled: FilledTable, out: Path) -> str:
    columns = words.columns(filled)
    differs = any(row.differs for row in filled.rows) and filled.part.scale.name == PAPER
    head = ["row", *(["differs"] if differs else []), *(escape(name) for name in columns.values()), "runs"]
    rows = []
    for label, row in zip(words.row_labels([one.row for one in filled.rows]), filled.rows, strict=True):
        of_column = {column_of(one.cell): one for one in row.cells}
        cells = [_cell(of_column.get(key)) for key in columns]
        said = [escape("; ".join(row.differs))] if differs else []
        rows.append([escape(label), *said, *cells, _links(row, out)])
    return document.table(head, rows, label=words.title(filled), num_text_columns=len(head))


def _cell(filled: Filled | None) -> str:
    if filled is None:
        return ""
    first = words.ours(filled.ours, filled.cell.metric) if filled.ours else "-"
    lines = "".join(f"<br><small>{escape(line)}</small>" for line in words.beside(filled))
    return f"{escape(first)}{lines}"


def _links(row: FilledRow, out: Path) -> str:
    links = []
    for name in row.runs:
        report = run_folder_of(out, name) / "report.html"
        if report.exists():
            label = f"seed {name.rpartition('-')[2]}"
            links.append(f'<a href="{escape(os.path.relpath(report, out))}">{label}</a>')
    return ", ".join(links) or "none"


def _charts(filled: FilledTable) -> str:
    labels = words.row_labels([one.row for one in filled.rows])
    figures = ""
    for key, name in words.columns(filled).items():
        marks = [
            _mark(label, one)
            for label, row in zip(labels, filled.rows, strict=True)
            for one in row.cells
            if column_of(one.cell) == key and one.ours
        ]
        if marks:
            caption = f"<figcaption><b>{escape(name)}</b></figcaption>"
            figures += f"<figure>{caption}{interval_chart(name, marks)}</figure>"
    note = f"Dots: ours; lines: Student's interval over seeds at {CONFIDENCE:.0%}, none of a single seed."
    paper = " Ticks: the paper's number." if filled.part.scale.name == PAPER else ""
    return f'<div class="charts">{figures}</div><p class="note">{note}{paper}</p>' if figures else ""


def _mark(label: str, filled: Filled) -> Mark:
    assert filled.ours is not None
    low, high = filled.ours.interval or (filled.ours.mean, filled.ours.mean)
    paper = float(filled.paper) if filled.paper else None
    return Mark(label=label, value=filled.ours.mean, low=low, high=high, tick=paper)


def _empty(filled: FilledTable) -> str:
    """Why cells are empty, each reason once."""
    reasons: dict[str, list[str]] = {}
    for label, row in zip(words.row_labels([one.row for one in filled.rows]), filled.rows, strict=True):
        for one in row.cells:
            if one.ours is None:
                reasons.setdefault(one.why, []).append(f"{label} ({words.column_name(one.cell)})")
    items = "".join(
        f"<li>{escape(why)}: {escape('; '.join(dict.fromkeys(where)))}</li>" for why, where in reasons.items()
    )
    return document.folded("Cells without a number of ours", f"<ul>{items}</ul>") if items else ""
