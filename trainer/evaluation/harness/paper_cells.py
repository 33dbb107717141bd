"""The papers' numbers beside a run's scores: only where everything that decides both is the same, else what differs.

Which rows a run is, `trainer/paper_tables/matching.py` says; here come the evaluation's options, the fit of the
classifier that it scores, and what was odd about the data.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from backdrop.settings import leaves
from backdrop.trainer.evaluation import EVALUATIONS
from backdrop.trainer.evaluation.harness.evaluate import chosen_options, kept_at
from backdrop.trainer.evaluation.harness.subject import FITTED
from backdrop.trainer.paper_tables.matching import TrainedRun, nearest
from backdrop.trainer.paper_tables.records import Cell, Evaluation, Row, Training
from backdrop.trainer.paper_tables.tables import papers, tables

RECIPES = papers()
# Options that say where something lies, which part is computed, or how: no protocol is another one for them.
_NOT_OF_PROTOCOL = (
    "store", "table", "masks", "lists", "labels", "alexnet_errors", "seed", "dtype", "score_epochs", "processes",
    "checkpoint_iterations", "percents", "modes",
)  # fmt: skip
_RANDOM_NETWORK = "resnet50"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One evaluation of a network, as its summary has it.

    run: what its folder says, None for a file of weights. compared: the run with every training of the paper.
    folder: the run's. is_untrained: scored before training.
    """

    run: TrainedRun | None
    compared: Mapping[Training, list[str]]
    folder: Path
    is_untrained: bool
    task: str
    summary: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Printed:
    """What a paper prints for a score. cells: its numbers, the same one in several tables.

    differs: where there is none, in what the nearest row's is another; "" where no table has such a score.
    assumed: what was taken for granted of the row where the paper is silent, "" where nothing was.
    """

    cells: tuple[Cell, ...] = ()
    differs: str = ""
    assumed: str = ""


def tasks_of(paper: str, method: str = "") -> tuple[str, ...]:
    """Return the evaluations of a paper's tables, in their order.

    Args: method: of the run. A supervised one has rows of its own, which score its own classifier.
    """
    is_supervised = method == "supervised"
    cells = (cell for row, cell in _cells(paper) if (row.method == "supervised") == is_supervised)
    return tuple(dict.fromkeys(cell.evaluation.task for cell in cells if cell.evaluation))


def options_of(paper: str, task: str) -> tuple[str, ...]:
    """Return the NAME=VALUE changes of an evaluation's defaults that a paper's numbers of it were made with.

    Of several, those of its first table.
    """
    found = (cell.evaluation.options for _, cell in _cells(paper) if cell.evaluation and cell.evaluation.task == task)
    return next(found, ())


def printed(paper: str, scored: Scored, metric: str) -> Printed:
    """Return what a paper prints for one score of a network."""
    candidates = [
        (row, cell)
        for row, cell in _cells(paper)
        if cell.evaluation and (cell.evaluation.task, cell.score) == (scored.task, metric)
    ]
    if not candidates:
        return Printed()
    if scored.is_untrained or scored.run is None:
        return _of_no_training(candidates, scored)
    by_training: dict[Training, list[tuple[Row, Cell]]] = {}
    for row, cell in candidates:
        if row.training is not None:
            by_training.setdefault(row.training, []).append((row, cell))
    training = nearest(scored.compared, by_training)
    if training is None:
        return Printed()
    row, cell = by_training[training][0]
    if lines := scored.compared[training]:
        return Printed(differs=f"{_joined(lines)} (nearest: Table {cell.table}, {row.name})")
    found = _with_same_protocol([cell for _, cell in by_training[training]], scored)
    notes = dict.fromkeys(row.note for row, cell in by_training[training] if cell in found.cells and row.note)
    return replace(found, assumed="; ".join(notes))


def _of_no_training(candidates: Sequence[tuple[Row, Cell]], scored: Scored) -> Printed:
    """Random weights are a row of CAST's Table 1; a file of weights does not say what it is."""
    if not scored.is_untrained:
        return Printed(differs="a file of weights does not say how it was trained")
    cells = [cell for row, cell in candidates if row.subject == "untrained"]
    if not cells:
        return Printed(differs="no row is of an untrained network")
    backbone = scored.run.settings.backbone if scored.run else ""
    if backbone != _RANDOM_NETWORK:
        return Printed(differs=f"the network is {backbone or 'not known'}, the row's {_RANDOM_NETWORK}")
    return _with_same_protocol(cells, scored)


def _with_same_protocol(cells: Sequence[Cell], scored: Scored) -> Printed:
    differs = {cell: list(_of_protocol(cell.evaluation, scored)) for cell in cells if cell.evaluation}
    same = tuple(cell for cell, lines in differs.items() if not lines)
    return Printed(cells=same) if same else Printed(differs=_joined(min(differs.values(), key=len)))


def _of_protocol(wanted: Evaluation, scored: Scored) -> Iterator[str]:
    yield from _of_options(wanted, scored.summary)
    if wanted.after is not None and not scored.is_untrained:
        yield from _of_classifier(wanted.after, scored)
    if problems := scored.summary["problems"]:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        yield f"the data are odd: {problems[0]}{more}"


def _of_options(wanted: Evaluation, summary: Mapping[str, Any]) -> Iterator[str]:
    """Options that are not the paper's; a fact of the score of the same name tells what "the method's own" was."""
    papers = chosen_options(EVALUATIONS.load(wanted.task), wanted.options)
    for leaf in leaves(papers):
        value = json.loads(json.dumps(leaf.value))
        ours = _at(summary["options"], leaf.path)
        is_same = ours == value or summary["facts"].get(leaf.path, ours) == value
        if not is_same and leaf.path.rpartition(".")[2] not in _NOT_OF_PROTOCOL:
            yield f"{wanted.task}.{leaf.path} is {ours}, the paper's {value}"


def _of_classifier(wanted: Evaluation, scored: Scored) -> Iterator[str]:
    """The classifier that was scored, where it is not the one that the paper's protocol fits."""
    if scored.summary["classifier"] != FITTED:
        yield f"the classifier is {scored.summary['classifier'] or 'not known'}, the row's was fitted afterwards"
        return
    yield from fit_differences(scored.folder, wanted)


def fit_differences(run: Path, wanted: Evaluation) -> list[str]:
    """Return how the classifier that a run has now was fitted otherwise than by an evaluation; [] where it was by it.

    Args: run: its folder. wanted: the evaluation that leaves the classifier of a paper's protocol.
    """
    kept = kept_at(run, wanted.task, is_untrained=wanted.is_untrained)
    if not kept.is_file():
        return [f"how its classifier was fitted is not known: there is no {kept.name}"]
    return list(_of_options(wanted, json.loads(kept.read_text())))


def _at(options: Any, path: str) -> Any:
    for name in path.split("."):
        options = options[int(name)] if isinstance(options, list) else options.get(name)
    return options


def _joined(lines: Sequence[str], most: int = 4) -> str:
    more = [f"{len(lines) - most} more"] if len(lines) > most else []
    return "; ".join([*lines[:most], *more])


@cache
def _cells(paper: str) -> tuple[tuple[Row, Cell], ...]:
    """Every cell of rows that can be scored here, in the paper's order."""
    return tuple(
        (row, cell)
        for table in tables(paper)
        for row in table.rows
        if row.training is not None or row.subject == "untrained"
        for cell in row.cells
    )
