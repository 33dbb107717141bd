"""The papers' tables, read from the CSV files beside this one."""

import csv
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from importlib import resources

from backdrop.errors import UserError, did_you_mean
from backdrop.trainer.paper_tables.records import Cell, Evaluation, Row, Table, Training
from backdrop.trainer.run.store_of_table import STORES

# Items of the column `setting` that are of scoring and not of training.
_OF_SCORING = ("linear ", "fine-tuned ", "w/ adapt", "w/o adapt")


def papers() -> tuple[str, ...]:
    """Return the papers' short names."""
    return tuple(STORES)


@cache
def tables(paper: str) -> tuple[Table, ...]:
    """Return all tables of a paper, in its order.

    Raises: UserError: no such paper.
    """
    if paper not in papers():
        raise UserError(f"no paper {paper!r}; there are {', '.join(papers())}")
    lines_of: dict[str, list[dict[str, str]]] = {}
    for line in numbers():
        if line["paper"] == paper:
            lines_of.setdefault(line["table"], []).append(line)
    titles = {line["table"]: line["title"] for line in _read("titles.csv") if line["paper"] == paper}
    return tuple(
        Table(paper=paper, number=number, title=titles[number], rows=_rows(lines)) for number, lines in lines_of.items()
    )


def table(paper: str, number: str) -> Table:
    """Return one table of a paper.

    Args: number: as printed, 4 or A6; F4 and F7 are figures, S4.6 and SC.2 sections with numbers of their own.
    Raises: UserError: no such paper or table.
    """
    found = {one.number: one for one in tables(paper)}
    if number not in found:
        raise UserError(
            f"{paper} has no table {number!r}{did_you_mean(number, list(found))}; it has {', '.join(found)}"
        )
    return found[number]


def trainings(of: Iterable[Table]) -> tuple[Training, ...]:
    """Return the trainings that some tables need, each once, a network before those that start from it."""
    found: dict[Training, None] = {}
    for one in of:
        for row in one.rows:
            if row.training is not None:
                found.update(dict.fromkeys(_with_start(row.training)))
    return tuple(found)


def numbers() -> list[dict[str, str]]:
    """Return the lines of numbers.csv, one number each, by column."""
    return _read("numbers.csv")


def _with_start(training: Training) -> list[Training]:
    return [*(_with_start(training.start_from) if training.start_from else []), training]


def _rows(lines: list[dict[str, str]]) -> tuple[Row, ...]:
    """Lines of one printed row and one network are a row, in the order of their first."""
    grouped: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for line in lines:
        grouped[(line["row"], *_key(line))].append(line)
    return tuple(_row(same) for same in grouped.values())


def _row(lines: list[dict[str, str]]) -> Row:
    first = lines[0]
    subject = _subjects()[_key(first)]
    return Row(
        name=first["row"],
        stated=_stated(first),
        **{name: first[name] for name in ("method", "background", "epochs", "pretrain_data", "masks")},
        subject=subject["subject"],
        training=_training(_key(first)) if subject["subject"] == "training" else None,
        seeds=int(subject["seeds"] or 1),
        cells=tuple(_cell(line, is_untrained=subject["subject"] == "untrained") for line in lines),
        note=subject["note"],
    )


def _stated(line: dict[str, str]) -> str:
    """What is stated of the training alone."""
    return "; ".join(item for item in line["setting"].split("; ") if not item.startswith(_OF_SCORING))


def _key(line: dict[str, str]) -> tuple[str, ...]:
    """What tells one network from another: the same for every table."""
    names = ("paper", "method", "background", "epochs", "pretrain_data", "masks")
    return (*(line[name] for name in names), line["stated"] if "stated" in line else _stated(line))


@cache
def _subjects() -> dict[tuple[str, ...], dict[str, str]]:
    return {_key(line): line for line in _read("subjects.csv")}


@cache
def _training(key: tuple[str, ...]) -> Training:
    line = _subjects()[key]
    follows = line["follows"]
    masks = "" if follows else line["masks"]
    return Training(
        method=line["trained_by"],
        recipe=line["recipe"],
        background="none" if follows else line["background"],
        settings=tuple(line["settings"].split()),
        data=line["pretrain_data"],
        masks=masks,
        threshold=STORES[line["paper"]].threshold if masks else None,
        seeds=int(line["seeds"]),
        start_from=_training((*key[:-1], follows)) if follows else None,
    )


def _cell(line: dict[str, str], *, is_untrained: bool) -> Cell:
    item = next((item for item in line["setting"].split("; ") if item.startswith(_OF_SCORING)), "")
    scored = _evaluations()[line["paper"], line["task"], line["data"], line["metric"], item]
    as_printed = ("paper", "table", "row", "setting", "task", "data", "metric", "value", "sem", "note")
    # A network that was trained with a classifier is scored with its own.
    of_trained = _evaluation(line["paper"], scored, fits_classifier=line["method"] != "supervised")
    return Cell(
        **{name: line[name] for name in as_printed},
        evaluation=_untrained(of_trained) if of_trained and is_untrained else of_trained,
        score=scored["score"],
        why_not=scored["note"],
    )


def _evaluation(paper: str, scored: dict[str, str], *, fits_classifier: bool) -> Evaluation | None:
    if not scored["evaluation"]:
        return None
    before = _evaluations()[paper, scored["after"], "imagenet", "top1", ""] if scored["after"] else None
    return Evaluation(
        task=scored["evaluation"],
        options=tuple(scored["options"].split()),
        after=_evaluation(paper, before, fits_classifier=True) if before and fits_classifier else None,
    )


def _untrained(evaluation: Evaluation) -> Evaluation:
    after = None if evaluation.after is None else _untrained(evaluation.after)
    return replace(evaluation, after=after, is_untrained=True)


@cache
def _evaluations() -> dict[tuple[str, ...], dict[str, str]]:
    names = ("paper", "task", "data", "metric", "item")
    return {tuple(line[name] for name in names): line for line in _read("evaluations.csv")}


@cache
def _read(name: str) -> list[dict[str, str]]:
    text = resources.files("backdrop.trainer.paper_tables").joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
