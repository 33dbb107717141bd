"""The stores that trainings read: where each lies, what is missing, and those that a scale builds by itself."""

from dataclasses import dataclass
from pathlib import Path

from backdrop.data_folders import ROOT_VARIABLE, data_folder
from backdrop.errors import UserError, program
from backdrop.pipeline.beton.writer import export_beton
from backdrop.pipeline.build.masks_and_backgrounds import BuildSettings, build_store
from backdrop.progress import note
from backdrop.stores.datasets import DATASETS, dataset_folder, open_index
from backdrop.stores.drawn_sample.first_use import draw_at_first_use
from backdrop.stores.drawn_sample.sample_dataset import SampleSettings
from backdrop.stores.format.reader import open_store
from backdrop.stores.indexes.dataset_index import DatasetIndex
from backdrop.trainer.paper_tables.records import Training

# Masks that a store can be made of here and now; those of the papers are found by detectors that train for hours.
MADE_HERE = ("true", "rbd")
_TRUE_THRESHOLD = 0.5


@dataclass(frozen=True, kw_only=True)
class Stores:
    """Where stores are looked for. given: the user's. own: those that are built here."""

    given: Path
    own: Path


@dataclass(frozen=True)
class Missing:
    """Something that is not there: what, and what to do."""

    what: str
    why: str


def find(training: Training, stores: Stores) -> Path | Missing:
    """Return the store that a training reads, or what is missing; one that is built by itself may not be there yet.

    Args: training: at its scale; one that uses no masks takes any store of its images.
    """
    if _is_made_here(training):
        place = open_folder(training.data)
        return place if isinstance(place, Missing) else _own(training, stores)
    there = sorted(stores.given.glob(f"{training.data}-train*.zarr"))
    named = stores.given / f"{training.data}-train-{training.masks}.zarr"
    if not training.masks and there:
        return there[0]
    if training.masks and named in there:
        return named
    threshold = "" if training.threshold is None else f" --threshold {training.threshold:g}"
    command = f"build-store --dataset {training.data} --detector DETECTOR{threshold} --out {named}"
    if not training.masks:
        named, command = stores.given / f"{training.data}-train.zarr", f"build-store --dataset {training.data}"
    words = f"masks of {training.masks}" if training.masks else "any masks: they are not used"
    return Missing(f"store {named}", f"{words}; make it: {program()} {command}")


def build_own(training: Training, stores: Stores) -> None:
    """Build the store of a training that a scale builds by itself, with its .beton, unless it is there."""
    if not _is_made_here(training):
        return
    store = _own(training, stores)
    if store.with_suffix(".beton").exists():
        return
    store.parent.mkdir(parents=True, exist_ok=True)
    draw_at_first_use(training.data, None)
    index = _index(training.data)
    masks = store.stem.rpartition("-")[2]
    detector = f"masks:{dataset_folder('sample', None) / 'masks' / 'train'}" if masks == "true" else masks
    note(f"store: {store}")
    threshold = _TRUE_THRESHOLD if masks == "true" else training.threshold
    build_store(index, detector, store, BuildSettings(threshold=threshold), num_workers=None)
    export_beton(open_store(store), index, store.with_suffix(".beton"))


def num_images(training: Training) -> int | None:
    """Return how many images a training passes over, None where they are not there to be counted."""
    folder = open_folder(training.data) if _is_made_here(training) else None
    if not isinstance(folder, Path):
        return None
    if not folder.exists():
        return SampleSettings().num_train
    return len(_index(training.data))


def open_folder(data: str) -> Path | Missing:
    """Return the folder of a scale's images, or what is missing. Args: data: sample, or a folder of BACKDROP_DATA."""
    if data == "sample":  # drawn when its store is built
        return dataset_folder("sample", None)
    folder = data_folder(data)
    if folder is None or not (folder / "train").is_dir() or not (folder / "val").is_dir():
        where = folder or f"{ROOT_VARIABLE}/{data}"
        return Missing(
            f"photographs {where}",
            f"a folder with train/<class>/*.JPEG and val/<class>/*.JPEG below the one that {ROOT_VARIABLE} names",
        )
    return folder


def _is_made_here(training: Training) -> bool:
    return training.data == "sample" or training.data not in DATASETS.built_in()


def _own(training: Training, stores: Stores) -> Path:
    masks = training.masks or ("true" if training.data == "sample" else "rbd")
    if masks not in MADE_HERE:
        raise UserError(f"no store of {masks}'s masks is made here; a scale may have those of {', '.join(MADE_HERE)}")
    return stores.own / f"{training.data}-train-{masks}.zarr"


def _index(data: str) -> DatasetIndex:
    if data == "sample":
        return open_index("sample", root=None, split="train")
    folder = open_folder(data)
    assert isinstance(folder, Path)
    return open_index("folder", root=folder / "train", split="train")
