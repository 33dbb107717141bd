"""Object detection on PASCAL VOC: a Faster R-CNN fine-tuned from the network, 24,000 batches (He et al. 2020, MoCo).

Trained on trainval of 2007 and 2012, difficult objects included, scored on test of 2007. Ryali et al. 2021, Tables 19
and A27 (mean of three seeds); CAST, Table 1. How the detector is put together, and what still differs from
detectron2's, is in `detection/model.py`; how it is scored in `detection/voc_ap.py`.
"""

import xml.etree.ElementTree as xml
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from backdrop.errors import UserError
from backdrop.settings import check_settings, one_of
from backdrop.trainer.downstream_settings import DetectorRates
from backdrop.trainer.evaluation.detection.images import LabelledImage, Sizes
from backdrop.trainer.evaluation.detection.model import FORMS
from backdrop.trainer.evaluation.detection.training import Job, Schedule, check_alone, fine_tune_and_detect, resolved
from backdrop.trainer.evaluation.detection.voc_ap import Detections, Objects, voc_scores
from backdrop.trainer.evaluation.harness.defaults import no_facts, nothing_beside
from backdrop.trainer.evaluation.harness.method_numbers import stated_by
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject

DATA = "voc"
LAYOUT = (
    "ROOT/VOCdevkit/VOC2007 and ROOT/VOCdevkit/VOC2012, or ROOT/VOC2007 and ROOT/VOC2012, each with "
    "Annotations/<id>.xml, ImageSets/Main/{trainval,test}.txt and JPEGImages/<id>.jpg"
)
SOURCE = "http://host.robots.ox.ac.uk/pascal/VOC (VOC2007 trainval and test, VOC2012 trainval)"
TAKES_DAYS = True
needed_beside = nothing_beside
facts_of_data = no_facts
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
TRAIN_SETS = (("2007", "trainval", 5_011), ("2012", "trainval", 11_540))
TEST_SET = ("2007", "test", 4_952)

_SIZES = Sizes(train_short_px=(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800))
_SCHEDULE = Schedule(iterations=24_000, tenth_at=(18_000, 22_000))


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen; the defaults are MoCo's `pascal_voc_R_50_C4_24k_moco`."""

    settings_of: Annotated[
        str,
        'Whose learning rate and warm-up, a method that states some; "" = the run\'s method, moco for a weights file',
    ] = ""
    form: Annotated[str, one_of(FORMS), '"c4" as in both papers, or "fpn"'] = "c4"
    sizes: Annotated[Sizes, "Sizes of the images"] = _SIZES
    schedule: Annotated[Schedule, "Length, rates, seed"] = _SCHEDULE


@dataclass(frozen=True, kw_only=True)
class VocImage:
    """An image and its objects, both as a detector sees them and as they are scored."""

    image: LabelledImage
    objects: Objects


def problems_of_data(data: Path, options: Options) -> list[str]:
    """Return what is odd about lists and annotations, before anything is trained. Raises: UserError: another layout."""
    result = Result()
    _read_all(data, result)
    return result.problems


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Fine-tune and score a detector: ap50, ap, ap75 in percent, in the papers' order."""
    check_alone("voc-detection")
    check_settings(options)
    settings_of, rates = rates_of(options.settings_of, subject.method)
    result = Result(facts={"release": "VOC2007 + VOC2012", "settings_of": settings_of})
    result.facts["metric"] = "11 points, mean over overlaps .50 to .95"
    train, test = _read_all(data, result)
    job = Job(
        name="voc-detection",
        form=options.form,
        num_classes=len(CLASSES),
        has_masks=False,
        schedule=resolved(options.schedule, asdict(rates)),
        sizes=options.sizes,
    )
    found = {
        image.key: Detections(*(detected[name].numpy() for name in ("boxes", "classes", "scores")))
        for image, detected in fine_tune_and_detect(subject, train, [each.image for each in test], job, result)
    }
    scores, of_class = voc_scores(found, {each.image.key: each.objects for each in test}, len(CLASSES))
    result.metrics |= scores
    result.facts["ap50_of_class"] = {
        name: round(value, 2) for name, value in zip(CLASSES, of_class, strict=True) if np.isfinite(value)
    }
    return result


def rates_of(chosen: str, method: str, option: str = "settings_of") -> tuple[str, DetectorRates]:
    """Return whose rates are taken, and they.

    Args: chosen: the method that the user named in `option`, "" = none. method: of the run, "" for a weights file.
    Raises: UserError: there are none.
    """
    return stated_by(method, chosen, option, "rate of detection on VOC", lambda each: each.voc_detection)


def year_folder(data: Path, year: str) -> Path:
    """The folder of one year, with or without VOCdevkit above it. Raises: UserError: neither is there."""
    for folder in (data / "VOCdevkit" / f"VOC{year}", data / f"VOC{year}"):
        if folder.is_dir():
            return folder
    raise UserError(f"there is no VOC{year} in {data}. Expected: {LAYOUT}. From: {SOURCE}")


def read_split(data: Path, year: str, split: str, problems: list[str]) -> list[VocImage]:
    """Read the images and objects of one list.

    Args: problems: gets a line for each annotation that is missing, cannot be read, or names an unknown class.
    Raises: UserError: there is no such list, or nothing in it can be used.
    """
    folder = year_folder(data, year)
    names = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not names.is_file():
        raise UserError(f"there is no {names}. Expected: {LAYOUT}. From: {SOURCE}")
    found = [
        image
        for line in names.read_text().splitlines()
        if line.strip()
        for image in _read(folder, line.split()[0], problems)
    ]
    if not found:
        raise UserError(f"no image that {names} lists can be used, e.g. {'; '.join(problems[:1])}. Expected: {LAYOUT}")
    return found


def _read_all(data: Path, result: Result) -> tuple[list[LabelledImage], Sequence[VocImage]]:
    """The images to train on, and those of the test."""
    train = [each.image for year, split, number in TRAIN_SETS for each in _counted(data, year, split, number, result)]
    return train, _counted(data, *TEST_SET, result)


def _counted(data: Path, year: str, split: str, expected: int, result: Result) -> Sequence[VocImage]:
    images = read_split(data, year, split, result.problems)
    result.expect(f"VOC{year} {split} images", len(images), expected)
    return images


def _read(folder: Path, name: str, problems: list[str]) -> Iterator[VocImage]:
    """Yield the one image of that name, or note why not."""
    key = f"{folder.name}/{name}"
    try:
        root = xml.parse(folder / "Annotations" / f"{name}.xml").getroot()
        height, width = (int(_text(root, f"size/{side}")) for side in ("height", "width"))
        found = [_object(each) for each in root.iterfind("object")]
    except (OSError, xml.ParseError, ValueError) as error:
        problems.append(f"{key}.xml cannot be read ({error}): the image is left out")
        return
    problems += [
        f"{key}.xml has a {each[0]!r}, which is no class: left out" for each in found if each[0] not in CLASSES
    ]
    known = [each for each in found if each[0] in CLASSES]
    class_N = np.array([CLASSES.index(each[0]) for each in known], dtype=np.int64)
    box_N4 = np.array([box for _, box, _ in known], dtype=np.float64).reshape(-1, 4)
    image = LabelledImage(
        key=key,
        path=folder / "JPEGImages" / f"{name}.jpg",
        height=height,
        width=width,
        box_N4=box_N4 - [1, 1, 0, 0],  # VOC counts pixels from 1, both ends included
        class_N=class_N,
    )
    is_difficult_N = np.array([is_difficult for _, _, is_difficult in known], dtype=bool)
    yield VocImage(image=image, objects=Objects(box_N4, class_N, is_difficult_N))


def _object(node: xml.Element) -> tuple[str, list[float], bool]:
    box = [float(_text(node, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
    return _text(node, "name").strip(), box, node.findtext("difficult", "0").strip() == "1"


def _text(node: xml.Element, path: str) -> str:
    text = node.findtext(path)
    if text is None:
        raise ValueError(f"it has no {path}")
    return text
