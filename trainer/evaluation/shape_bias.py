"""Shape against texture: does a cat with an elephant's skin look like a cat? (Geirhos et al. 2019, arXiv 1811.12231).

Ryali et al. 2021, Tables 20 and A28. Of each of 16 categories the mean probability of its classes among the 1,000; the
best category is the decision. Shape bias: decisions for the shape among those for shape or texture.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from backdrop.settings import check_settings, one_of
from backdrop.trainer.evaluation.data.class_lists import SHAPE_CATEGORIES
from backdrop.trainer.evaluation.data.images import Images, class_folders
from backdrop.trainer.evaluation.data.projections import mean_probabilities
from backdrop.trainer.evaluation.data.transforms import as_published, standard
from backdrop.trainer.evaluation.harness.defaults import no_facts, no_problems, nothing_beside
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject
from backdrop.trainer.evaluation.predictions.outputs import logits_of

DATA = "cue-conflict"
LAYOUT = "ROOT/<shape>/<shape><n>-<texture><m>.png, 16 categories"
SOURCE = (
    "github.com/rgeirhos/texture-vs-shape (stimuli/style-transfer-preprocessed-512) or model-vs-human's cue-conflict"
)
TAKES_DAYS = False
needed_beside = nothing_beside
facts_of_data = no_facts
problems_of_data = no_problems
NUM_IMAGES, NUM_CONFLICTS = 1_280, 1_200
CATEGORIES = tuple(SHAPE_CATEGORIES)
_CATEGORY_NUMBER = {name: number for number, name in enumerate(CATEGORIES)}
_NAME = re.compile(r"([a-z]+)\d+-([a-z]+)\d+$")
# As Ryali et al. (A.7 refers to A.3, which zooms in by 14 %), or the stimuli as they are, as their authors show them.
_TRANSFORMS = {"standard": standard, "native": as_published}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen."""

    preprocessing: Annotated[
        str,
        one_of(_TRANSFORMS),
        '"standard" (Ryali et al. 2021, A.7): resized to 256 and cut to 224. "native": the 224 px as published',
    ] = "standard"


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Score a network: shape_bias, and how many percent of all decisions are the shape's and the texture's.

    Raises: UserError: another layout, unknown preprocessing, or no classifier.
    """
    check_settings(options)
    transform = _TRANSFORMS[options.preprocessing](subject.image_size_px)
    result = Result(facts={"release": "cue-conflict", "transform": transform.name, "bn_mode": subject.bn_mode})
    result.facts["projection"] = "mean probability of the classes of each of 16 categories"
    images, texture_N = open_conflicts(data, result)
    outputs = logits_of(subject, images, transform, name="cue-conflict")
    outputs.report(result)
    decision_N = mean_probabilities(outputs.logits_NC, list(SHAPE_CATEGORIES.values())).argmax(axis=1)
    is_shape_N = decision_N == images.label_N[outputs.rows_N]
    is_texture_N = decision_N == texture_N[outputs.rows_N]
    num_decided = int(is_shape_N.sum() + is_texture_N.sum())
    result.facts["decisions"] = {"shape": int(is_shape_N.sum()), "texture": int(is_texture_N.sum())}
    if num_decided:
        result.metrics["shape_bias"] = 100.0 * float(is_shape_N.sum()) / num_decided
    else:
        result.problems.append("no decision was for a shape or a texture: there is no shape bias")
    result.metrics["shape_decisions"] = 100.0 * float(is_shape_N.mean())
    result.metrics["texture_decisions"] = 100.0 * float(is_texture_N.mean())
    return result


def open_conflicts(data: Path, result: Result) -> tuple[Images, np.ndarray]:
    """List the stimuli whose shape and texture differ.

    Returns: images, labelled by their shape's number among CATEGORIES; and int64 (N,), their texture's.
    Raises: UserError: another layout, or no such stimulus.
    """
    images = class_folders(data, _CATEGORY_NUMBER, LAYOUT)
    result.note_strays(images.strays)
    result.expect_classes(images.label_N, range(len(CATEGORIES)), CATEGORIES)
    named = [_shape_and_texture(key) for key in images.keys]
    misnamed = [
        key
        for key, pair, label in zip(images.keys, named, images.label_N, strict=True)
        if pair is None or pair[0] != label
    ]
    if misnamed:
        result.problems.append(
            f"{len(misnamed)} stimuli are not named by their folder's shape, e.g. {misnamed[0]}: left out"
        )
    textures = [pair[1] if pair is not None else -1 for pair in named]
    is_left_out = set(misnamed)
    rows = [
        row
        for row, (key, label) in enumerate(zip(images.keys, images.label_N, strict=True))
        if key not in is_left_out and textures[row] != label
    ]
    result.expect("images", len(images), NUM_IMAGES)
    result.expect("images in conflict", len(rows), NUM_CONFLICTS)
    return images.subset(rows, LAYOUT), np.array(textures, dtype=np.int64)[rows]


def _shape_and_texture(key: str) -> tuple[int, int] | None:
    match = _NAME.match(Path(key).stem)
    if match is None or match[1] not in _CATEGORY_NUMBER or match[2] not in _CATEGORY_NUMBER:
        return None
    return _CATEGORY_NUMBER[match[1]], _CATEGORY_NUMBER[match[2]]
