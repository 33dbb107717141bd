"""Which rows of a paper a finished run is, and of the others in what it is not: item by item.

A row is a run's where all that decides its network is the row's: every counting setting, the images and their number,
whose masks and where they are cut, and the network that it started from. Nothing is told by a recipe's name.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from backdrop.pipeline.beton.reader import side_px_of
from backdrop.trainer.paper_tables.counting_settings import counting
from backdrop.trainer.paper_tables.records import Row, Table, Training
from backdrop.trainer.paper_tables.tables import tables
from backdrop.trainer.run import checkpoint, run_folder
from backdrop.trainer.run.trained_store import TrainedStore
from backdrop.trainer.settings import RunSettings

# Images of the papers' training sets.
NUM_IMAGES = {"imagenet": 1_281_167, "coco": 118_287}
# Whose masks a detector's name in a store's identity may stand for. DeepUSPS2 is DeepUSPS's training from another
# backbone, which the name does not tell.
_DETECTORS = {"deepusps": ("deepusps", "deepusps2")}
_FOLDER = "masks"


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """What a run's folder says of its network.

    settings: all of them. store: that it was trained on, None where the folder does not say. masks: whose masks those
    of a folder are, as the user says ("" = not said), in the words of numbers.csv. is_finished: whether it came to its
    end. start_from: the run it started from; start_weights: name of the file of weights; neither = random weights.
    """

    settings: RunSettings
    store: TrainedStore | None
    masks: str = ""
    is_finished: bool = True
    start_from: "TrainedRun | None" = None
    start_weights: str = ""

    @cached_property
    def counting(self) -> dict[str, Any]:
        """The settings that decide its network, by path."""
        return counting(self.settings)


def read_run(folder: Path, *, masks: str = "") -> TrainedRun:
    """Return what a run's folder says.

    Args: masks: whose masks a store from a folder has, in the words of numbers.csv; "" = not known.
    Raises: UserError: the folder holds no run, or the run that it starts from is not there.
    """
    settings = run_folder.read_settings(folder)
    start = getattr(settings.algorithm, "start_from", "")
    return TrainedRun(
        settings=settings,
        store=run_folder.read_store(folder),
        masks=masks,
        is_finished=checkpoint.is_finished(folder, settings.epochs),
        start_from=read_run(Path(start), masks=masks) if start else None,
        start_weights=(run_folder.read_run(folder).get("start_weights") or {}).get("file", ""),
    )


def differences(run: TrainedRun, training: Training) -> list[str]:
    """Return in what a run is not one of a row's, a few words each, the images first; [] where it is."""
    found = list(_of_store(run, training))
    found += [
        f"{path} is {_shown(ours)}, the row's {_shown(papers)}" for path, ours, papers in _of_settings(run, training)
    ]
    if not run.is_finished:
        found.append("it has not come to its end")
    if run.start_weights:
        found.append(f"it starts from the weights of {run.start_weights}")
    if training.start_from is None or run.start_from is None:
        if training.start_from is not run.start_from:
            found.append("it starts from another run" if run.start_from else "it starts from random weights")
        return found
    return found + [f"the run it starts from: {line}" for line in differences(run.start_from, training.start_from)]


def rows_of(paper: str, run: TrainedRun) -> list[tuple[Table, Row]]:
    """Return the rows of a paper that a run is, in the paper's order; rows of one training are all there."""
    found = [
        where
        for training, where in _places(paper).items()
        # Most differ in their settings, which is soon told.
        if run.counting == training.counting() and not differences(run, training)
    ]
    return [place for where in found for place in where]


def compared(paper: str, run: TrainedRun) -> dict[Training, list[str]]:
    """Return every training of a paper with what a run differs from it in, see `differences`."""
    return {training: differences(run, training) for training in _places(paper)}


def nearest(found: Mapping[Training, list[str]], trainings: Iterable[Training]) -> Training | None:
    """Return the training that differs in the least; None where there are none. Args: found: of `compared`."""
    return min(trainings, key=lambda training: len(found[training]), default=None)


@cache
def _places(paper: str) -> dict[Training, tuple[tuple[Table, Row], ...]]:
    """Where each training's rows stand."""
    found: dict[Training, tuple[tuple[Table, Row], ...]] = {}
    for table in tables(paper):
        for row in table.rows:
            if row.training is not None:
                found[row.training] = (*found.get(row.training, ()), (table, row))
    return found


def _of_settings(run: TrainedRun, training: Training) -> Iterator[tuple[str, Any, Any]]:
    ours, papers = run.counting, training.counting()
    for path in sorted(ours.keys() | papers.keys()):
        if ours.get(path) != papers.get(path):
            yield path, ours.get(path), papers.get(path)


def _of_store(run: TrainedRun, training: Training) -> Iterator[str]:
    store = run.store
    if store is None:
        yield f"the run does not say what it was trained on, the row's is {training.data}"
        return
    if store.dataset != training.data:
        yield f"it was trained on {store.dataset}, the row's is {training.data}"
        return
    if store.num_rows != (wanted := NUM_IMAGES.get(training.data, store.num_rows)):
        yield f"it was trained on {store.num_rows:,} images, {training.data} has {wanted:,}"
    if store.max_side_px != (side_px := side_px_of(training.data)):
        yield f"images of up to {store.max_side_px} px, the row's up to {side_px}"
    if training.masks:
        yield from _of_masks(run, store, training)


def _of_masks(run: TrainedRun, store: TrainedStore, training: Training) -> Iterator[str]:
    if store.detector is None:
        yield f"whose masks it was trained with is not known, the row's are {training.masks}'s"
        return
    if store.detector == _FOLDER and not run.masks:
        yield f"masks from a folder, of which nobody said whose they are; the row's are {training.masks}'s"
    elif store.detector == _FOLDER and run.masks != training.masks:
        yield f"masks of {run.masks}, the row's are {training.masks}'s"
    elif store.detector != _FOLDER and training.masks not in _DETECTORS.get(store.detector, ()):
        yield f"masks of {store.detector}, the row's are {training.masks}'s"
    if store.threshold != training.threshold:
        yield f"masks cut at {store.threshold}, the row's at {training.threshold}"


def _shown(value: Any) -> str:
    return "not there" if value is None else str(value)
