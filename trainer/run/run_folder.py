"""A run's folder: all that is needed to read, repeat or continue the run.

settings.json   every setting          run.json       commit, versions, store, machine, what losses to expect
metrics.jsonl   see metrics_log.py     tensorboard/   the same as curves, every log_steps
checkpoints/    see checkpoint.py      results.csv    scores, one row per metric, added by the evaluations
history.jsonl   see run_history.py
"""

import csv
import importlib.metadata
import io
import json
import platform
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import shorten
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from backdrop.bounded_files import MAX_JSON_BYTES, read_bounded, read_json_object
from backdrop.durable_files import PARTIAL, write_aside
from backdrop.errors import UserError
from backdrop.progress import warn
from backdrop.stores.format.provenance import commit
from backdrop.trainer.run.expected_curve import expected_curve
from backdrop.trainer.run.foreign_members import check_members, members_used
from backdrop.trainer.run.trained_store import TrainedStore
from backdrop.trainer.settings import RunSettings, differences, from_json, to_json

# Of a setting that differs: the rows that a run leaves out may be thousands.
_LINE_WIDTH = 300
RESULT_COLUMNS = ("metric", "value", "evaluation", "recipe", "seed", "commit", "store_id", "facts")


@dataclass(frozen=True, kw_only=True)
class StartWeights:
    """A backbone's values before the first step.

    tensors: by the names of the run's own backbone. record: for run.json: file, sha256 of the values, what was
    recognised, how many tensors of the file were left. said: the same as a line for the user.
    """

    tensors: dict[str, Tensor]
    record: dict[str, Any]
    said: str


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a run comes from; kept in run.json."""

    # Name of the recipe that the settings come from.
    recipe: str
    # Name of the data set whose classes the labels are; "" = not known.
    dataset: str = ""
    # File that the batches come from, so that a page about the run can show them; "" = from memory.
    beton: str = ""
    # Where the store is published that the file was made of; "" = it was made of a store on this machine.
    store_url: str = ""
    # Command line that starts the same run; "" = it was not started by one.
    command: str = ""
    # Which images and masks it is trained on; None = batches from memory.
    store: TrainedStore | None = None
    # What the backbone begins with; None = random weights, or a run that goes on.
    start_weights: StartWeights | None = None


def open_folder(folder: Path, settings: RunSettings, *, origin: Origin, store_id: str, resume: bool) -> None:
    """Create a run's folder, or check that this run may go on in it.

    Args: origin: for the records. store_id: identity of the store trained on. resume: whether the user asked to
        continue.
    Raises: UserError: the folder is in use and resume is false; it is no run; settings or store differ.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {path.name for path in folder.iterdir()}
    if found and not resume:
        raise UserError(f"{folder} is not empty; go on with the run in it (resume=True), or name another folder")
    # settings.json is written last: without it, a kill left no more than the beginnings of a folder.
    if {name for name in found if not name.endswith(PARTIAL)} <= {"run.json"}:
        write_json(folder / "run.json", _provenance(origin, store_id, settings))
    elif "settings.json" not in found:
        raise UserError(f"{folder} is not empty and holds no run: it has no settings.json. Name another --out")
    else:
        _check_same_run(folder, settings, store_id)
    write_json(folder / "settings.json", to_json(settings))


def _check_same_run(folder: Path, settings: RunSettings, store_id: str) -> None:
    _check_members(folder, must_be_same=True)
    changed = [line for line in differences(read_settings(folder), settings) if not line.startswith(_MAY_CHANGE)]
    old_epochs = read_settings(folder).epochs
    if settings.epochs < old_epochs:
        changed.append(f"epochs: {old_epochs} -> {settings.epochs} (it may only grow)")
    if changed:
        raise UserError(
            f"the run in {folder} has other settings; give the same ones to go on with it, or name another --out. "
            f"Different: {'; '.join(shorten(line, _LINE_WIDTH) for line in changed)}"
        )
    old_store = read_run(folder)["store_id"]
    if old_store != store_id:
        raise UserError(
            f"the run in {folder} was trained on store {old_store}, this is store {store_id}; resume with the same "
            "store, or name another --out"
        )
    if settings.epochs > old_epochs:
        warn(
            f"epochs: {old_epochs} -> {settings.epochs}. The learning rate, and what else follows the run's length, "
            f"follows the new one from here on: this is not the run that epochs={settings.epochs} from the start gives"
        )


# What may be another for --resume: what is about speed and what is written changes no step. The length may grow, with
# which the steps that are left follow another schedule.
_MAY_CHANGE = (
    "epochs:",
    "checkpoint_steps:",
    "keep_checkpoints:",
    "keep_every_epochs:",
    "log_steps:",
    "log:",
    "loader_threads:",
    "processes_may_change:",
    "probe.",
)


def read_settings(folder: Path) -> RunSettings:
    """Return a run's settings. Raises: UserError: the folder holds no run, or a plug-in of it is not at hand."""
    _check_members(folder, must_be_same=False)
    content = _read_json(folder, "settings.json")
    try:
        return from_json(content)
    except UserError as error:
        raise UserError(f"{folder / 'settings.json'}: {error}") from error


def _check_members(folder: Path, *, must_be_same: bool) -> None:
    """Look for the run's plug-ins, before its settings are read: their names mean nothing without."""
    if (folder / "run.json").exists():
        check_members(folder, read_run(folder), must_be_same=must_be_same)


def read_run(folder: Path) -> dict[str, Any]:
    """Return a run's run.json: recipe, seed, store_id, commit, versions. Raises: UserError: there is none."""
    run = _read_json(folder, "run.json")
    for name, kind in _KINDS_OF_RUN.items():
        if not isinstance(run.get(name), kind):
            raise UserError(
                f"{folder / 'run.json'} is damaged: its {name} is {run.get(name, 'not there')!r:.80}; put it back as "
                "pretrain wrote it"
            )
    began = run.get("start_weights")
    if began and not all(isinstance(began.get(name), str) for name in ("file", "sha256")):
        raise UserError(f"{folder / 'run.json'} is damaged: its start_weights name no file; put it back as it was")
    return run


# What a page, a score or a run that goes on takes from run.json.
_KINDS_OF_RUN: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("recipe", "store_id", "commit"), str),
    "seed": int,
    **dict.fromkeys(("dataset", "beton", "store_url", "command", "expected"), (str, NoneType)),
    **dict.fromkeys(("store", "start_weights"), (dict, NoneType)),
    "plugins": (list, NoneType),
}


def read_store(folder: Path) -> TrainedStore | None:
    """Return what a run says of the store it was trained on; None where it does not."""
    kept = read_run(folder).get("store")
    try:
        return None if kept is None else TrainedStore(**kept)
    except TypeError as error:
        raise UserError(
            f"{folder / 'run.json'} is damaged: its store is {kept!r:.80}; put it back as it was"
        ) from error


def read_results(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a run's results.csv, of RESULT_COLUMNS, the values numbers; [] where it is not scored.

    Raises: UserError: the file is damaged.
    """
    path = folder / "results.csv"
    if not path.exists():
        return []
    next_step = "it was changed by hand or damaged: remove it and evaluate anew"
    try:
        rows = list(csv.DictReader(read_bounded(path, MAX_JSON_BYTES).decode().splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}); {next_step}") from error
    for row in rows:
        # An evaluation is also the name of a file in the folder.
        is_sound = re.fullmatch(r"[\w-]+", row.get("evaluation") or "") and row.get("metric") and _is_number(row)
        if not is_sound or None in row:
            raise UserError(f"{path} holds no score in the line {','.join(map(str, row.values()))!r:.80}; {next_step}")
    return rows


def _is_number(row: dict[str, str]) -> bool:
    try:
        float(row["value"])
    except (KeyError, TypeError, ValueError):
        return False
    return True


def add_results(
    folder: Path, evaluation: str, scores: Iterable[tuple[str, float]], facts: dict[str, Any] | None = None
) -> None:
    """Append scores to results.csv; earlier rows of the same evaluation are replaced.

    Args: evaluation: its name. scores: (metric, value). facts: what else decided them, kept as JSON in each row.
    """
    run, path = read_run(folder), folder / "results.csv"
    rows: list[dict[str, Any]] = [row for row in read_results(folder) if row["evaluation"] != evaluation]
    same = {name: run[name] for name in ("recipe", "seed", "commit", "store_id")}
    same["facts"] = json.dumps(facts or {}, sort_keys=True)
    rows += [{"metric": metric, "value": value, "evaluation": evaluation} | same for metric, value in scores]
    text = io.StringIO()
    writer = csv.DictWriter(text, RESULT_COLUMNS, restval="{}", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_aside(path, text.getvalue())


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_aside(path, json.dumps(data, indent=2) + "\n")


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.exists():
        raise UserError(f"{folder} is no run of pretrain: it has no {name}")
    return read_json_object(path, "it was changed by hand or damaged")


def _provenance(origin: Origin, store_id: str, settings: RunSettings) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "numpy", "numba")}
    return {
        **asdict(replace(origin, start_weights=None)),
        "start_weights": origin.start_weights and origin.start_weights.record,
        "seed": settings.seed,
        "store_id": store_id,
        "commit": commit(),
        "python": platform.python_version(),
        "versions": versions,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        # Sums are grouped by thread on a CPU: the same number gives the same bits.
        "num_threads": torch.get_num_threads(),
        "plugins": members_used(settings, origin.recipe),
        "expected": expected_curve(settings),
    }
