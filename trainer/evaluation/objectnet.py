"""ObjectNet: household objects from odd sides and in odd places (Barbu et al. 2019).

Ryali et al. 2021, Tables 13 and A21. 113 of its 313 classes are classes of ImageNet, nine of them several. Three ways
of counting are about, and their numbers differ by ten points:

    strict      the best of all 1,000 classes is the first of the object's classes (Ryali et al.; torchprune)
    any         it is one of the object's classes
    restricted  of the 113 objects, each with the largest logit of its classes, the best is right (wise-ft, testbed)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from backdrop.errors import UserError
from backdrop.settings import at_least, check_settings
from backdrop.stores.indexes.imagenet_classes import CLASS_OF_WNID
from backdrop.trainer.evaluation.data.images import class_folders
from backdrop.trainer.evaluation.data.projections import largest_of_groups, multi_label_accuracy, top_accuracy
from backdrop.trainer.evaluation.data.transforms import framed
from backdrop.trainer.evaluation.harness.defaults import no_facts, no_problems, nothing_beside
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject
from backdrop.trainer.evaluation.predictions.outputs import logits_of

DATA = "objectnet-1.0"
LAYOUT = (
    "ROOT/images/<folder>/*.png and ROOT/mappings/{folder_to_objectnet_label.json, objectnet_to_imagenet_1k.json, "
    "pytorch_to_imagenet_2012_id.json, imagenet_to_label_2012_v2}; the template's "
    "imagenet_pytorch_id_to_objectnet_id.json serves instead of the last three"
)
SOURCE = "objectnet.dev (objectnet-1.0.zip)"
TAKES_DAYS = False
needed_beside = nothing_beside
facts_of_data = no_facts
problems_of_data = no_problems
NUM_CLASSES, NUM_FOLDERS = 113, 313
_TEMPLATE = "imagenet_pytorch_id_to_objectnet_id.json"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen."""

    border_px: Annotated[
        int,
        at_least(0),
        "Of the red frame around each image, cut on all sides. The data set and Ryali et al. say 1, the data set's "
        "template cuts 2, torchprune 3",
    ] = 1


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Score a network: {strict,any,restricted}_{top1,top5} of the objects that are classes of ImageNet.

    Raises: UserError: another layout, mappings that cannot be read, or no classifier.
    """
    check_settings(options)
    if options.border_px < 0:
        raise UserError(f"border_px={options.border_px}; allowed: 0 and more")
    result = Result(facts={"release": "objectnet-1.0", "bn_mode": subject.bn_mode})
    classes_of_label = read_classes(data / "mappings")
    label_of_folder = _read_json(data / "mappings" / "folder_to_objectnet_label.json")
    labels = sorted(set(classes_of_label) & set(label_of_folder.values()))
    group_of_folder = {name: labels.index(label) for name, label in label_of_folder.items() if label in labels}
    images = class_folders(data / "images", group_of_folder, LAYOUT)
    result.note_strays([name for name in images.strays if name not in label_of_folder])
    result.expect_classes(images.label_N, range(len(labels)), labels)
    result.expect("classes of ImageNet", len(labels), NUM_CLASSES)
    result.expect("folders", sum((data / "images" / name).is_dir() for name in label_of_folder), NUM_FOLDERS)
    transform = framed(options.border_px, subject.image_size_px)
    result.facts |= {"images": len(images), "transform": transform.name, "projection": "strict, any and restricted"}
    outputs = logits_of(subject, images, transform, name="objectnet")
    outputs.report(result)
    members_G = [classes_of_label[label] for label in labels]
    result.metrics.update(_accuracies(outputs.logits_NC, images.label_N[outputs.rows_N], members_G))
    return result


def _accuracies(logits_NC: np.ndarray, group_N: np.ndarray, members_G: list[tuple[int, ...]]) -> dict[str, float]:
    """Score the three ways. group_N: int64 (N,), object of each image. members_G: classes of each, the first first."""
    first_N = np.array([members_G[group][0] for group in group_N])
    classes_N = [members_G[group] for group in group_N]
    logits_NG = largest_of_groups(logits_NC, members_G)
    found = {}
    for num in (1, 5):
        found[f"strict_top{num}"] = top_accuracy(logits_NC, first_N, num)
        found[f"any_top{num}"] = multi_label_accuracy(logits_NC, classes_N, num)
        found[f"restricted_top{num}"] = top_accuracy(logits_NG, group_N, num)
    return found


def read_classes(mappings: Path) -> dict[str, tuple[int, ...]]:
    """Return ImageNet's classes of each ObjectNet label that has some, in the order of the mapping.

    Args: mappings: the folder of the official files.
    Raises: UserError: one is missing or names what the others do not have.
    """
    try:
        if not (mappings / "objectnet_to_imagenet_1k.json").is_file() and (mappings / _TEMPLATE).is_file():
            return _classes_of_template(mappings)
        return _official_classes(mappings)
    except (KeyError, IndexError, ValueError, AttributeError, OSError) as error:
        raise UserError(f"the mappings in {mappings} cannot be read: {error!r}. Expected: {LAYOUT}") from error


def _official_classes(mappings: Path) -> dict[str, tuple[int, ...]]:
    """ObjectNet label to names; name to its line, the 2012 id; and that to the class, by the inverse of the last."""
    names_of_label = _read_json(mappings / "objectnet_to_imagenet_1k.json")
    id_of_class = _read_json(mappings / "pytorch_to_imagenet_2012_id.json")
    lines = (mappings / "imagenet_to_label_2012_v2").read_text().splitlines()
    id_of_name = {line.strip(): number for number, line in enumerate(lines)}
    class_of_id = {int(number): int(label) for label, number in id_of_class.items()}
    return {
        label: tuple(class_of_id[id_of_name[name.strip()]] for name in names.split("; "))
        for label, names in names_of_label.items()
    }


def _classes_of_template(mappings: Path) -> dict[str, tuple[int, ...]]:
    """Class to the rank of a label among the sorted labels; not among the sorted folders, which are other words."""
    labels = sorted(_read_json(mappings / "folder_to_objectnet_label.json").values())
    classes: dict[str, tuple[int, ...]] = {}
    for label, rank in _read_json(mappings / _TEMPLATE).items():
        name = labels[int(rank)]
        classes[name] = (*classes.get(name, ()), int(label))
    if any(not 0 <= number < len(CLASS_OF_WNID) for numbers in classes.values() for number in numbers):
        raise ValueError(f"{_TEMPLATE} has classes beyond ImageNet's")
    return classes


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}. Expected: {LAYOUT}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no JSON object. Expected: {LAYOUT}")
    return content
