"""ImageNet-C: the validation images under 15 corruptions of 5 strengths (Hendrycks and Dietterich 2019).

arXiv 1903.12261; Ryali et al. 2021, Table A29: accuracy, as the mean over the corruptions and strengths of each of four
categories. The images are published as JPEG files of 224 px, so they are cut but not resized.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from backdrop.errors import UserError
from backdrop.trainer.evaluation.data.batches import image_bar
from backdrop.trainer.evaluation.data.images import wnid_folders
from backdrop.trainer.evaluation.data.transforms import Transform, centre_cut, standard
from backdrop.trainer.evaluation.harness.defaults import no_facts, no_problems, nothing_beside
from backdrop.trainer.evaluation.harness.result import MAX_NAMED, Result
from backdrop.trainer.evaluation.harness.subject import Subject
from backdrop.trainer.evaluation.predictions.outputs import NamedSet, top_of_sets

DATA = "imagenet-c"
LAYOUT = (
    "ROOT/<corruption>/{1..5}/<wnid>/*.JPEG or ROOT/<category>/<corruption>/..., categories: noise blur weather digital"
)
SOURCE = "zenodo.org/records/2235448 (noise.tar, blur.tar, weather.tar, digital.tar)"
TAKES_DAYS = False
needed_beside = nothing_beside
facts_of_data = no_facts
problems_of_data = no_problems
CATEGORIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
CORRUPTIONS = tuple(name for names in CATEGORIES.values() for name in names)
SEVERITIES = (1, 2, 3, 4, 5)
NUM_IMAGES_EACH = 50_000
PUBLISHED_PX = 224


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen."""

    alexnet_errors: Annotated[
        str,
        "A JSON file {corruption: AlexNet's top-1 error in percent, one number or five}, for mCE; empty = without mCE",
    ] = ""


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Score a network: accuracy in percent of each category and corruption that is complete, mean and mce of all 15.

    Raises: UserError: none of the corruptions is there, errors that cannot be read, or no classifier.
    """
    alexnet = read_alexnet_errors(Path(options.alexnet_errors)) if options.alexnet_errors else None
    transform = transform_for(subject.image_size_px)
    result = Result(facts={"release": "imagenet-c", "transform": transform.name, "projection": "none"})
    result.facts["bn_mode"] = subject.bn_mode
    top1_of = _score_all(subject, _found_sets(data, result), transform, result)
    complete = [name for name in CORRUPTIONS if all((name, severity) in top1_of for severity in SEVERITIES)]
    mean_of = {name: float(np.mean([top1_of[name, severity] for severity in SEVERITIES])) for name in complete}
    for category, names in CATEGORIES.items():
        if all(name in mean_of for name in names):
            result.metrics[category] = float(np.mean([mean_of[name] for name in names]))
        else:
            lacking = ", ".join(name for name in names if name not in mean_of)
            result.problems.append(f"{category} has no mean: {lacking} not there in all strengths")
    if len(complete) == len(CORRUPTIONS):
        result.metrics["mean"] = float(np.mean(list(mean_of.values())))
        if alexnet:
            result.metrics["mce"] = mean_corruption_error(mean_of, alexnet)
    result.metrics.update(mean_of)
    result.facts["top1"] = {f"{name}/{severity}": value for (name, severity), value in top1_of.items()}
    return result


def transform_for(size_px: int) -> Transform:
    """Return the centre crop alone, as published; for networks at home at another size than 224 px, resized first."""
    return centre_cut(size_px) if size_px == PUBLISHED_PX else standard(size_px)


def mean_corruption_error(top1_of: dict[str, float], alexnet_error_of: dict[str, float]) -> float:
    """Return mCE in percent: the mean over corruptions of the error's sum over strengths relative to AlexNet's.

    Args: top1_of: corruption to accuracy in percent, mean over strengths. alexnet_error_of: to its mean error.
    """
    return 100 * float(np.mean([(100 - top1_of[name]) / alexnet_error_of[name] for name in CORRUPTIONS]))


def read_alexnet_errors(path: Path) -> dict[str, float]:
    """Read the mean error of each corruption. Raises: UserError: not all 15 are there as numbers above 0, up to 100."""
    try:
        content = json.loads(path.read_text())
        errors = {name: np.asarray(content[name], dtype=np.float64) for name in CORRUPTIONS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read as AlexNet's errors: {error!r}. Expected: JSON, an error in percent (or five, one "
            f"per strength) for each of {', '.join(CORRUPTIONS)}"
        ) from error
    for name, value in errors.items():
        if value.shape not in ((), (len(SEVERITIES),)) or not ((value > 0) & (value <= 100)).all():
            raise UserError(
                f"{path}: {name} is {content[name]}; allowed: one or five errors above 0, up to 100 percent"
            )
    return {name: float(value.mean()) for name, value in errors.items()}


def _found_sets(data: Path, result: Result) -> dict[tuple[str, int], Path]:
    """The folder of each corruption and strength. Raises: UserError: there is none."""
    found = {}
    for category, names in CATEGORIES.items():
        for name in names:
            parent = data / name if (data / name).is_dir() else data / category / name
            found.update({(name, severity): parent / str(severity) for severity in SEVERITIES})
    found = {each: folder for each, folder in found.items() if folder.is_dir()}
    if not found:
        raise UserError(f"{data} has none of the corruptions. Expected: {LAYOUT}")
    result.expect("sets", len(found), len(CORRUPTIONS) * len(SEVERITIES))
    return found


def _score_all(
    subject: Subject, folder_of: dict[tuple[str, int], Path], transform: Transform, result: Result
) -> dict[tuple[str, int], float]:
    odd, top1_of = [], {}
    with image_bar(NUM_IMAGES_EACH * len(folder_of), "imagenet-c") as bar:

        def sets() -> Iterator[NamedSet]:
            for (corruption, strength), folder in folder_of.items():
                images = wnid_folders(folder, LAYOUT)
                bar.total += len(images) - NUM_IMAGES_EACH
                yield NamedSet(name=f"imagenet-c-{corruption}-{strength}", images=images)

        scored = top_of_sets(subject, sets(), transform, bar)
        for (name, severity), (each, outputs) in zip(folder_of, scored, strict=True):
            result.note_strays([f"{name}/{severity}/{stray}" for stray in each.images.strays])
            if len(each.images) != NUM_IMAGES_EACH:
                odd.append(f"{name}/{severity} has {len(each.images)}")
            outputs.report(result)
            is_right_N = outputs.output_N[:, 0] == each.images.label_N[outputs.rows_N]
            top1_of[name, severity] = 100.0 * float(is_right_N.mean())
    result.facts["images each"] = {"sets with another number": len(odd), "expected": NUM_IMAGES_EACH}
    if odd:
        named = ", ".join(odd[:MAX_NAMED]) + (" ..." if len(odd) > MAX_NAMED else "")
        result.problems.append(f"{len(odd)} sets have not {NUM_IMAGES_EACH} images ({named})")
    return top1_of
