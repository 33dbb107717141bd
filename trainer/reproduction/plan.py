"""What a reproduction would do, before it does it: trainings, evaluations, hours, bytes, and what is missing where."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backdrop.devices import visible_gpus
from backdrop.trainer.paper_tables.records import Training
from backdrop.trainer.reproduction import stores
from backdrop.trainer.reproduction.costs import NUM_IMAGES, cost_of
from backdrop.trainer.reproduction.execution import is_trained, missing_data, scores_file
from backdrop.trainer.reproduction.jobs import Job
from backdrop.trainer.reproduction.stores import Missing, Stores


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to do. trainings: distinct ones, of which num_runs runs are needed and num_trained are there.

    num_evaluations, num_scored: of runs. hours: of what is not there yet, on `device`. run_bytes: of all runs' folders.
    missing: what is not there, why it is needed, and what to do.
    """

    trainings: tuple[Training, ...]
    num_runs: int
    num_trained: int
    num_evaluations: int
    num_scored: int
    hours: float
    device: str
    run_bytes: int
    missing: tuple[tuple[str, str], ...]


def plan(jobs: Sequence[Job], out: Path, place: Stores) -> Plan:
    """Return what `execute` would do. Args: jobs: of `jobs.jobs`. out: the result's folder. place: where stores are."""
    trainings = tuple(dict.fromkeys(job.training for job in jobs))
    # What the papers trained for weeks is counted in hours of a GPU, whether there is one here or not.
    has_gpu = bool(visible_gpus()) or any(one.data in NUM_IMAGES for one in trainings)
    costs = {one: cost_of(one, stores.num_images(one), has_gpu=has_gpu) for one in trainings}
    evaluations = [(job.name, one) for job in jobs for one in job.evaluations]
    trained = {job.name for job in jobs if is_trained(out, job.name)}
    return Plan(
        trainings=trainings,
        num_runs=len(jobs),
        num_trained=len(trained),
        num_evaluations=len(evaluations),
        num_scored=sum(scores_file(out, name, one).exists() for name, one in evaluations),
        hours=sum(costs[job.training].hours for job in jobs if job.name not in trained),
        device="V100" if has_gpu else "core",
        run_bytes=sum(costs[job.training].run_bytes for job in jobs),
        missing=tuple(_missing(jobs, place)),
    )


def _missing(jobs: Sequence[Job], place: Stores) -> list[tuple[str, str]]:
    found = {}
    for training in dict.fromkeys(job.training for job in jobs):
        store = stores.find(training, place)
        if isinstance(store, Missing):
            found[store.what] = store.why
    for evaluation in dict.fromkeys(one for job in jobs for one in job.evaluations):
        if why := missing_data(evaluation):
            found[f"data of {evaluation.task}"] = why
    return list(found.items())


def plan_text(planned: Plan) -> str:
    """Return a plan as lines of text."""
    lines = [f"{len(planned.trainings)} trainings, {planned.num_runs} runs ({planned.num_trained} are there):"]
    for one in planned.trainings:
        masks = f", masks {one.masks}" if one.masks else ""
        lines.append(f"  {one.digest()[:12]} {_described(one)} on {one.data}{masks}")
    lines += [
        f"{planned.num_evaluations} evaluations ({planned.num_scored} are there)",
        f"about {planned.hours:,.1f} {planned.device}-hours of training, and the evaluations",
        f"about {planned.run_bytes / 1e9:,.1f} GB of runs",
    ]
    lines += [f"missing: {what}: {why}" for what, why in planned.missing]
    return "\n".join(lines)


def _described(training: Training) -> str:
    words = [f"{training.method} {training.background}", f"{training.resolved().epochs} epochs", *training.settings]
    return ", ".join(words)
