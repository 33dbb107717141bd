"""Linear classification of Places-205 on frozen features: Ryali et al. 2021, A.9, Tables 18 and A26.

SGD with momentum, 28 epochs, rate 1.0 for 256 images, 256 a step, a tenth of it from epochs 7, 14 and 21, weight decay
1e-4. Transforms are ImageNet's, as in FAIR's VISSL; BatchNorm is not spoken of and stays as it was trained.
"""

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np

from backdrop.errors import UserError
from backdrop.settings import SEEDS, at_least, check_settings, one_of
from backdrop.stores.indexes.kept_trees import files_below
from backdrop.trainer.downstream_settings import LinearProtocol, Schedule
from backdrop.trainer.evaluation import linear
from backdrop.trainer.evaluation.data.imagenet import Splits
from backdrop.trainer.evaluation.data.images import IMAGE_SUFFIXES, Images
from backdrop.trainer.evaluation.harness.defaults import no_facts, no_problems, nothing_beside
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject, pretrained_backbone
from backdrop.trainer.evaluation.linear import TRAININGS
from backdrop.trainer.evaluation.probing.features import FORMATS
from backdrop.trainer.evaluation.probing.frozen_backbone import BN_MODES, fit_head

DATA = "places205"
LAYOUT = (
    "ROOT/trainvalsplit_places205/{train,val}_places205.csv (lines: a/abbey/gsun_x.jpg 0) with the images below "
    "ROOT/data/vision/torralba/deeplearning/images256; or ROOT/train/<class>/*.jpg and ROOT/val/<class>/*.jpg"
)
SOURCE = "http://places.csail.mit.edu (Places205)"
TAKES_DAYS = False
needed_beside = nothing_beside
facts_of_data = no_facts
problems_of_data = no_problems
NUM_CLASSES, NUM_TRAIN, NUM_VAL = 205, 2_448_873, 20_500
_LISTS = "trainvalsplit_places205"
_IMAGES = "data/vision/torralba/deeplearning/images256"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen; the defaults are the paper's where it states them."""

    epochs: Annotated[int, at_least(1), "Passes over the images"] = 28
    batch_size: Annotated[int, at_least(1), "Images a step"] = 256
    lr: Annotated[float, at_least(0), "Rate for 256 images a step"] = 1.0
    weight_decay: Annotated[float, at_least(0), "L2 penalty of the classifier's weights"] = 1e-4
    step_epochs: Annotated[tuple[int, ...], at_least(0), "Epochs at which the rate falls"] = (7, 14, 21)
    step_fractions: Annotated[
        tuple[float, ...],
        at_least(0),
        "To what fraction of its peak the rate falls each time",
    ] = (0.1, 0.01, 0.001)
    bn_mode: Annotated[
        str,
        one_of(BN_MODES),
        "Adapt: BatchNorm normalises by the batch, its statistics follow; eval: as they were trained (not stated)",
    ] = "eval"
    images_per_pass: Annotated[
        int,
        at_least(2),
        "Images of a forward pass; with bn_mode adapt, those normalised together",
    ] = 64
    training: Annotated[str, one_of(TRAININGS), "How training images are cut, as in `linear`"] = "crops"
    num_cached_crops: Annotated[
        int,
        at_least(1),
        "Crops of each image whose features are kept, with training=cached_crops",
    ] = 4
    dtype: Annotated[str, one_of(FORMATS), "Format of features that are kept"] = "float16"
    score_epochs: Annotated[
        int,
        at_least(1),
        "The validation images are scored after every so many epochs, and after the last",
    ] = 1
    seed: Annotated[int, SEEDS, "Of the classifier's weights, the order and the crops"] = 0


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Fit a classifier and score it: top1, top5, best_top1, best_top5."""
    check_settings(options)
    result = Result()
    splits = open_places(data, result)
    stated = {field.name for field in fields(Schedule)}
    settings = {name: value for name, value in asdict(options).items() if name in stated}
    protocol = LinearProtocol(schedule=Schedule(**settings), bn_mode=options.bn_mode)
    training = linear.Options(
        training=options.training,
        num_cached_crops=options.num_cached_crops,
        images_per_pass=options.images_per_pass,
        dtype=options.dtype,
        seed=options.seed,
    )
    linear.check_training(training)
    probing = linear.probing_of(subject, pretrained_backbone(subject), splits, protocol, training, name="places205")
    fitted = fit_head(probing, protocol.schedule, seed=options.seed, score_epochs=options.score_epochs)
    for prefix, scores in {"": fitted.last, "best_": fitted.best}.items():
        result.metrics |= {f"{prefix}top{num}": scores[f"top{num}"] for num in (1, 5)}
    result.facts |= linear.facts_of(subject, protocol, probing, training) | {"schedule": asdict(protocol.schedule)}
    result.note_corrupt(sorted(fitted.corrupt))
    return result


def open_places(data: Path, result: Result) -> Splits:
    """List the images in either layout. Raises: UserError: it is neither."""
    lists = data / _LISTS if (data / _LISTS).is_dir() else data
    if (lists / "train_places205.csv").is_file():
        train, val = (_listed(lists / f"{split}_places205.csv", data / _IMAGES) for split in ("train", "val"))
        result.facts["release"] = "lists"
        num_classes = NUM_CLASSES
    else:
        trees = {split: _tree(data / split) for split in ("train", "val")}
        names = sorted(set(trees["train"].classes))
        unknown = sorted(set(trees["val"].classes) - set(names))
        if unknown:
            raise UserError(f"{data / 'val'} has classes that {data / 'train'} does not have: {', '.join(unknown[:5])}")
        rank = {name: number for number, name in enumerate(names)}
        train, val = (trees[split].labelled(rank) for split in ("train", "val"))
        result.facts["release"] = "folders"
        num_classes = len(names)
    result.expect("train images", len(train), NUM_TRAIN)
    result.expect("val images", len(val), NUM_VAL)
    result.expect("classes", len(np.unique(train.label_N)), NUM_CLASSES)
    return Splits(train=train, val=val, num_classes=num_classes, is_imagenet=False)


def _listed(path: Path, images: Path) -> Images:
    """Read a list: a path below `images`, a space, a class. Raises: UserError: it has lines of another kind."""
    if not path.is_file() or not images.is_dir():
        raise UserError(f"there is no {path if not path.is_file() else images}. Expected: {LAYOUT}")
    # The path may hold spaces: the class is what follows the last one.
    rows = [line.rpartition(" ") for line in path.read_text().splitlines() if line.strip()]
    for number, (key, _, label) in enumerate(rows, start=1):
        parts = PurePosixPath(key).parts
        if not (label.isdecimal() and int(label) < NUM_CLASSES) or not parts or ".." in parts or key.startswith("/"):
            raise UserError(f"{path}, line {number}: expected 'a/abbey/gsun_x.jpg 0', classes 0 .. {NUM_CLASSES - 1}")
    if not rows:
        raise UserError(f"{path} is empty. Expected: {LAYOUT}")
    label_N = np.array([int(label) for _, _, label in rows], dtype=np.int64)
    # A listed image that is not there is one that cannot be decoded.
    sizes = dict(files_below(images).files())
    sizes_bytes = np.array([sizes.get(key, -1) for key, _, _ in rows], dtype=np.int64)
    return Images(images, tuple(key for key, _, _ in rows), label_N, sizes_bytes=sizes_bytes)


@dataclass(frozen=True, kw_only=True)
class _Tree:
    """The images of class folders: keys below root, and of each the class folder's path and the file's size."""

    root: Path
    keys: tuple[str, ...]
    classes: list[str]
    sizes_bytes: np.ndarray

    def labelled(self, rank: dict[str, int]) -> Images:
        """The images. Args: rank: class of each folder."""
        label_N = np.array([rank[name] for name in self.classes], dtype=np.int64)
        return Images(self.root, self.keys, label_N, sizes_bytes=self.sizes_bytes)


def _tree(folder: Path) -> _Tree:
    """List a folder of class folders, also within one another (a/airport_terminal).

    Raises: UserError: it is not there, or holds no image in a class folder.
    """
    found = []
    for key, size_bytes in files_below(folder).files() if folder.is_dir() else ():
        place, _, name = key.rpartition("/")
        if place and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
            found.append((place.split("/"), name, size_bytes))
    if not found:
        raise UserError(f"{folder} holds no image in a class folder. Expected: {LAYOUT}. From: {SOURCE}")
    found.sort()
    classes = ["/".join(place) for place, _, _ in found]
    return _Tree(
        root=folder,
        keys=tuple(f"{of_key}/{name}" for of_key, (_, name, _) in zip(classes, found, strict=True)),
        classes=classes,
        sizes_bytes=np.array([size_bytes for _, _, size_bytes in found], dtype=np.int64),
    )
