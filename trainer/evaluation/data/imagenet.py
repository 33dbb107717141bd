"""ImageNet's training and validation images in the layouts they come in, with the classes of the 1,000 WordNet ids.

Class folders; validation images in one folder with the devkit's ground truth, whose ids are not in the order of the
WordNet ids; and Kaggle's. Any other folder of class folders serves as well, with the classes that are there.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from backdrop.errors import UserError
from backdrop.progress import note, warn
from backdrop.stores.indexes.imagenet_classes import CLASS_OF_WNID, WNIDS
from backdrop.stores.indexes.kept_trees import files_below
from backdrop.trainer.evaluation.data.images import (
    IMAGE_SUFFIXES,
    Images,
    images_of_index,
    labels_as,
    open_split,
    strays_beside,
    wnid_folders,
)
from backdrop.trainer.evaluation.harness.result import Result

LAYOUT = (
    "ROOT/train/<wnid>/*.JPEG and ROOT/val/<wnid>/*.JPEG; or val/*.JPEG with ILSVRC2012_validation_ground_truth.txt "
    "and meta.mat in ROOT; or Kaggle's ROOT/ILSVRC/Data/CLS-LOC/{train,val} with ROOT/LOC_val_solution.csv; or the "
    "same folders of other classes in train and val"
)
SOURCE = "https://www.image-net.org (ILSVRC2012)"
NUM_TRAIN, NUM_VAL, NUM_CLASSES = 1_281_167, 50_000, len(CLASS_OF_WNID)
_KAGGLE = Path("ILSVRC/Data/CLS-LOC")
_GROUND_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"


@dataclass(frozen=True, kw_only=True)
class Splits:
    """train and val; num_classes: C; is_imagenet: whether classes are those of the 1,000 ids."""

    train: Images
    val: Images
    num_classes: int
    is_imagenet: bool


def open_splits(data: Path, result: Result) -> Splits:
    """List the images for training and for validation.

    Args: data: the data set's folder, or "sample". result: what is odd about the data is noted there.
    Raises: UserError: neither of the layouts.
    """
    root = data / _KAGGLE if (data / _KAGGLE).is_dir() else data
    if str(data) != "sample" and not (root / "train").is_dir():
        raise UserError(f"there is no folder {root / 'train'}. Expected: {LAYOUT}")
    if _is_other(data, root):
        return _other_classes(data, result)
    train, val = wnid_split(root / "train", result), _validation(data, root / "val", result)
    result.facts["release"] = release_of(data, is_imagenet=True)
    result.expect("train images", len(train), NUM_TRAIN)
    result.expect("val images", len(val), NUM_VAL)
    return Splits(train=train, val=val, num_classes=NUM_CLASSES, is_imagenet=True)


def open_scored(data: Path, result: Result) -> tuple[Images, int, bool]:
    """List the validation images alone, of ImageNet's classes or of others.

    Returns: images, the number of their classes, whether these are those of the 1,000 ids. Raises: UserError.
    """
    root = data / _KAGGLE if (data / _KAGGLE).is_dir() else data
    if _is_other(data, root) and (str(data) == "sample" or (root / "train").is_dir()):
        splits = _other_classes(data, result)
        return splits.val, splits.num_classes, False
    images = open_validation(data, result)
    result.facts["release"] = release_of(data, is_imagenet=True)
    result.expect("val images", len(images), NUM_VAL)
    return images, NUM_CLASSES, True


def _is_other(data: Path, root: Path) -> bool:
    """Whether the training images are of other classes than ImageNet's."""
    return str(data) == "sample" or not any((root / "train" / wnid).is_dir() for wnid in CLASS_OF_WNID)


def release_of(data: Path, *, is_imagenet: bool) -> str:
    """Return what a row calls the images. Args: is_imagenet: whether their classes are those of the 1,000 ids."""
    if is_imagenet:
        return "ILSVRC2012"
    return "sample" if str(data) == "sample" else "class folders of the user's own"


def open_validation(data: Path, result: Result) -> Images:
    """List the validation images alone, in any layout; labels are ranks of WordNet ids. Raises: UserError."""
    root = data / _KAGGLE if (data / _KAGGLE).is_dir() else data
    return _validation(data, root / "val", result)


def wnid_split(folder: Path, result: Result) -> Images:
    """List a folder of class folders named by WordNet ids; what is missing or strange is noted as a problem."""
    images = wnid_folders(folder, LAYOUT)
    result.note_strays([f"{folder.name}/{name}" for name in images.strays])
    result.expect_classes(images.label_N, range(NUM_CLASSES), WNIDS)
    return replace(images, strays=())


def note_other_classes(class_names: Sequence[str]) -> None:
    """Say that class folders are not, or not all, ImageNet's: a score of other classes compares with no paper's.

    Args: class_names: of the folders, in the order of the classes.
    """
    strange = [name for name in class_names if name not in CLASS_OF_WNID]
    named = ", ".join(strange[:3]) + (", ..." if len(strange) > 3 else "")
    num = len(class_names)
    if len(strange) == num:
        note(f"classes: those of the {num} folders, which are not ImageNet's ({named}); the score is of them alone")
    else:
        warn(
            f"warning: {len(strange)} of {num} class folders are not named as ImageNet's are ({named}): this is no "
            "score of ImageNet. Are they misspelt, or of another data set?"
        )


def _other_classes(data: Path, result: Result) -> Splits:
    train, val = open_split(data, "train"), open_split(data, "val")
    names = train.class_names
    result.facts["release"] = release_of(data, is_imagenet=False)
    note_other_classes(names)
    for split, index in (("train", train), ("val", val)):
        result.note_strays([f"{split}/{name}" for name in strays_beside(index)])
        result.facts[f"{split} images"] = {"seen": len(index)}
    train_split, val_split = (images_of_index(index, labels_as(index, names)) for index in (train, val))
    return Splits(train=train_split, val=val_split, num_classes=len(names), is_imagenet=False)


def _validation(data: Path, folder: Path, result: Result) -> Images:
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}. Expected: {LAYOUT}")
    sizes = {name: size for name, size in files_below(folder).files() if "/" not in name and size >= 0}
    flat = sorted(name for name in sizes if Path(name).suffix.lower() in IMAGE_SUFFIXES)
    if not flat:
        return wnid_split(folder, result)
    if (data / "LOC_val_solution.csv").is_file():
        class_of_name = _kaggle_classes(data / "LOC_val_solution.csv")
    else:
        class_of_name = _devkit_classes(data)
    unknown = [name for name in flat if Path(name).stem not in class_of_name]
    if unknown:
        result.problems.append(f"val: {len(unknown)} images have no class, e.g. {unknown[0]}: left out")
    known = [name for name in flat if Path(name).stem in class_of_name]
    if not known:
        raise UserError(f"none of the images of {folder} has a class, e.g. {flat[0]}. Expected: {LAYOUT}")
    labels = np.array([class_of_name[Path(name).stem] for name in known], dtype=np.int64)
    return Images(folder, tuple(known), labels, sizes_bytes=np.array([sizes[name] for name in known], dtype=np.int64))


def _kaggle_classes(path: Path) -> dict[str, int]:
    """Read `ImageId,PredictionString` rows; the string begins with the WordNet id."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return {row["ImageId"]: CLASS_OF_WNID[row["PredictionString"].split()[0]] for row in rows}
    except (KeyError, IndexError, AttributeError) as error:
        raise UserError(f"{path} is not Kaggle's LOC_val_solution.csv: {error!r}") from error


def _devkit_classes(data: Path) -> dict[str, int]:
    """Read the devkit's ids, line i for image i + 1, and turn them into ranks of WordNet ids."""
    from scipy.io import loadmat  # takes as long to import as all else here, and few need it

    folders = (data, data / "ILSVRC2012_devkit_t12" / "data", data / "val")
    truth, meta = (_found(folders, name) for name in (_GROUND_TRUTH, _META))
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        class_of_id = {
            int(identity): CLASS_OF_WNID[str(wnid)]
            for identity, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
            if str(wnid) in CLASS_OF_WNID
        }
        classes = [class_of_id[int(line)] for line in truth.read_text().split()]
    except (KeyError, ValueError, NotImplementedError) as error:
        raise UserError(f"{truth} and {meta} are not the devkit's: {error!r}") from error
    return {f"ILSVRC2012_val_{number:08d}": label for number, label in enumerate(classes, start=1)}


def _found(folders: Sequence[Path], name: str) -> Path:
    path = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"there is no {name} in {folders[0]}, and the images of val/ lie in no class folders. {LAYOUT}")
    return path
