"""Runs side by side over an engine: each is trained by `pretrain`, scored by `evaluate`, and written about by `report`.

What is there is not made again, so that the same command goes on after a kill: a training from its checkpoint, an
evaluation that had not ended from its beginning.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backdrop.devices import num_cores, visible_gpus
from backdrop.errors import UserError
from backdrop.pipeline.beton.beton_of_store import StoreSource
from backdrop.progress import stage_bar, warn
from backdrop.stores.engines import ENGINES
from backdrop.trainer.evaluation import EVALUATIONS
from backdrop.trainer.evaluation.harness.evaluate import chosen_options, data_folder, evaluate_run
from backdrop.trainer.evaluation.harness.evaluate_all import check_needed_beside
from backdrop.trainer.evaluation.harness.paper_cells import fit_differences
from backdrop.trainer.paper_tables.matching import differences, read_run
from backdrop.trainer.paper_tables.records import Evaluation, Training
from backdrop.trainer.report.page import write_report
from backdrop.trainer.reproduction import stores
from backdrop.trainer.reproduction.jobs import Job, evaluation_name, run_name, stages
from backdrop.trainer.reproduction.stores import Missing, Stores
from backdrop.trainer.run import run_folder
from backdrop.trainer.run.loop import pretrain

# Below a run's folder: scores, one file an evaluation.
SCORES = "reproduction"
_TRAINED = "trained.json"
_TRAINING = "training"


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Who computes runs. engine: of stores/engines. number: processes or jobs; None = as the engine finds fit."""

    engine: str = "local"
    number: int | None = None


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a worker needs. out: the result's folder. loader_threads: of each run; 0 = as it has them."""

    jobs: tuple[Job, ...]
    out: Path
    stores: Stores
    loader_threads: int


def run_folder_of(out: Path, name: str) -> Path:
    """Return the folder of a run. Args: name: of `jobs.run_name`."""
    return out / "trainings" / name


def failures_of(out: Path, name: str) -> dict[str, str]:
    """Return what failed of a run: "training" or an evaluation's name -> why. Args: name: of `jobs.run_name`."""
    file = _failures_file(out, name)
    return json.loads(file.read_text()) if file.exists() else {}


def scores_file(out: Path, name: str, evaluation: Evaluation) -> Path:
    """Return where a run's scores of an evaluation are. Args: name: of `jobs.run_name`."""
    return run_folder_of(out, name) / SCORES / f"{evaluation_name(evaluation)}.json"


def scores_of(file: Path) -> dict[str, float]:
    """Return the scores in a file of `scores_file`, by name."""
    return json.loads(file.read_text())["scores"]


def steps_left(out: Path, job: Job) -> int:
    """Return how much of a job is to do: its training, and each evaluation."""
    return (not is_trained(out, job.name)) + sum(
        not scores_file(out, job.name, one).exists() for one in job.evaluations
    )


def execute(jobs: Sequence[Job], out: Path, place: Stores, workers: Workers) -> dict[str, dict[str, str]]:
    """Run what is not there yet.

    Args: jobs: of `jobs.jobs`. out: the result's folder. place: where stores are.
    Returns: what failed, by run's name: {"training" or an evaluation's name: why}; the others went on.
    Raises: UserError: the engine cannot work here. PartsFailed: runs ended in a way that is no user's mistake.
    """
    todo = [job for job in jobs if steps_left(out, job)]
    for training in dict.fromkeys(job.training for job in todo):
        if not isinstance(stores.find(training, place), Missing):
            stores.build_own(training, place)
    engine = ENGINES.load(workers.engine)
    failed: dict[str, dict[str, str]] = {}
    with stage_bar(total=sum(steps_left(out, job) for job in todo), stage="reproduce", unit="step") as bar:
        for stage in stages(todo):
            spec = Spec(jobs=stage, out=out, stores=place, loader_threads=_loader_threads(workers))
            run_part: Callable[..., dict] = run_job
            receipts = engine.run(
                run_part, spec, range(len(stage)), num_workers=workers.number, progress=bar.update, uses_gpu=True
            )
            failed |= {receipt["run"]: receipt["failed"] for receipt in receipts if receipt["failed"]}
    return failed


def run_job(spec: Spec, part: int, rows_done: Callable[[int], None]) -> dict[str, Any]:
    """Train, score and report one run; an engine runs it as a part.

    Returns: run, failed ({"training" or an evaluation's name: why}): a user's mistake in one row is no other row's.
    """
    job = spec.jobs[part]
    failed = dict(_steps(spec, job, rows_done))
    file = _failures_file(spec.out, job.name)
    file.unlink(missing_ok=True)
    if failed:
        file.parent.mkdir(parents=True, exist_ok=True)
        run_folder.write_json(file, failed)
    return {"run": job.name, "failed": failed}


def _steps(spec: Spec, job: Job, rows_done: Callable[[int], None]) -> Iterator[tuple[str, str]]:
    """Do a job's steps; yield those that failed, with the reason."""
    folder = run_folder_of(spec.out, job.name)
    if not is_trained(spec.out, job.name):
        try:
            _train(spec, job, folder)
        except UserError as error:
            warn(f"{job.name} was not trained: {error}")
            yield _TRAINING, str(error)
            return
        rows_done(1)
    for evaluation in job.evaluations:
        file = scores_file(spec.out, job.name, evaluation)
        if file.exists():
            continue
        try:
            _score(folder, evaluation, file)
        except UserError as error:
            yield evaluation_name(evaluation), str(error)
        rows_done(1)
    write_report([folder])


def _train(spec: Spec, job: Job, folder: Path) -> None:
    store = stores.find(job.training, spec.stores)
    if isinstance(store, Missing):
        raise UserError(f"there is no {store.what} ({store.why})")
    start = job.training.start_from
    base = None if start is None else run_folder_of(spec.out, run_name(start, job.seed)).absolute()
    request = job.training.request(seed=job.seed, start_from=base)
    if spec.loader_threads:
        request = replace(request, overrides=(*request.overrides, f"loader_threads={spec.loader_threads}"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    pretrain(request, StoreSource(store=store.absolute()), out=folder, resume=True)
    (folder / SCORES).mkdir(exist_ok=True)
    run_folder.write_json(folder / SCORES / _TRAINED, {"training": job.training.identity()})


def run_differences(out: Path, name: str, training: Training, masks: str) -> list[str]:
    """Return in what a finished run is not one of a paper's row: settings, images, masks, and what its scores are of.

    Args: name: of `jobs.run_name`. training: of the row. masks: whose the store's are, which its name says.
    """
    folder = run_folder_of(out, name)
    found = differences(read_run(folder, masks=masks), training)
    for file in sorted((folder / SCORES).glob("*.json")):
        problems = json.loads(file.read_text()).get("problems", [])
        found += [f"{file.stem}: the data are odd: {problem}" for problem in problems]
    return found


def is_trained(out: Path, name: str) -> bool:
    """Return whether a run has ended. Args: name: of `jobs.run_name`."""
    return (run_folder_of(out, name) / SCORES / _TRAINED).exists()


def missing_data(evaluation: Evaluation) -> str:
    """Return what an evaluation lacks to be computed here, "" where all is there."""
    module = EVALUATIONS.load(evaluation.task)
    try:
        options = chosen_options(module, evaluation.options)
        folder = data_folder(module, _data(evaluation))
        check_needed_beside(module, folder, options)
    except UserError as error:
        return str(error)
    return ""


def _score(folder: Path, evaluation: Evaluation, file: Path) -> None:
    if why := missing_data(evaluation):
        raise UserError(why)
    fit = evaluation.after
    # Another table's fit may have taken its place since: Table A12 has two for each network.
    if fit is not None and fit_differences(folder, fit):
        evaluate_run(fit.task, folder, _data(fit), overrides=fit.options, is_untrained=fit.is_untrained)
    evaluate_run(
        evaluation.task,
        folder,
        _data(evaluation),
        overrides=evaluation.options,
        json_path=file,
        is_untrained=evaluation.is_untrained,
    )


def _data(evaluation: Evaluation) -> str | Path | None:
    """What `evaluate --data` takes: the sample, a scale's own folder, or None = the evaluation's place."""
    if evaluation.data in ("", "sample"):
        return evaluation.data or None
    folder = stores.open_folder(evaluation.data)
    if isinstance(folder, Missing):
        raise UserError(f"there are no {folder.what} ({folder.why})")
    return folder


def _failures_file(out: Path, name: str) -> Path:
    return out / "trainings" / f"{name}.json"


def _loader_threads(workers: Workers) -> int:
    """Threads of each run's loader where several share this machine's cores, 0 = all of them."""
    if workers.engine != "local":
        return 0
    number = workers.number if workers.number is not None else len(visible_gpus()) or num_cores()
    return max(1, num_cores() // max(1, number))
