"""Detection and instance segmentation on COCO: a Mask R-CNN fine-tuned from the network, 180,000 batches ("2x").

Trained on train2017, scored on val2017 with pycocotools (Lin et al. 2014, arXiv 1405.0312). Ryali et al. 2021, Tables
19 and A27: form "c4", MoCo's `coco_R_50_C4_2x_moco` for every method. CAST, Table 1: form "fpn", VirTex's
`coco_segm_default_init_2x`. How the detector is put together is in `detection/model.py`.

The 80 categories have numbers from 1 to 90 with gaps: a detector's classes are their ranks.
"""

import contextlib
import io
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from backdrop.errors import UserError
from backdrop.settings import check_settings, one_of
from backdrop.trainer.evaluation.detection.images import LabelledImage, Sizes
from backdrop.trainer.evaluation.detection.model import FORMS
from backdrop.trainer.evaluation.detection.training import Job, Schedule, check_alone, fine_tune_and_detect, resolved
from backdrop.trainer.evaluation.harness.defaults import no_facts, nothing_beside
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject

DATA = "coco"
LAYOUT = "ROOT/annotations/instances_{train,val}2017.json, ROOT/train2017/*.jpg and ROOT/val2017/*.jpg"
SOURCE = "https://cocodataset.org (2017 train and val images, train/val annotations)"
TAKES_DAYS = True
needed_beside = nothing_beside
facts_of_data = no_facts
NUM_CATEGORIES = 80
NUM_IMAGES = {"train2017": 118_287, "val2017": 5_000}
# The papers' settings, one for all methods (Ryali et al. 2021, A.10; VirTex's is the same).
SETTINGS: dict[str, float | int] = {"lr": 0.02, "warmup_iterations": 1_000, "warmup_start_fraction": 1 / 1000}
# What COCOeval's summary holds, in its order.
_SUMMARY = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
_PAPERS_ORDER = ("ap50", "ap", "ap75", "ap_small", "ap_medium", "ap_large")
_SIZES = Sizes(train_short_px=(640, 672, 704, 736, 768, 800))
_SCHEDULE = Schedule(iterations=180_000, tenth_at=(120_000, 160_000))


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen; the defaults are those of Ryali et al. 2021."""

    form: Annotated[str, one_of(FORMS), '"c4" (Ryali) or "fpn" (CAST)'] = "c4"
    sizes: Annotated[Sizes, "Sizes of the images"] = _SIZES
    schedule: Annotated[Schedule, "Length, rates, seed"] = _SCHEDULE


@dataclass(frozen=True, kw_only=True)
class _Coco:
    """ids: the categories' own numbers. test: annotations as read. to_learn, to_score: the images."""

    ids: tuple[int, ...]
    test: dict[str, Any]
    to_learn: list[LabelledImage]
    to_score: list[LabelledImage]


def problems_of_data(data: Path, options: Options) -> list[str]:
    """Return what is odd about the annotations, before anything is trained. Raises: UserError: another layout."""
    result = Result()
    _read_all(data, result)
    return result.problems


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Fine-tune and score: box_ and mask_ of ap50, ap, ap75, ap_small, ap_medium and ap_large, in percent."""
    check_alone("coco-segmentation")
    check_settings(options)
    result = Result(facts={"release": "COCO 2017"})
    coco = _read_all(data, result)
    job = Job(
        name="coco-segmentation",
        form=options.form,
        num_classes=len(coco.ids),
        has_masks=True,
        schedule=resolved(options.schedule, SETTINGS),
        sizes=options.sizes,
    )
    number_of = {image.key: known["id"] for image, known in zip(coco.to_score, coco.test["images"], strict=True)}
    found: list[dict[str, Any]] = []
    for image, detected in fine_tune_and_detect(subject, coco.to_learn, coco.to_score, job, result):
        found += coco_records(detected, number_of[image.key], coco.ids)
    result.metrics |= coco_scores(coco.test, found)
    return result


def _read_all(data: Path, result: Result) -> _Coco:
    """Read both splits. Raises: UserError: another layout, or other categories in the one than in the other."""
    train, test = (read_annotations(data, split) for split in NUM_IMAGES)
    for annotations, (split, number) in zip((train, test), NUM_IMAGES.items(), strict=True):
        result.expect(f"{split} images", len(annotations["images"]), number)
    ids = category_ids(train)
    result.expect("categories", len(ids), NUM_CATEGORIES)
    if category_ids(test) != ids:
        raise UserError(f"train2017 and val2017 of {data} have other categories. From: {SOURCE}")
    to_learn = labelled_images(data / "train2017", train, result.problems)
    return _Coco(ids=ids, test=test, to_learn=to_learn, to_score=labelled_images(data / "val2017", test, []))


def read_annotations(data: Path, split: str) -> dict[str, Any]:
    """Read the annotations of a split. Raises: UserError: they are missing, or no instances of COCO's."""
    path = data / "annotations" / f"instances_{split}.json"
    if not path.is_file() or not (data / split).is_dir():
        raise UserError(f"there is no {path} or no {data / split}. Expected: {LAYOUT}. From: {SOURCE}")
    try:
        annotations = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); get it again from {SOURCE}") from error
    if not isinstance(annotations, dict) or not {"images", "annotations", "categories"} <= set(annotations):
        raise UserError(f"{path} has no images, annotations and categories; get it again from {SOURCE}")
    return annotations


def category_ids(annotations: dict[str, Any]) -> tuple[int, ...]:
    """The categories' own numbers; the rank of one is the detector's class."""
    return tuple(sorted(category["id"] for category in annotations["categories"]))


def labelled_images(folder: Path, annotations: dict[str, Any], problems: list[str]) -> list[LabelledImage]:
    """List all images with the objects that are learned: no crowds, none without an outline.

    Args: problems: gets a line where outlines were missing.
    Raises: UserError: the annotations are not COCO's.
    """
    try:
        return _labelled_images(folder, annotations, problems)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the annotations of {folder} are not as COCO's ({type(error).__name__}: {error}); get them from {SOURCE}"
        ) from error


def _labelled_images(folder: Path, annotations: dict[str, Any], problems: list[str]) -> list[LabelledImage]:
    class_of = {number: rank for rank, number in enumerate(category_ids(annotations))}
    objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
    num_without = 0
    for each in annotations["annotations"]:
        if each.get("iscrowd", 0):
            continue
        outline = _usable(each["segmentation"])
        num_without += not outline
        if outline:
            objects[each["image_id"]].append(each | {"segmentation": outline})
    if num_without:
        problems.append(f"{folder.name}: {num_without} objects have no polygon of three points: left out")
    return [_labelled(folder, image, objects[image["id"]], class_of) for image in annotations["images"]]


def _labelled(
    folder: Path, image: dict[str, Any], objects: list[dict[str, Any]], class_of: dict[int, int]
) -> LabelledImage:
    box_N4 = np.array([each["bbox"] for each in objects], dtype=np.float64).reshape(-1, 4)
    box_N4[:, 2:] += box_N4[:, :2]
    return LabelledImage(
        key=f"{folder.name}/{image['file_name']}",
        path=folder / Path(image["file_name"]).name,
        height=image["height"],
        width=image["width"],
        box_N4=box_N4,
        class_N=np.array([class_of[each["category_id"]] for each in objects], dtype=np.int64),
        outlines=tuple(each["segmentation"] for each in objects),
    )


def _usable(outline: Any) -> Any:
    """Polygons of three points or more, an RLE as it is; an empty list where nothing is left."""
    if isinstance(outline, list):
        return [polygon for polygon in outline if len(polygon) >= 6 and len(polygon) % 2 == 0]
    return outline


def coco_records(found: dict[str, Tensor], number: int, ids: tuple[int, ...]) -> list[dict[str, Any]]:
    """Write what was found in an image as COCO's results do: (left, top, width, height), RLE, the categories' numbers.

    Args: found: as `detect` yields it. number: the image's. ids: category of each class.
    """
    box_N4 = found["boxes"].double().numpy().copy()
    box_N4[:, 2:] -= box_N4[:, :2]
    return [
        {
            "image_id": number,
            "category_id": ids[category],
            "bbox": box.tolist(),
            "score": score,
            "segmentation": rle.encode(np.asfortranarray(mask.numpy().astype(np.uint8))),
        }
        for box, category, score, mask in zip(
            box_N4, found["classes"].tolist(), found["scores"].tolist(), found["masks"], strict=True
        )
    ]


def coco_scores(annotations: dict[str, Any], records: list[dict[str, Any]]) -> dict[str, float]:
    """Return box and mask precisions in percent, in the papers' order; 0 where nothing was found.

    Args: annotations: as read; crowds in it are neither to be found nor wrong to be found. records: `coco_records`.
    """
    return {
        f"{prefix}_{name}": value
        for prefix, kind in (("box", "bbox"), ("mask", "segm"))
        for name, value in _summary(annotations, records, kind)
    }


def _summary(annotations: dict[str, Any], records: list[dict[str, Any]], kind: str) -> Iterator[tuple[str, float]]:
    if not records:
        yield from ((name, 0.0) for name in _PAPERS_ORDER)
        return
    # Masks have sizes of their own: without its box, a record's size is its mask's.
    left_out = "segmentation" if kind == "bbox" else "bbox"
    own = [{name: value for name, value in record.items() if name != left_out} for record in records]
    with contextlib.redirect_stdout(io.StringIO()):  # standard output is for the summary alone
        truth = COCO()
        truth.dataset = {"info": {}, **annotations}
        truth.createIndex()
        scored = COCOeval(truth, truth.loadRes(own), kind)
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    values = dict(zip(_SUMMARY, scored.stats[: len(_SUMMARY)], strict=True))
    # -1 = no object of that size: left out.
    yield from ((name, 100 * float(values[name])) for name in _PAPERS_ORDER if values[name] >= 0)
