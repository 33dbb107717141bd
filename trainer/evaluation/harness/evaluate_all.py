"""`evaluate all`: every evaluation of a paper that the data at hand allows, the paper's numbers beside ours."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from backdrop.errors import UserError
from backdrop.progress import note, warn
from backdrop.ranks import Ranks
from backdrop.trainer.evaluation import EVALUATIONS, EvaluationFile
from backdrop.trainer.evaluation.harness.evaluate import (
    as_kept,
    chosen_options,
    data_folder,
    evaluate_run,
    kept_at,
    sharing,
)
from backdrop.trainer.evaluation.harness.paper_cells import RECIPES, Printed, Scored, options_of, printed, tasks_of
from backdrop.trainer.evaluation.harness.subject import loaded, probe_of, untrained_seed, weights_digest
from backdrop.trainer.evaluation.harness.weights import load_network
from backdrop.trainer.paper_tables.matching import compared, read_run
from backdrop.trainer.run import run_folder

# What a plan says of a task.
TO_DO, KEPT, MISSING = "to do", "kept", "missing"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the user asked for.

    only: these evaluations; () = all of the recipe's. skip: not these. overrides: TASK.NAME=VALUE changes of options.
    strict, is_untrained: see `evaluate_run`. masks: whose masks those of a folder are that the run was trained with,
    u2net for one; "" = not said, and no paper's number of masks stands beside it.
    """

    only: Sequence[str] = ()
    skip: Sequence[str] = ()
    overrides: Sequence[str] = ()
    strict: bool = False
    is_untrained: bool = False
    masks: str = ""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One evaluation of the plan.

    overrides: of its own options, the paper's and the user's. why: where its data are, or what is missing.
    """

    task: str
    state: str
    overrides: tuple[str, ...]
    why: str


def plan(run_or_weights: Path, recipe: str, choice: Choice) -> list[Step]:
    """Say what `evaluate_all` would do, in its order; nothing is computed but the digest of the weights.

    Raises: UserError: no such recipe, task or option, nothing at `run_or_weights`.
    """
    if recipe not in RECIPES:
        raise UserError(f"no paper {recipe!r}; there are {', '.join(RECIPES)}")
    tasks = _chosen(tasks_of(recipe, _method(run_or_weights)), choice)
    overrides_of = _overrides(recipe, choice.overrides, tasks)
    digests = _digests(run_or_weights, choice)
    steps = []
    for task in sorted(tasks, key=lambda task: EVALUATIONS.load(task).TAKES_DAYS):
        module = EVALUATIONS.load(task)
        options = chosen_options(module, overrides_of[task])  # unknown ones fail here, before hours of work
        try:
            folder = data_folder(module, None)
            check_needed_beside(module, folder, options)
            step = Step(task=task, state=TO_DO, overrides=overrides_of[task], why=str(folder))
            is_kept = _kept_summary(step, run_or_weights, choice, digests) is not None
        except UserError as error:
            steps.append(Step(task=task, state=MISSING, overrides=(), why=str(error)))
            continue
        steps.append(replace(step, state=KEPT) if is_kept else step)
    return steps


def check_needed_beside(module: EvaluationFile[Any], folder: Path, options: Any) -> None:
    """Look for the files that an evaluation needs besides its images.

    Args: module: of trainer/evaluation. folder: its data. options: its options. Raises: UserError: one is not there.
    """
    for path in module.needed_beside(folder, options):
        if not path.exists():
            raise UserError(f"there is no {path}. Expected: {module.LAYOUT}. From: {module.SOURCE}")


def plan_table(steps: Sequence[Step]) -> str:
    """Return a plan as lines of text, with a sentence for each evaluation about to be computed."""
    lines = [f"{step.state:8} {step.task:18} {_what(step)}" for step in steps]
    counts = {state: sum(step.state == state for step in steps) for state in (TO_DO, KEPT, MISSING)}
    return "\n".join([*lines, ", ".join(f"{number} {state}" for state, number in counts.items())])


def evaluate_all(run_or_weights: Path, recipe: str, choice: Choice) -> dict[str, Any]:
    """Say what will be computed, run what can be run, and say of the rest what is missing; see also `evaluate_run`.

    A run's scores that are there already, of the same weights, data and options, are not computed again, unless
    something was odd about the data.

    Args: run_or_weights: as for `evaluate_run`. recipe: ryali or cast: whose tables.
    Returns: recipe, rows (task, metric, value, tables, paper, difference, differs, assumed), missing ({task: where to
        get the data}), failed ({task: message}).
    Raises: UserError: see `plan`.
    """
    with sharing() as ranks:
        steps = ranks.by_first(lambda: plan(run_or_weights, recipe, choice))
        note(plan_table(steps))
        return _all_scored(run_or_weights, recipe, choice, steps, ranks)


def _all_scored(
    run_or_weights: Path, recipe: str, choice: Choice, steps: Sequence[Step], ranks: Ranks
) -> dict[str, Any]:
    """What `evaluate_all` returns, of a plan."""
    run = read_run(run_or_weights, masks=choice.masks) if run_or_weights.is_dir() else None
    beside = {} if run is None else compared(recipe, run)
    rows: dict[str, list[dict[str, Any]]] = {}
    failed: dict[str, str] = {}
    digests: set[str] | None = None
    for number, step in enumerate(to_do := [step for step in steps if step.state != MISSING], start=1):
        # Every evaluation may change what the next one scores: `linear` leaves a classifier.
        digests = ranks.by_first(partial(_digests, run_or_weights, choice)) if digests is None else digests
        summary = ranks.by_first(partial(_kept_summary, step, run_or_weights, choice, digests))
        if summary is None:
            note(f"[{number}/{len(to_do)}] {step.task} ...")
            digests = None
            try:
                summary = evaluate_run(
                    step.task, run_or_weights, None,
                    overrides=step.overrides, strict=choice.strict, is_untrained=choice.is_untrained,
                )  # fmt: skip
            except UserError as error:
                warn(f"[{number}/{len(to_do)}] {step.task} failed: {error}")
                failed[step.task] = str(error)
                continue
        scored = Scored(
            run=run,
            compared=beside,
            folder=run_or_weights,
            is_untrained=choice.is_untrained,
            task=step.task,
            summary=summary,
        )
        rows[step.task] = [
            _row(step.task, name, value, printed(recipe, scored, name)) for name, value in summary["scores"].items()
        ]
    in_order = [row for task in tasks_of(recipe, _method(run_or_weights)) for row in rows.get(task, [])]
    missing = {step.task: step.why for step in steps if step.state == MISSING}
    return {"recipe": recipe, "rows": in_order, "missing": missing, "failed": failed}


def table(summary: dict[str, Any]) -> str:
    """Return the comparison as lines of text: the paper's number, ours, the difference; then what is missing."""
    lines = [f"{'table':10} {'evaluation':18} {'metric':22} {'paper':>7} {'ours':>7} {'diff':>7}"]
    for row in summary["rows"]:
        paper, difference = (f"{row[name]:.2f}" if row[name] is not None else "" for name in ("paper", "difference"))
        where = ", ".join(row["tables"][:2]) + (" ..." if len(row["tables"]) > 2 else "")
        lines.append(f"{where:10} {row['task']:18} {row['metric']:22} {paper:>7} {row['value']:7.2f} {difference:>7}")
    lines += [f"no number of the paper beside {tasks}: {why}" for why, tasks in _tasks_by(summary, "differs").items()]
    lines += [f"assumed of the paper's {tasks}: {what}" for what, tasks in _tasks_by(summary, "assumed").items()]
    lines += [f"not run: {task}: {why}" for task, why in summary["missing"].items()]
    lines += [f"failed: {task}: {why}" for task, why in summary["failed"].items()]
    return "\n".join(lines)


def _tasks_by(summary: dict[str, Any], column: str) -> dict[str, str]:
    """Which tasks' rows have a text in a column, comma-separated, by that text."""
    found: dict[str, dict[str, None]] = {}
    for row in summary["rows"]:
        if row[column]:
            found.setdefault(row[column], {})[row["task"]] = None
    return {text: ", ".join(tasks) for text, tasks in found.items()}


def _chosen(tasks: Sequence[str], choice: Choice) -> list[str]:
    unknown = sorted({*choice.only, *choice.skip} - set(tasks))
    if unknown:
        raise UserError(f"{', '.join(unknown)}: not among this paper's evaluations, which are {', '.join(tasks)}")
    return [task for task in tasks if (not choice.only or task in choice.only) and task not in choice.skip]


def _overrides(recipe: str, given: Sequence[str], tasks: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The paper's options and, after them, the user's TASK.NAME=VALUE, by task, as NAME=VALUE."""
    found = {task: list(options_of(recipe, task)) for task in tasks}
    for override in given:
        task, dot, setting = override.partition(".")
        if not dot or task not in found:
            raise UserError(
                f"--set {override}: with evaluate all it is TASK.NAME=VALUE, e.g. grounding.store=STORE, where TASK "
                f"is one of {', '.join(found)}"
            )
        found[task].append(setting)
    return {task: tuple(settings) for task, settings in found.items()}


def _what(step: Step) -> str:
    if step.state != TO_DO:
        return step.why
    module = EVALUATIONS.load(step.task)
    return f"{step.why}: {_first_line(module)}"


def _first_line(module: EvaluationFile[Any]) -> str:
    return (module.__doc__ or "").strip().partition("\n")[0]


def _kept_summary(step: Step, run_or_weights: Path, choice: Choice, digests: set[str]) -> dict[str, Any] | None:
    """Summary of these very weights, data and options, where the run's folder has them.

    Where something was odd about the data, they may be mended since: then all is asked once more. That is cheap, for
    answers, features and fine-tuned networks are kept under the images that they are of.
    """
    kept = kept_at(run_or_weights, step.task, is_untrained=choice.is_untrained)
    if not (run_or_weights.is_dir() and kept.exists()):
        return None
    summary, module = json.loads(kept.read_text()), EVALUATIONS.load(step.task)
    folder, options = data_folder(module, None), chosen_options(module, step.overrides)
    is_same = (
        # What is fitted on the backbone as it was trained stays what it was when `linear` adapts statistics.
        summary["facts"].get("pretrained_sha256", summary["weights_sha256"]) in digests
        and summary["options"] == as_kept(asdict(options))
        and summary["data"] == str(folder.absolute())
        and not summary["problems"]
        and as_kept(dict(module.facts_of_data(folder, options))).items() <= summary["facts"].items()
    )
    return dict(summary) if is_same else None


def _digests(run_or_weights: Path, choice: Choice) -> set[str]:
    """Of the weights with the classifier that `evaluate linear` left of them, and without, as `linear` found them."""
    pretrained = loaded(run_or_weights, untrained_seed(run_or_weights) if choice.is_untrained else None)
    probe = probe_of(run_or_weights, *pretrained, is_untrained=choice.is_untrained)
    networks = [pretrained] if probe is None else [pretrained, load_network(probe)]
    return {weights_digest(*network) for network in networks}


def _row(task: str, metric: str, value: float, beside: Printed) -> dict[str, Any]:
    """Of several tables the first one's number; others that print another one say it behind their own."""
    first = float(beside.cells[0].value) if beside.cells else None
    tables = [cell.table if float(cell.value) == first else f"{cell.table} ({cell.value})" for cell in beside.cells]
    return {
        "task": task, "metric": metric, "value": value, "tables": list(dict.fromkeys(tables)), "paper": first,
        "difference": None if first is None else round(value - first, 4), "differs": beside.differs,
        "assumed": beside.assumed,
    }  # fmt: skip


def _method(run_or_weights: Path) -> str:
    """Of the run; "" for a file of weights."""
    return run_folder.read_settings(run_or_weights).method if run_or_weights.is_dir() else ""
