"""The result's folder: what was asked for, and of what was computed a CSV, Markdown and a page, made anew at will."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backdrop.durable_files import write_aside
from backdrop.errors import UserError, program
from backdrop.trainer.paper_tables.scales import PAPER
from backdrop.trainer.reproduction import page, words
from backdrop.trainer.reproduction.contents import Filled, FilledRow, FilledTable, column_of, fill
from backdrop.trainer.reproduction.jobs import Wanted

WANTED, CSV, MARKDOWN, PAGE = "wanted.json", "tables.csv", "tables.md", "index.html"
# Of the papers' file of numbers; then ours.
_PAPERS = (
    "paper", "table", "row", "method", "background", "setting", "epochs", "pretrain_data", "masks", "task", "data",
    "metric", "value", "sem", "note",
)  # fmt: skip
_OURS = (
    "scale", "ours", "ours_sem", "seeds", "by_seed", "difference", "differs", "over_baseline", "low", "high", "p",
    "paper_direction", "our_direction", "verdict", "why_empty", "runs",
)  # fmt: skip


def keep(wanted: Wanted, out: Path) -> tuple[Wanted, ...]:
    """Note what was asked for beside what was before. Returns: all of it, without repetitions."""
    out.mkdir(parents=True, exist_ok=True)
    before = _read(out) if (out / WANTED).exists() else ()
    every = tuple(dict.fromkeys([*before, wanted]))
    write_aside(out / WANTED, json.dumps([asdict(one) for one in every], indent=2) + "\n")
    return every


def read(out: Path) -> tuple[Wanted, ...]:
    """Return what was asked for in a result's folder. Raises: UserError: it is none."""
    if not (out / WANTED).is_file():
        raise UserError(f"{out} holds no result of reproduce: it has no {WANTED}")
    return _read(out)


def _read(out: Path) -> tuple[Wanted, ...]:
    every: list[dict[str, Any]] = json.loads((out / WANTED).read_text())
    for one in every:
        one |= {name: tuple(value) for name, value in one.items() if isinstance(value, list)}
    return tuple(Wanted(**one) for one in every)


def write(out: Path) -> tuple[FilledTable, ...]:
    """Write the CSV, the Markdown and the page of what is there; nothing is computed.

    Args: out: the result's folder. Returns: the tables. Raises: UserError: it is no such folder.
    """
    every = read(out)
    tables = tuple(table for wanted in every for table in fill(wanted, out))
    write_aside(out / CSV, as_csv(tables))
    write_aside(out / MARKDOWN, markdown(tables))
    write_aside(out / PAGE, page.render(tables, out, [command(wanted, out) for wanted in every]))
    return tables


def command(wanted: Wanted, out: Path) -> str:
    """Return the command line that asks for it."""
    words_ = [f"{program()} reproduce", wanted.paper]
    words_ += [f"--table {number}" for number in wanted.tables]
    words_ += [f'--rows "{name}"' for name in wanted.rows]
    words_ += [f"--scale {wanted.scale}"] if wanted.scale != PAPER else []
    words_ += [f"--seeds {wanted.seeds}"] if wanted.seeds else []
    words_ += [f"--set {setting}" for setting in wanted.settings]
    return " ".join([*words_, f"--out {out}"])


def as_csv(tables: Sequence[FilledTable]) -> str:
    """Return every cell as a line: the columns of the papers' numbers, then ours."""
    text = io.StringIO()
    writer = csv.DictWriter(text, (*_PAPERS, *_OURS), lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for row in table.rows:
            writer.writerows(_line(table, row, one) for one in row.cells)
    return text.getvalue()


def _line(table: FilledTable, filled: FilledRow, one: Filled) -> dict[str, object]:
    row, cell = filled.row, one.cell
    of_row = {name: getattr(row, name) for name in ("method", "background", "epochs", "pretrain_data", "masks")}
    of_cell = {name: getattr(cell, name) for name in ("paper", "table", "row", "setting", "task", "data", "metric")}
    # A number of the paper stands only where ours may stand beside it.
    papers = {"value": one.paper, "sem": cell.sem if one.paper else "", "note": cell.note if one.paper else ""}
    line: dict[str, object] = {**of_cell, **of_row, **papers, "scale": table.part.scale.name}
    line |= {"differs": "; ".join(filled.differs), "why_empty": one.why, "runs": " ".join(filled.runs)}
    line |= {"paper_direction": one.paper_direction, "verdict": one.verdict}
    if one.ours is not None:
        by_seed = " ".join(f"{seed}:{value:.6g}" for seed, value in one.ours.by_seed.items())
        line |= {"ours": _plain(one.ours.mean), "ours_sem": _plain(one.ours.sem), "seeds": len(one.ours.by_seed)}
        line |= {"by_seed": by_seed, "difference": _plain(one.difference)}
    if one.baseline is not None:
        low, high = one.baseline.sample.interval or (None, None)
        line |= {"over_baseline": _plain(one.baseline.sample.mean), "low": _plain(low), "high": _plain(high)}
        line |= {"p": _plain(one.baseline.p), "our_direction": one.baseline.direction}
    return line


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def markdown(tables: Sequence[FilledTable]) -> str:
    """Return the tables as Markdown, each with its departures once at its head."""
    return "\n".join(_markdown(table) for table in tables)


def _markdown(table: FilledTable) -> str:
    lines = [f"## {words.title(table)}", ""]
    if table.part.scale.name != PAPER:
        lines += ["In what every row departs from the paper's:", ""]
        lines += [f"- {line}" for line in table.part.scale.departures]
        lines += ["", ", ".join(f"{number} {name}" for name, number in page.verdicts(table).items()), ""]
    columns = words.columns(table)
    differs = table.part.scale.name == PAPER and any(row.differs for row in table.rows)
    head = ["row", *(["differs"] if differs else []), *columns.values()]
    rows = []
    for label, row in zip(words.row_labels([one.row for one in table.rows]), table.rows, strict=True):
        of_column = {column_of(one.cell): one for one in row.cells}
        said = ["; ".join(row.differs)] if differs else []
        rows.append([label, *said, *(_text(of_column.get(key)) for key in columns)])
    lines += [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]
    return "\n".join([*lines, ""])


def _text(one: Filled | None) -> str:
    if one is None:
        return ""
    first = words.ours(one.ours, one.cell.metric) if one.ours else "-"
    return "; ".join([first, *words.beside(one)])
