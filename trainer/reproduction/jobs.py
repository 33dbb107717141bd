"""What has to be computed for some tables: runs, each once, with every evaluation that a cell needs of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from backdrop.errors import UserError, did_you_mean
from backdrop.stores.format.provenance import identity_digest
from backdrop.trainer.paper_tables import scales
from backdrop.trainer.paper_tables.records import Cell, Evaluation, Row, Table, Training
from backdrop.trainer.paper_tables.tables import papers, table, tables

# A scale that is several: one after the other, each a table of its own on the page.
GROUPS = {"small": ("small", "small-photographs")}
NAME_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for.

    paper: ryali or cast. tables: numbers as printed; () = all. rows: parts of `full_name`s; () = all. scale: a name of
    `scale_names`. seeds: runs of each row; None = as many as the row has. settings: name=value changes of every
    training, after the row's own.
    """

    paper: str
    tables: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    scale: str = scales.PAPER
    seeds: int | None = None
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Part:
    """One table at one scale, with the rows that were asked for."""

    table: Table
    scale: scales.Scale
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Job:
    """One run: a training at its scale with a seed, and what is scored of it, in order."""

    training: Training
    seed: int
    evaluations: tuple[Evaluation, ...]

    @cached_property
    def name(self) -> str:
        """Name of its folder."""
        return run_name(self.training, self.seed)


def run_name(training: Training, seed: int) -> str:
    """Return the name of a run's folder: the digest of all that decides its network, and the seed."""
    return f"{training.digest()[:NAME_DIGITS]}-{seed}"


def evaluation_name(evaluation: Evaluation) -> str:
    """Return the name of the file with an evaluation's scores, without suffix: task and digest of its options."""
    identity = {"task": evaluation.task, "options": list(evaluation.options), "data": evaluation.data}
    untrained = "-untrained" if evaluation.is_untrained else ""
    return f"{evaluation.task}{untrained}-{identity_digest(identity)[:8]}"


def scale_names() -> tuple[str, ...]:
    """Return what --scale takes."""
    inside = {name for group in GROUPS.values() for name in group}
    return tuple(name for name in scales.scales() if name not in inside or name in GROUPS)


def parts(wanted: Wanted) -> tuple[Part, ...]:
    """Return the tables that were asked for, at each of the scale's scales.

    Raises: UserError: no such paper, table, row or scale; the nearest name is said.
    """
    if wanted.paper not in papers():
        raise UserError(
            f"no paper {wanted.paper!r}; there are {', '.join(papers())}.{did_you_mean(wanted.paper, papers())}"
        )
    if wanted.scale not in scale_names():
        raise UserError(
            f"no scale {wanted.scale!r}; there are {', '.join(scale_names())}."
            f"{did_you_mean(wanted.scale, scale_names())}"
        )
    chosen = [table(wanted.paper, number) for number in dict.fromkeys(wanted.tables)] or tables(wanted.paper)
    _check_rows(wanted.rows, chosen)
    return tuple(
        Part(table=one, scale=scales.scale(name), rows=rows)
        for name in GROUPS.get(wanted.scale, (wanted.scale,))
        for one in chosen
        if (rows := tuple(row for row in one.rows if not wanted.rows or _is_named(row, wanted.rows)))
    )


def _is_named(row: Row, names: Sequence[str]) -> bool:
    return any(name.lower() in full_name(row).lower() for name in names)


def full_name(row: Row) -> str:
    """Return a row's name with its method and background: where columns are networks, rows are called Med. and Full."""
    return " ".join(filter(None, (row.name, row.method, row.background)))


def _check_rows(names: Sequence[str], chosen: Sequence[Table]) -> None:
    there = list(dict.fromkeys(full_name(row) for one in chosen for row in one.rows))
    for name in names:
        if not any(name.lower() in row.lower() for row in there):
            raise UserError(
                f"--rows {name}: no row of these tables is called that.{did_you_mean(name, there)} "
                f"There are: {'; '.join(there)}"
            )


def network_of(row: Row, table: Table) -> Training | None:
    """Return the training whose runs a row is scored on; None where nothing is trained for it.

    Random weights are those of the table's first training without labels, drawn anew: the same network.
    """
    if row.subject != "untrained":
        return row.training
    return next(each.training for each in table.rows if each.training and each.method != "supervised")


def training_of(row: Row, part: Part, wanted: Wanted) -> Training | None:
    """Return what is trained for a row at its scale and with the user's settings; None where nothing is."""
    training = network_of(row, part.table)
    return None if training is None else _changed(scales.at_scale(training, part.scale), wanted.settings)


def _changed(training: Training, settings: tuple[str, ...]) -> Training:
    start = training.start_from
    return replace(
        training,
        settings=(*training.settings, *settings),
        start_from=None if start is None else _changed(start, settings),
    )


def seeds_of(training: Training, wanted: Wanted) -> range:
    """Return the seeds that a training is run with."""
    return range(wanted.seeds or training.seeds)


def jobs(wanted: Wanted) -> tuple[Job, ...]:
    """Return every run that some table needs, once, with all that is scored of it.

    Of several seeds the first of all rows come first, so that a table fills early; a network comes before those that
    start from it.
    """
    evaluations: dict[tuple[str, int], dict[Evaluation, None]] = {}
    training_at: dict[tuple[str, int], Training] = {}
    for part in parts(wanted):
        for row in part.rows:
            training = training_of(row, part, wanted)
            scored = list(_evaluations(row.cells, part.scale))
            if training is None or not scored:
                continue
            for seed in seeds_of(training, wanted):
                for one in _with_start(training):
                    training_at.setdefault((one.digest(), seed), one)
                    evaluations.setdefault((one.digest(), seed), {})
                evaluations[training.digest(), seed].update(dict.fromkeys(scored))
    found = [Job(training_at[key], key[1], _in_order(evaluations[key])) for key in training_at]
    return tuple(sorted(found, key=lambda job: (_depth(job.training), job.seed)))


def _with_start(training: Training) -> list[Training]:
    return [*(_with_start(training.start_from) if training.start_from else []), training]


def _depth(training: Training) -> int:
    return len(_with_start(training)) - 1


def stages(of: Sequence[Job]) -> list[tuple[Job, ...]]:
    """Return jobs in groups that may run side by side: what starts from a network comes after it."""
    depths = sorted({_depth(job.training) for job in of})
    return [tuple(job for job in of if _depth(job.training) == depth) for depth in depths]


def _evaluations(cells: Sequence[Cell], scale: scales.Scale) -> Iterator[Evaluation]:
    """Every evaluation of some cells, after the one whose classifier it scores."""
    for cell in cells:
        evaluation, _ = scales.evaluation_at(cell, scale)
        if evaluation is not None:
            yield from _with_before(evaluation)


def _with_before(evaluation: Evaluation) -> list[Evaluation]:
    return [*(_with_before(evaluation.after) if evaluation.after else []), evaluation]


def _in_order(evaluations: dict[Evaluation, None]) -> tuple[Evaluation, ...]:
    """What scores a classifier comes right after the evaluation that leaves it."""

    def place(evaluation: Evaluation) -> tuple[str, int]:
        chain = _with_before(evaluation)
        return evaluation_name(chain[0]), len(chain)

    return tuple(sorted(evaluations, key=place))
