"""What a result shows: for every cell of a table ours over seeds, the paper's number or its direction, what differs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from backdrop.trainer.paper_tables.records import Cell, Row, Training
from backdrop.trainer.paper_tables.scales import PAPER, evaluation_at
from backdrop.trainer.reproduction import comparison
from backdrop.trainer.reproduction.comparison import Difference, Sample
from backdrop.trainer.reproduction.execution import failures_of, is_trained, run_differences, scores_file, scores_of
from backdrop.trainer.reproduction.jobs import (
    Part,
    Wanted,
    evaluation_name,
    network_of,
    parts,
    run_name,
    seeds_of,
    training_of,
)

_MAX_NAMED = 6
# What stands in place of numbers of rows that are no training of ours.
_NOT_TRAINED = {
    "detector": "a saliency detector: saliency table1 trains and scores it",
    "torchvision": "torchvision's own weights: evaluate TASK --weights FILE scores them",
    "published": "a number of others",
    "none": "no network",
}


@dataclass(frozen=True, kw_only=True)
class Filled:
    """One cell. ours: over seeds, None = nothing computed, see why.

    baseline: ours less the table's baseline row; None in that row and where either is missing. paper: the printed
    number where it may stand beside ours, else "". difference: ours less that. paper_direction: of the printed number
    against the printed baseline, "" in the baseline's row.
    """

    cell: Cell
    ours: Sample | None
    why: str
    paper: str
    difference: float | None
    baseline: Difference | None
    paper_direction: str

    @property
    def verdict(self) -> str:
        """Whether both directions agree, "" where one is missing, or ours is of a single seed: that tells nothing."""
        if self.baseline is None or not self.paper_direction or self.baseline.sample.interval is None:
            return ""
        return comparison.verdict(self.baseline.direction, self.paper_direction)


@dataclass(frozen=True, kw_only=True)
class FilledRow:
    """One row. runs: names of its runs, those that are trained. differs: in what they are not the paper's row."""

    row: Row
    runs: tuple[str, ...]
    differs: tuple[str, ...]
    cells: tuple[Filled, ...]


@dataclass(frozen=True, kw_only=True)
class FilledTable:
    """One table at one scale."""

    part: Part
    rows: tuple[FilledRow, ...]


def fill(wanted: Wanted, out: Path) -> tuple[FilledTable, ...]:
    """Read what was computed into tables. Args: out: the result's folder."""
    return tuple(FilledTable(part=part, rows=tuple(_rows(part, wanted, out))) for part in parts(wanted))


def baseline_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """Return what a row of a table is compared with: the first of its method and length, without background if any is.

    Args: rows: of the table. Returns: the table's first row where there is none of its kind; None for that row itself.
    """
    ours = [each for each in rows if each.training is not None]
    # CAST's baseline is MoCo.
    methods = (row.method, "moco") if row.method == "cast" else (row.method,)
    alike = [each for each in ours if each.epochs == row.epochs and each.method in methods]
    plain = [each for each in alike if each.background == "none"] or alike or ours
    return plain[0] if plain and plain[0] is not row and row.training is not None else None


def _rows(part: Part, wanted: Wanted, out: Path) -> Iterator[FilledRow]:
    samples = {row: {column_of(cell): _sample(row, cell, part, wanted, out) for cell in row.cells} for row in part.rows}
    for row in part.rows:
        training = training_of(row, part, wanted)
        names = [] if training is None else [run_name(training, seed) for seed in seeds_of(training, wanted)]
        runs = tuple(name for name in names if is_trained(out, name))
        differs = () if training is None else tuple(_differs(row, training, part, runs, out))
        baseline = baseline_of(row, part.rows)
        base = {} if baseline is None else {column_of(cell): cell for cell in baseline.cells}
        cells = []
        for cell in row.cells:
            ours, why = samples[row][column_of(cell)]
            other = samples[baseline].get(column_of(cell), (None, ""))[0] if baseline is not None else None
            stands = part.scale.name == PAPER and not differs
            cells.append(
                Filled(
                    cell=cell,
                    ours=ours,
                    why=why,
                    paper=cell.value if stands else "",
                    difference=ours.mean - float(cell.value) if stands and ours else None,
                    baseline=comparison.paired(ours, other) if ours and other else None,
                    paper_direction=_direction(cell, base.get(column_of(cell))),
                )
            )
        # A page about a trained network is none about its random weights.
        shown = () if row.subject == "untrained" else runs
        yield FilledRow(row=row, runs=shown, differs=differs, cells=tuple(cells))


def column_of(cell: Cell) -> tuple[str, ...]:
    """Return what a cell is of, the same in each row of a table."""
    options = cell.evaluation.options if cell.evaluation else ()
    return (cell.task, cell.data, cell.metric, cell.score, *options)


def _direction(cell: Cell, baseline: Cell | None) -> str:
    return "" if baseline is None else comparison.sign(float(cell.value) - float(baseline.value))


def _sample(row: Row, cell: Cell, part: Part, wanted: Wanted, out: Path) -> tuple[Sample | None, str]:
    """Ours over seeds, or why there is nothing."""
    training = training_of(row, part, wanted)
    evaluation, score = evaluation_at(cell, part.scale)
    if training is None:
        return None, "; ".join(filter(None, (_NOT_TRAINED[row.subject], row.note)))
    if evaluation is None:
        return None, cell.why_not or f"not computed at scale {part.scale.name}"
    by_seed, why = {}, "not computed yet"
    for seed in seeds_of(training, wanted):
        name = run_name(training, seed)
        file = scores_file(out, name, evaluation)
        failed = failures_of(out, name)
        why = failed.get("training") or failed.get(evaluation_name(evaluation)) or why
        if file.exists() and score in (scores := scores_of(file)):
            by_seed[seed] = scores[score]
    return (Sample(by_seed=by_seed), "") if by_seed else (None, why)


def _differs(row: Row, training: Training, part: Part, runs: Sequence[str], out: Path) -> Iterator[str]:
    """In what runs are not a row of the paper; of a row without runs, in what they would not be."""
    if part.scale.name != PAPER:
        yield f"scale {part.scale.name}"
        return
    papers_own = network_of(row, part.table)
    assert papers_own is not None
    ours, papers = training.counting(), papers_own.counting()
    changed = [name for name in sorted(ours.keys() | papers.keys()) if ours.get(name) != papers.get(name)]
    lines = [f"{name} is {ours.get(name)}, the row's {papers.get(name)}" for name in changed]
    for name in runs:
        lines += run_differences(out, name, papers_own, training.masks)
    found = list(dict.fromkeys(lines))
    yield from found[:_MAX_NAMED]
    if len(found) > _MAX_NAMED:
        yield f"{len(found) - _MAX_NAMED} more"
