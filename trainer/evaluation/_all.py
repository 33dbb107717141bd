"""`evaluate all`: every evaluation of a paper that the data at hand allows, the paper's numbers beside ours."""

import json
from pathlib import Path
from typing import Any

import click
import torch

from stores.errors import UserError
from trainer.evaluation._evaluate import data_folder, evaluate_run, task_module
from trainer.evaluation._paper_numbers import RECIPES, paper_numbers, tasks_of
from trainer.evaluation._subject import open_subject, weights_digest
from trainer.evaluation._weights import load_network
from trainer.run import run_folder


def evaluate_all(run_or_weights: Path, recipe: str, *, strict: bool = False) -> dict[str, Any]:
    """Run what can be run, and say of the rest what is missing.

    A run's scores that are there already, of the same weights, are not computed again.

    Args: run_or_weights: as for `evaluate_run`. recipe: ryali or cast: whose tables. strict: as for `evaluate_run`.
    Returns: recipe, rows (task, metric, value, table, paper, difference), missing ({task: where to get the data}),
        failed ({task: message}).
    Raises: UserError: no such recipe, nothing at `run_or_weights`.
    """
    if recipe not in RECIPES:
        raise UserError(f"no paper {recipe!r}; there are {', '.join(RECIPES)}")
    settings = run_folder.read_settings(run_or_weights) if run_or_weights.is_dir() else None
    paper = paper_numbers(recipe, settings)
    rows: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    failed: dict[str, str] = {}
    for task in tasks_of(recipe):
        try:
            data_folder(task_module(task), None)
        except UserError as error:
            missing[task] = str(error)
            continue
        click.echo(f"{task} ...", err=True)
        try:
            scores = _scores(task, run_or_weights, strict)
        except UserError as error:
            failed[task] = str(error)
            continue
        rows += [_row(task, metric, value, paper.get((task, metric))) for metric, value in scores.items()]
    return {"recipe": recipe, "rows": rows, "missing": missing, "failed": failed}


def table(summary: dict[str, Any]) -> str:
    """Return the comparison as lines of text: the paper's number, ours, the difference; then what is missing."""
    lines = [f"{'table':6} {'evaluation':18} {'metric':22} {'paper':>7} {'ours':>7} {'diff':>7}"]
    for row in summary["rows"]:
        paper, difference = (f"{row[name]:.2f}" if row[name] is not None else "" for name in ("paper", "difference"))
        lines.append(
            f"{row['table'] or '':6} {row['task']:18} {row['metric']:22} {paper:>7} {row['value']:7.2f} {difference:>7}"
        )
    lines += [f"not run: {task}: {why}" for task, why in summary["missing"].items()]
    lines += [f"failed: {task}: {why}" for task, why in summary["failed"].items()]
    return "\n".join(lines)


def _scores(task: str, run_or_weights: Path, strict: bool) -> dict[str, float]:
    kept = run_or_weights / f"{task}.json"
    if run_or_weights.is_dir() and kept.exists():
        summary = json.loads(kept.read_text())
        if summary["weights_sha256"] in _digests(run_or_weights):
            return dict(summary["scores"])
    return dict(evaluate_run(task, run_or_weights, None, strict=strict)["scores"])


def _digests(run: Path) -> set[str]:
    """The run's weights with the classifier of `evaluate linear`, and without, as `linear` itself found them."""
    return {
        open_subject(run, torch.device("cpu")).weights_sha256,
        weights_digest(*load_network(run)),
    }


def _row(task: str, metric: str, value: float, paper: tuple[str, float] | None) -> dict[str, Any]:
    table_name, number = paper or (None, None)
    difference = None if number is None else round(value - number, 4)
    return {
        "task": task, "metric": metric, "value": value, "table": table_name, "paper": number, "difference": difference,
    }  # fmt: skip
