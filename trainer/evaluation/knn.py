"""Weighted k-nearest-neighbour classification of frozen features, with ImageNet-9's background challenge beside it.

Wu et al. 2018, arXiv 1805.01978, section 3.4: the k training images with the largest cosine similarity s vote for
their class with weight exp(s / T). k = 20 and T = 0.07 as in DINO's evaluation (Caron et al. 2021, arXiv 2104.14294),
training features from the evaluation transform; k = 200, as Wu et al. have it, is scored beside it. Background
challenge: Xiao et al. 2021, arXiv 2006.09994.

Features are kept in files (`probing/features.py`) and compared in chunks of both sides, so that ImageNet's 1.28 million
of 2,048 (5.2 GB as float16) need no more memory than a chunk.

Legend: N training images, M test images, D features, K neighbours, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import nn

from backdrop.settings import above, at_least, check_settings, one_of
from backdrop.stores.drawn_sample import background_variants
from backdrop.stores.indexes.dataset_index import DatasetIndex
from backdrop.stores.indexes.imagenet_classes import WNIDS
from backdrop.trainer.evaluation.data.imagenet import NUM_TRAIN, NUM_VAL, note_other_classes, release_of
from backdrop.trainer.evaluation.data.images import LAYOUT as LAYOUT_OF_SPLITS
from backdrop.trainer.evaluation.data.images import (
    Images,
    images_of_index,
    labels_as,
    open_class_folders,
    open_split,
    strays_beside,
)
from backdrop.trainer.evaluation.data.transforms import Transform, as_published, standard
from backdrop.trainer.evaluation.harness.defaults import no_facts, no_problems, nothing_beside
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject, pretrained_backbone, untrained_like, weights_digest
from backdrop.trainer.evaluation.probing.features import FORMATS, FeatureFile, features_of
from backdrop.trainer.parts.nearest_neighbours import NUM_NEIGHBOURS, TEMPERATURE, Features, top_accuracies

DATA = "imagenet"
LAYOUT = LAYOUT_OF_SPLITS
SOURCE = "https://www.image-net.org (ILSVRC2012)"
TAKES_DAYS = False
needed_beside = nothing_beside
facts_of_data = no_facts
problems_of_data = no_problems


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen; the defaults are DINO's (Caron et al. 2021)."""

    k: Annotated[
        int,
        at_least(1),
        "Neighbours that vote; all of them where there are fewer training images",
    ] = NUM_NEIGHBOURS
    other_k: Annotated[
        tuple[int, ...],
        at_least(1),
        "More numbers of neighbours to score beside it (200: Wu et al. 2018)",
    ] = (200,)
    temperature: Annotated[float, above(0), "T of the votes exp(s / T)"] = TEMPERATURE
    dtype: Annotated[str, one_of(FORMATS), "Format of the features that are kept"] = "float16"
    scores_untrained: Annotated[bool, "Whether an untrained network of the same kind is scored beside it"] = True


CORRUPT_IMAGE = "corrupt_image/"  # a metric that names an image that could not be decoded
MAX_NAMED_CORRUPT = 20


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Score a network and, unless asked not to, an untrained one of the same kind beside it; see `score_sets`."""
    check_settings(options)
    trained, sets = pretrained_backbone(subject), open_sets(data)
    networks = (trained, untrained_like(trained)) if options.scores_untrained else (trained,)
    found, *untrained = (
        score_sets(
            backbone,
            sets,
            options,
            image_size=subject.image_size_px,
            device=subject.device,
            folder=subject.folder,
        )
        for backbone in networks
    )
    names = [metric.removeprefix(CORRUPT_IMAGE) for metric, _ in found if metric.startswith(CORRUPT_IMAGE)]
    result = Result(
        metrics=_without_names(found),
        untrained=_without_names(untrained[0]) if untrained else {},
        facts={
            "image_size": subject.image_size_px,
            "transform": standard(subject.image_size_px).name,
            "bn_mode": "eval",
            "pretrained_sha256": weights_digest(trained, None),
            "projection": "none",
        },
        problems=[f"{name} cannot be decoded" for name in names],
    )
    _count(data, sets, result)
    return result


def _count(data: Path, sets: dict[str, DatasetIndex], result: Result) -> None:
    """Note how many images there are, and what of ImageNet is missing where the classes are ImageNet's."""
    is_imagenet = set(sets["train"].class_names) <= set(WNIDS)
    result.facts["release"] = release_of(data, is_imagenet=is_imagenet)
    for split, expected in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        result.note_strays([f"{split}/{name}" for name in strays_beside(sets[split])])
        if is_imagenet:
            result.expect(f"{split} images", len(sets[split]), expected)
        else:
            result.facts[f"{split} images"] = {"seen": len(sets[split])}
    if not is_imagenet:
        note_other_classes(sets["train"].class_names)
    num_missing = len(WNIDS) - len(sets["train"].class_names)
    if is_imagenet and num_missing:
        result.problems.append(f"{num_missing} of {len(WNIDS)} classes have no training image")


def _without_names(scores: list[tuple[str, float]]) -> dict[str, float]:
    return {metric: value for metric, value in scores if not metric.startswith(CORRUPT_IMAGE)}


def open_sets(data_dir: str | Path) -> dict[str, DatasetIndex]:
    """List train, val and the variants there are.

    Args: data_dir: holds train/<class>/ and val/<class>/, or "sample"; it may also hold variants/<variant>/<class>/ (or
        variants/<variant>/val/<class>/).
    Raises: UserError: a folder is missing.
    """
    train_index, val_index = open_split(data_dir, "train"), open_split(data_dir, "val")
    return {"train": train_index, "val": val_index, **_variants(train_index.root.parent)}


def score_sets(
    backbone: nn.Module,
    sets: dict[str, DatasetIndex],
    options: Options,
    *,
    image_size: int,
    device: torch.device,
    folder: Path,
) -> list[tuple[str, float]]:
    """Score a backbone on the images of folders.

    Args:
        backbone: images (B, 3, H, W), normalised, to features (B, D); left in the mode it was in.
        sets: of `open_sets`; the variants are scored against the same training features.
        image_size: side of the centre crop in pixels. device: where to compute. folder: where features are kept.
    Returns:
        (metric, value) pairs in this order: top1, top5 (5 classes or more), k<other>_top1 and k<other>_top5,
        <variant>_top1 for each variant found, bg_gap (mixed_same - mixed_rand), corrupt_images, and
        corrupt_image/<key> = 1 for the first of those. Accuracies are in percent of the images that could be decoded.
    Raises: UserError: an unknown class in val, a backbone with values that are not finite.
    """
    names = sets["train"].class_names
    label_of_set = {name: labels_as(index, names) for name, index in sets.items()}  # fails before the first forward
    digest = weights_digest(backbone, None)
    features = {
        name: extract(
            backbone,
            images_of_index(index, label_of_set[name]),
            as_published(image_size) if name in background_variants.NAMES else standard(image_size),
            file=FeatureFile(folder=folder, name=f"knn-{name}", dtype=options.dtype),
            weights_sha256=digest,
            device=device,
        )
        for name, index in sets.items()
    }
    corrupt = [f"{name}/{key}" for name, found in features.items() for key in found.corrupt]
    accuracies = {
        name: top_accuracies(
            features["train"],
            found,
            num_classes=len(names),
            k=(options.k, *options.other_k) if name == "val" else (options.k,),
            temperature=options.temperature,
            device=device,
            is_shared=True,
        )
        for name, found in features.items()
        if name != "train"
    }
    return _metrics(accuracies, len(names), options.other_k) + _corrupt_rows(corrupt)


def extract(
    backbone: nn.Module,
    images: Images,
    transform: Transform,
    *,
    file: FeatureFile,
    weights_sha256: str,
    device: torch.device,
) -> Features:
    """Compute the unit-length features of a set of images, or take those that are kept.

    Args: backbone: (B, 3, H, W) to (B, D), left in the mode it was in. images: the images and their classes.
        transform: what is done to their pixels. file: where the features are kept. weights_sha256: of the backbone.
        device: where to compute.
    Raises: UserError: a feature is not finite, or no image can be decoded.
    """
    was_training = backbone.training
    backbone.eval()
    found = features_of(
        lambda image_BCHW: nn.functional.normalize(backbone(image_BCHW).float(), dim=1),
        images,
        transform,
        file=file,
        identity=(weights_sha256, "unit length"),
        device=device,
    )
    backbone.train(was_training)
    return Features(
        feature_ND=torch.from_numpy(found.feature_ND),
        label_N=torch.from_numpy(np.asarray(images.label_N, dtype=np.int64)[found.row_M]),
        corrupt=found.corrupt,
        row_M=torch.from_numpy(found.row_M) if found.corrupt else None,
    )


def _variants(root: Path) -> dict[str, DatasetIndex]:
    """Return the variants found below root/variants, each with or without a val/ folder of its own."""
    found = {}
    for name in background_variants.NAMES:
        folder = root / "variants" / name
        if folder.is_dir():
            found[name] = open_class_folders(folder / "val" if (folder / "val").is_dir() else folder)
    return found


def _metrics(
    accuracies: dict[str, list[tuple[float, float]]], num_classes: int, other_k: Sequence[int]
) -> list[tuple[str, float]]:
    results = []
    for prefix, (top1, top5) in zip(("", *(f"k{k}_" for k in other_k)), accuracies["val"], strict=True):
        results += [(f"{prefix}top1", top1), (f"{prefix}top5", top5)][: 2 if num_classes >= 5 else 1]
    results += [(f"{name}_top1", accuracies[name][0][0]) for name in background_variants.NAMES if name in accuracies]
    if "mixed_same" in accuracies and "mixed_rand" in accuracies:
        results.append(("bg_gap", accuracies["mixed_same"][0][0] - accuracies["mixed_rand"][0][0]))
    return results


def _corrupt_rows(corrupt: list[str]) -> list[tuple[str, float]]:
    named = [(CORRUPT_IMAGE + key, 1.0) for key in corrupt[:MAX_NAMED_CORRUPT]]
    return [("corrupt_images", float(len(corrupt))), *named]
