"""ImageNet ReaL: the validation images with their reassessed labels, several or none each (Beyer et al. 2020).

Ryali et al. 2021, Tables 2 and 5. An image is right where the best class is among its labels; images without any label
are left out, which leaves 46,837 of 50,000.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from backdrop.errors import UserError
from backdrop.trainer.evaluation.data.imagenet import open_validation
from backdrop.trainer.evaluation.data.images import Images
from backdrop.trainer.evaluation.data.projections import multi_label_accuracy
from backdrop.trainer.evaluation.data.transforms import standard
from backdrop.trainer.evaluation.harness.defaults import no_facts, no_problems
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject
from backdrop.trainer.evaluation.predictions.outputs import logits_of

DATA = "imagenet"
LAYOUT = "ROOT/val/<wnid>/ILSVRC2012_val_00000001.JPEG ... (or ImageNet's other layouts) and ROOT/real.json"
SOURCE = "real.json from github.com/google-research/reassessed-imagenet, the images from www.image-net.org"
TAKES_DAYS = False
facts_of_data = no_facts
problems_of_data = no_problems
NUM_IMAGES, NUM_WITH_LABELS = 50_000, 46_837
_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen."""

    labels: Annotated[str, "The file of labels; empty = real.json beside val/"] = ""


def needed_beside(data: Path, options: Options) -> list[Path]:
    """Return what must be there besides the images."""
    return [Path(options.labels) if options.labels else data / "real.json"]


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Score a network on the reassessed labels: real_top1, real_top5."""
    result = Result(facts={"release": "real.json", "projection": "none", "bn_mode": subject.bn_mode})
    labels_of_image = read_labels(*needed_beside(data, options))
    images = _named(open_validation(data, result), len(labels_of_image), result)
    transform = standard(subject.image_size_px)
    outputs = logits_of(subject, images, transform, name="imagenet-val")
    outputs.report(result)
    labels_N = [labels_of_image[number_of(images, row) - 1] for row in outputs.rows_N]
    if not any(labels_N):
        raise UserError(f"none of the {len(images)} images has a label. Expected: {LAYOUT}")
    result.expect("labels", len(labels_of_image), NUM_IMAGES)
    result.facts["transform"] = transform.name
    result.expect("images", len(images), NUM_IMAGES)
    result.expect("images with labels", sum(bool(labels) for labels in labels_N), NUM_WITH_LABELS)
    for num in (1, 5):
        result.metrics[f"real_top{num}"] = multi_label_accuracy(outputs.logits_NC, labels_N, num)
    return result


def read_labels(path: Path) -> list[list[int]]:
    """Read real.json: position i holds the classes of ILSVRC2012_val_{i + 1:08d}. Raises: UserError: it does not."""
    try:
        labels = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as ReaL's labels: {error}. Expected: {LAYOUT}. From: {SOURCE}"
        ) from error
    is_lists = isinstance(labels, list) and all(isinstance(each, list) for each in labels)
    if not is_lists or any(type(label) is not int or not 0 <= label < 1000 for each in labels for label in each):
        raise UserError(f"{path} is no list of lists of classes 0 .. 999. From: {SOURCE}")
    return labels


def _named(images: Images, num_labels: int, result: Result) -> Images:
    """Keep the images whose number has a place among the labels; the others are noted."""
    nameless = [row for row in range(len(images)) if not _NAME.match(Path(images.keys[row]).name)]
    if nameless:
        result.problems.append(f"{len(nameless)} images are not named ILSVRC2012_val_<8 digits>: left out")
    named = sorted(set(range(len(images))) - set(nameless))
    rows = [row for row in named if 1 <= number_of(images, row) <= num_labels]
    if len(rows) < len(named):
        result.problems.append(f"{len(named) - len(rows)} images have a number outside 1 .. {num_labels}: left out")
    return images.subset(rows, LAYOUT)


def number_of(images: Images, row: int) -> int:
    """Return the number in an image's name, by which labels are found; its place in a listing is by class."""
    match = _NAME.match(Path(images.keys[row]).name)
    assert match is not None
    return int(match[1])
