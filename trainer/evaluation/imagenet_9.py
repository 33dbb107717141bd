"""ImageNet-9, the backgrounds challenge: how far the prediction comes from the background (Xiao et al. 2021).

arXiv 2006.09994; Ryali et al. 2021, Tables 10, 11, A14 to A18; CAST, Table 3. The best of all 1,000 classes is looked
up in a table of nine groups; a class of no group is a wrong prediction, and no class is left out of the argmax. BG-Gap
is the accuracy on mixed_same less that on mixed_rand.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np

from backdrop.errors import UserError
from backdrop.settings import SEEDS, check_settings, within
from backdrop.stores.drawn_sample import background_variants
from backdrop.stores.images.image_codec import sha256
from backdrop.trainer.evaluation.data.class_lists import IN9_NAMES, NONE, in9_of_class
from backdrop.trainer.evaluation.data.images import Images, class_folders
from backdrop.trainer.evaluation.data.in9_from_masks import made_with, open_variants
from backdrop.trainer.evaluation.data.masks import Masks, open_masks
from backdrop.trainer.evaluation.data.projections import grouped_prediction
from backdrop.trainer.evaluation.data.transforms import Transform, as_published
from backdrop.trainer.evaluation.harness.defaults import no_facts, no_problems, nothing_beside
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject
from backdrop.trainer.evaluation.predictions.outputs import kept

DATA = "bg_challenge"
LAYOUT = "ROOT/<variant>/val/{00_dog,...,08_fish}/*.JPEG, ROOT = bg_challenge or the folder that holds it"
SOURCE = "github.com/MadryLab/backgrounds_challenge (backgrounds_challenge_data.tar.gz)"
TAKES_DAYS = False
needed_beside = nothing_beside
facts_of_data = no_facts
problems_of_data = no_problems
NUM_IMAGES, NUM_PER_CLASS = 4_050, 450
PROJECTION = "best of 1,000 classes to its group or none"
GROUP_OF_FOLDER = {f"{number:02d}_{name}": number for number, name in enumerate(IN9_NAMES)}
# Of a network with nine outputs trained on ImageNet-9: the normalisation that its authors use.
_MEAN, _STD = (0.4717, 0.4499, 0.3837), (0.2600, 0.2516, 0.2575)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen."""

    table: Annotated[
        str,
        "In_to_in9.json of the challenge: class to group 0 .. 8 or -1; empty = the same table from ranges of classes",
    ] = ""
    masks: Annotated[
        str,
        "A store or a folder of masks of the images in --data, read as masks:DIR is, of which the variants are then "
        "made; empty = --data holds the published variants",
    ] = ""
    mask_threshold: Annotated[
        float,
        within(0, 1),
        "Of the values / 255 of PNG masks; those of a store were cut when it was built",
    ] = 0.5
    seed: Annotated[int, SEEDS, "Of the choice of backgrounds for variants made from masks"] = 0
    nine_outputs: Annotated[
        bool,
        "For a network trained on ImageNet-9 itself: nine outputs, and the normalisation of its authors",
    ] = False


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Score a network: the top-1 accuracy of each variant there is, under its name, and bg_gap, in percent.

    Raises: UserError: another layout, a table that cannot be read, masks of no image, or no (fitting) classifier.
    """
    check_settings(options)
    group_C = read_table(Path(options.table)) if options.table else in9_of_class()
    # ToTensor and normalisation alone. The reference clamps to 0 .. 1 between the two: bytes / 255 lie there already.
    transform = as_published(subject.image_size_px)
    result = Result(facts={"bn_mode": subject.bn_mode})
    if options.nine_outputs:
        transform = replace(transform, name=f"{transform.name}, ImageNet-9's normalisation", mean=_MEAN, std=_STD)
        group_C = np.arange(len(IN9_NAMES), dtype=np.int64)
    result.facts["projection"] = "the nine outputs" if options.nine_outputs else PROJECTION
    result.facts["table"] = f"sha256 {sha256(Path(options.table).read_bytes()).hex()}" if options.table else "ranges"
    masks = open_masks(options.masks, options.mask_threshold) if options.masks else None
    if masks is not None:
        transform = made_with(transform, masks, options.seed)
    result.facts["transform"] = transform.name
    for name, images in _variants(data, masks, group_C, options, result):
        result.metrics[name] = accuracy(subject, images, transform, group_C, name, result)
    if {"mixed_same", "mixed_rand"} <= set(result.metrics):
        result.metrics["bg_gap"] = result.metrics["mixed_same"] - result.metrics["mixed_rand"]
    return result


def _variants(
    data: Path, masks: Masks | None, group_C: np.ndarray, options: Options, result: Result
) -> Iterator[tuple[str, Images]]:
    if masks is not None:
        result.facts |= {"release": f"made from {masks.name}", "seed": options.seed}
        table_C = in9_of_class() if options.nine_outputs else group_C
        for images in open_variants(data, masks, table_C, options.seed, result):
            yield images.variant, images
        return
    result.facts["release"] = "bg_challenge"
    root = next(
        (
            root
            for root in (data, data / "bg_challenge")
            if any((root / name).is_dir() for name in background_variants.NAMES)
        ),
        None,
    )
    if root is None:
        raise UserError(f"{data} has none of the variants. Expected: {LAYOUT}")
    missing = [name for name in background_variants.NAMES if not (root / name).is_dir()]
    if missing:
        result.problems.append(f"variants that are not there: {', '.join(missing)}")
    for name in background_variants.NAMES:
        if name not in missing:
            yield name, _open_variant(root / name, name, result)


def _open_variant(folder: Path, name: str, result: Result) -> Images:
    images = class_folders(folder / "val" if (folder / "val").is_dir() else folder, GROUP_OF_FOLDER, LAYOUT)
    result.note_strays([f"{name}/{stray}" for stray in images.strays])
    result.expect(f"{name} images", len(images), NUM_IMAGES)
    num_G = np.bincount(images.label_N, minlength=len(IN9_NAMES))
    result.expect_classes(images.label_N, range(len(IN9_NAMES)), IN9_NAMES)
    if (num_G > NUM_PER_CLASS).any():
        largest = IN9_NAMES[int(num_G.argmax())]
        result.problems.append(
            f"{name}: {largest} has {num_G.max()} images, more than {NUM_PER_CLASS}: is this the uncleaned val of the "
            "training archives?"
        )
    return images


def accuracy(
    subject: Subject,
    images: Images,
    transform: Transform,
    group_C: np.ndarray,
    name: str,
    result: Result,
) -> float:
    """Return the percentage of images whose best class is of their group; what cannot be decoded goes to the problems.

    Args: images: labels are groups. group_C: int64 (C,), group of each class or NONE. name: of the set.
    """
    outputs = kept(
        subject,
        images,
        transform,
        lambda batch: subject.logits(batch.image_BCHW, len(group_C)),
        name=f"imagenet-9-{name}",
        asked="logits",
    )
    outputs.report(result)
    group_N = grouped_prediction(outputs.logits_NC, group_C)
    return 100.0 * float((group_N == images.label_N[outputs.rows_N]).mean())


def read_table(path: Path) -> np.ndarray:
    """Read in_to_in9.json: int64 (1000,), group of each class or NONE. Raises: UserError: it is something else."""
    try:
        content = json.loads(path.read_text())
        group_C = np.array([int(content[str(label)]) for label in range(1000)], dtype=np.int64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read as in_to_in9.json: {error!r}. Expected: 1,000 classes, 0 to 8 or -1 each"
        ) from error
    if group_C.min() < NONE or group_C.max() >= len(IN9_NAMES):
        raise UserError(f"{path} has groups from {group_C.min()} to {group_C.max()}; allowed: -1 (none), 0 to 8")
    return group_C
