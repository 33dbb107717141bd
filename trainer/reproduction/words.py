"""A filled table in words: labels of rows and columns, and what a cell says; the same in every form of the result."""

from collections.abc import Sequence

from backdrop.trainer.paper_tables.records import Cell, Row
from backdrop.trainer.paper_tables.scales import PAPER
from backdrop.trainer.reproduction.comparison import CONFIDENCE, Sample
from backdrop.trainer.reproduction.contents import Filled, FilledTable, column_of

# Decimals of percent, and of scores between 0 and 1.
_OF_PERCENT, _OF_FRACTION = 1, 3
_FRACTIONS = ("iou",)


def title(filled: FilledTable) -> str:
    """Return the heading of a table."""
    table = filled.part.table
    kind = {"F": "Figure", "S": "Section"}.get(table.number[0], "Table")
    scale = "" if filled.part.scale.name == PAPER else f", scale {filled.part.scale.name}"
    paper = {"ryali": "Ryali et al. 2021", "cast": "CAST"}.get(table.paper, table.paper)
    return f"{paper}, {kind} {table.number.lstrip('FS')}: {table.title}{scale}"


def row_labels(rows: Sequence[Row]) -> list[str]:
    """Return a name for each row; one that several share gets what else tells them apart."""
    names = [row.name for row in rows]
    labels = []
    for row in rows:
        more = []
        if names.count(row.name) > 1:
            alike = [each for each in rows if each.name == row.name]
            for name in ("method", "background", "epochs", "masks"):
                text = f"{row.epochs} epochs" if name == "epochs" else getattr(row, name)
                if len({getattr(each, name) for each in alike}) > 1 and getattr(row, name):
                    more.append(text)
            if len({each.stated for each in alike}) > 1 and row.stated:
                more.append(row.stated)
        labels.append(", ".join([row.name, *more]))
    return labels


def columns(filled: FilledTable) -> dict[tuple[str, ...], str]:
    """Return what a table is shown with, in order: the key of `contents.column_of` and its words.

    A column without any number of ours stands at the papers' scale alone, where it has the paper's.
    """
    found: dict[tuple[str, ...], str] = {}
    for row in filled.rows:
        for one in row.cells:
            found.setdefault(column_of(one.cell), column_name(one.cell))
    if filled.part.scale.name == PAPER:
        return found
    scored = {column_of(one.cell) for row in filled.rows for one in row.cells if one.ours}
    return {key: name for key, name in found.items() if key in scored}


def column_name(cell: Cell) -> str:
    """Return the words of a column: task, data set, metric, and how it was scored."""
    item = next((part for part in cell.setting.split("; ") if part.startswith(("linear ", "fine-tuned ", "w/"))), "")
    data = "" if cell.data in ("imagenet", "") else f" {cell.data}"
    return f"{cell.task}{data} {cell.metric}{f', {item}' if item else ''}"


def number(value: float, metric: str) -> str:
    """Return a score with as many decimals as the papers print."""
    return f"{value:.{_OF_FRACTION if metric in _FRACTIONS else _OF_PERCENT}f}"


def signed(value: float, metric: str) -> str:
    """Return a difference with its sign."""
    text = number(value, metric)
    return text if text.startswith("-") else f"+{text}"


def ours(sample: Sample, metric: str) -> str:
    """Return mean, standard error and number of seeds."""
    seeds = len(sample.by_seed)
    spread = "" if sample.sem is None else f" ± {number(sample.sem, metric)}"
    return f"{number(sample.mean, metric)}{spread} ({seeds} seed{'s' if seeds > 1 else ''})"


def beside(filled: Filled) -> list[str]:
    """Return what stands beside ours, a line each: the paper's number, the difference, the comparison with the
    baseline and whether its direction is the paper's.
    """
    metric, lines = filled.cell.metric, []
    if filled.paper:
        sem = f" ± {filled.cell.sem}" if filled.cell.sem else ""
        difference = "" if filled.difference is None else f", ours {signed(filled.difference, metric)}"
        lines.append(f"paper {filled.paper}{sem}{difference}")
    if filled.baseline is not None:
        sample, interval = filled.baseline.sample, filled.baseline.sample.interval
        spread = (
            f", {CONFIDENCE:.0%}: {signed(interval[0], metric)} to {signed(interval[1], metric)}" if interval else ""
        )
        p = "" if filled.baseline.p is None else f", p = {filled.baseline.p:.2g}"
        lines.append(f"over the baseline {signed(sample.mean, metric)}{spread}{p}")
    if filled.verdict and filled.baseline is not None:
        lines.append(f"paper {filled.paper_direction}, ours {filled.baseline.direction}: {filled.verdict}")
    return lines
