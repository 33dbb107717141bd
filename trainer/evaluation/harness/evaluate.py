"""Score a run or a weights file with one evaluation, and keep the scores where they belong."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from backdrop import data_folders
from backdrop.errors import UserError
from backdrop.progress import silence
from backdrop.ranks import Ranks, joined
from backdrop.settings import check_settings
from backdrop.settings.overrides import split_override, with_override
from backdrop.stores.drawn_sample.first_use import draw_at_first_use
from backdrop.trainer.evaluation import EVALUATIONS, EvaluationFile
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import UNTRAINED_FOLDER, Subject, open_subject
from backdrop.trainer.run import run_folder
from backdrop.trainer.run.distributed import clear_loss_of_peers

UNTRAINED = "-untrained"


def evaluate_run(
    task: str,
    run_or_weights: Path,
    data: str | Path | None,
    *,
    overrides: Sequence[str] = (),
    strict: bool = False,
    json_path: Path | None = None,
    is_untrained: bool = False,
) -> dict[str, Any]:
    """Score a network on one data set; in every process that torchrun started, or alone.

    A run's scores also go into its results.csv (an untrained network's as `<task>-untrained`) and `<task>.json` (of
    the network untrained: below `untrained/`); of several processes the first writes.

    Args:
        task: a file of trainer/evaluation.
        run_or_weights: a run's folder or a file of weights, see `_weights.load_network`.
        data: the data set's folder, or "sample" where the evaluation allows it; None = its place in BACKDROP_DATA.
        overrides: name=value changes of the evaluation's options.
        strict: whether anything odd about the data is an error.
        json_path: where the summary is written too.
        is_untrained: score the network with weights drawn anew, as CAST's Table 1, row 1.
    Returns: the summary, the same in every process: evaluation, data, options, scores, untrained, facts, problems,
        weights.
    Raises: UserError: unknown task or option, no such network, data of another layout.
    """
    module = EVALUATIONS.load(task)
    options = chosen_options(module, overrides)
    with sharing() as ranks:
        ranks.by_first(lambda: draw_at_first_use(str(data), None))
        folder = data_folder(module, data)
        subject = open_subject(Path(run_or_weights), torch.device(ranks.device), is_untrained=is_untrained)
        if strict:
            # What can be told of the data at once is not to be told after days.
            Result(problems=list(module.problems_of_data(folder, options))).fail_where_strict(strict)
        result = module.run(subject, folder, options)
        result.fail_where_strict(strict)
        summary = _summary(task, subject, run_or_weights, folder, options, result)
        # Of several processes all go on with what the first one says.
        return ranks.by_first(lambda: _written(subject, task, summary, json_path))


def _written(subject: Subject, task: str, summary: dict[str, Any], json_path: Path | None) -> dict[str, Any]:
    """Keep a summary where it belongs. Returns: it."""
    if subject.run is not None:
        _keep(subject, subject.run, task, summary)
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        run_folder.write_json(json_path, summary)
    return summary


@contextmanager
def sharing() -> Iterator[Ranks]:
    """Share the work with the other processes that torchrun started; all but the first are silent.

    Within another one it is the same work, and nothing begins.
    """
    with ExitStack() as stack:
        is_outermost = not distributed.is_initialized()
        ranks = stack.enter_context(joined())
        if is_outermost:
            stack.enter_context(clear_loss_of_peers(ranks))
            if not ranks.is_first:
                stack.enter_context(silence())
        yield ranks


def scores_text(summary: dict[str, Any]) -> str:
    """Return a summary of `evaluate_run` for people: each score, that of the network untrained, and what was odd."""
    before = summary["untrained"]
    lines = [f"{summary['evaluation']} of {summary['backbone']} on {summary['data']}:"]
    for name, value in summary["scores"].items():
        lines.append(f"  {name:24} {value:8.2f}" + (f"   untrained {before[name]:8.2f}" if name in before else ""))
    return "\n".join([*lines, *(f"odd: {problem}" for problem in summary["problems"])])


def chosen_options(module: EvaluationFile[Any], overrides: Sequence[str]) -> Any:
    """Return an evaluation's options with the user's changes.

    Raises: UserError: unknown name, another type, or a value that is not allowed.
    """
    options = module.Options()
    for override in overrides:
        options = with_override(options, *split_override(override))
    check_settings(options)
    return options


def data_folder(module: EvaluationFile[Any], data: str | Path | None) -> Path:
    """Return where an evaluation's data lies.

    Args: data: as given; None = its folder under the one that BACKDROP_DATA names.
    Raises: UserError: it is not there, with the layout expected and where to get it.
    """
    if data is None:
        data = data_folders.data_folder(module.DATA)
        if data is None:
            variable = data_folders.ROOT_VARIABLE
            raise UserError(f"give --data DIR, or set {variable} to the folder that holds {module.DATA}/")
    if str(data) != "sample" and not Path(data).is_dir():
        raise UserError(f"there is no folder {data}. Expected: {module.LAYOUT}. From: {module.SOURCE}")
    return Path(data)


def _summary(
    task: str, subject: Subject, run_or_weights: Path, folder: Path, options: Any, result: Result
) -> dict[str, Any]:
    return {
        "evaluation": task,
        "backbone": str(run_or_weights),
        "weights_sha256": subject.weights_sha256,
        "classifier": subject.classifier,
        "untrained_seed": subject.untrained_seed,
        # An evaluation that computes in another format than the subject's says so.
        "precision": result.facts.get("precision", subject.precision),
        "data": "sample" if str(folder) == "sample" else str(folder.absolute()),
        "options": as_kept(asdict(options)),
        "scores": result.metrics,
        "untrained": result.untrained,
        "facts": as_kept(result.facts),
        "problems": result.problems,
    }


def as_kept(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record as it reads back from a file: lists where tuples were."""
    return json.loads(json.dumps(record))


def _keep(subject: Subject, run: Path, task: str, summary: dict[str, Any]) -> None:
    facts = {name: summary[name] for name in ("weights_sha256", "classifier", "precision", "data", "options", "facts")}
    if subject.untrained_seed is not None:
        run_folder.add_results(run, task + UNTRAINED, summary["scores"].items(), facts)
    else:
        run_folder.add_results(run, task, summary["scores"].items(), facts)
        if summary["untrained"]:
            run_folder.add_results(run, task + UNTRAINED, summary["untrained"].items(), facts)
    kept_at(run, task, is_untrained=subject.untrained_seed is not None).parent.mkdir(exist_ok=True)
    run_folder.write_json(kept_at(run, task, is_untrained=subject.untrained_seed is not None), summary)


def kept_at(run: Path, task: str, *, is_untrained: bool) -> Path:
    """Return the file of a run's summary of an evaluation."""
    return (run / UNTRAINED_FOLDER if is_untrained else run) / f"{task}.json"
