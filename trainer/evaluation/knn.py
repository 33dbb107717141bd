"""Weighted k-nearest-neighbour classification of frozen features, with ImageNet-9's background challenge beside it.

Wu et al. 2018, arXiv 1805.01978, section 3.4: the k training images with the largest cosine similarity s vote for
their class with weight exp(s / T). k = 20 and T = 0.07 as in DINO's evaluation (Caron et al. 2021, arXiv 2104.14294),
training features from the evaluation transform. Background challenge: Xiao et al. 2021, arXiv 2006.09994.

Legend: N training images, M test images, D features, K neighbours, C classes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from stores.dataset_index import DatasetIndex
from stores.errors import UserError
from trainer.evaluation._images import LAYOUT as LAYOUT_OF_SPLITS
from trainer.evaluation._images import (
    ImageBatch,
    as_published,
    image_batches,
    labels_as,
    open_class_folders,
    open_split,
    standard,
)
from trainer.evaluation._result import Result
from trainer.evaluation._subject import Subject, untrained_like

DATA = "imagenet"
LAYOUT = LAYOUT_OF_SPLITS
SOURCE = "https://www.image-net.org (ILSVRC2012)"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen; the defaults are DINO's (Caron et al. 2021)."""

    # Neighbours that vote; all of them where there are fewer training images.
    k: int = 20
    # T of the votes exp(s / T).
    temperature: float = 0.07


VARIANTS = ("original", "only_fg", "no_fg", "mixed_same", "mixed_rand", "mixed_next", "only_bg_b", "only_bg_t")
CORRUPT_IMAGE = "corrupt_image/"  # a metric that names an image that could not be decoded
MAX_NAMED_CORRUPT = 20
_CHUNK = 128  # test images compared at once: similarities to ImageNet's 1.28 M images take 0.7 GB


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of a set of images.

    feature_ND: float32, unit length, on the device that computed it. label_N: int64, on the host.
    corrupt: keys of images that could not be decoded.
    """

    feature_ND: Tensor
    label_N: Tensor
    corrupt: tuple[str, ...]


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Score a network and, beside it, an untrained one of the same kind; see `score`."""
    found, untrained = (
        score(
            backbone,
            data,
            k=options.k,
            temperature=options.temperature,
            image_size=subject.image_size_px,
            device=subject.device,
        )
        for backbone in (subject.backbone, untrained_like(subject.backbone))
    )
    names = [metric.removeprefix(CORRUPT_IMAGE) for metric, _ in found if metric.startswith(CORRUPT_IMAGE)]
    return Result(
        metrics=_without_names(found),
        untrained=_without_names(untrained),
        facts={"image_size": subject.image_size_px, "transform": standard(subject.image_size_px).name},
        problems=[f"{name} cannot be decoded" for name in names],
    )


def _without_names(scores: list[tuple[str, float]]) -> dict[str, float]:
    return {metric: value for metric, value in scores if not metric.startswith(CORRUPT_IMAGE)}


def score(
    backbone: nn.Module,
    data_dir: str | Path,
    *,
    k: int = Options.k,
    temperature: float = Options.temperature,
    image_size: int = 224,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> list[tuple[str, float]]:
    """Score a backbone on the images of a folder.

    Args:
        backbone: images (B, 3, H, W), normalised, to features (B, D); left in the mode it was in.
        data_dir: holds train/<class>/ and val/<class>/, or "sample". Where it also holds variants/<variant>/<class>/
            (or variants/<variant>/val/<class>/), those are scored against the same training features.
        k: neighbours; all of them where there are fewer training images. temperature: T of the votes.
        image_size: side of the centre crop in pixels. batch_size: images per forward. device: where to compute.
    Returns:
        (metric, value) pairs in this order: top1, top5 (5 classes or more), <variant>_top1 for each variant found,
        bg_gap (mixed_same - mixed_rand), corrupt_images, and corrupt_image/<key> = 1 for the first of those.
        Accuracies are in percent of the images that could be decoded.
    Raises: UserError: a missing folder, an unknown class in val, a backbone with values that are not finite.
    """
    train_index, val_index = open_split(data_dir, "train"), open_split(data_dir, "val")
    names = train_index.class_names
    sets = {"train": train_index, "val": val_index, **_variants(train_index.root.parent)}
    label_of_set = {name: labels_as(index, names) for name, index in sets.items()}  # fails before the first forward
    features = {}
    for name, index in sets.items():
        batches = image_batches(
            index,
            label_of_set[name],
            transform=as_published(image_size) if name in VARIANTS else standard(image_size),
            batch_size=batch_size,
            device=torch.device(device),
            title=name,
        )
        features[name] = extract(backbone, batches)
        if not len(features[name].label_N):
            raise UserError(f"No image of {index.root} can be decoded, e.g. {features[name].corrupt[0]}.")
    corrupt = [f"{name}/{key}" for name, found in features.items() for key in found.corrupt]
    accuracies = {
        name: top_accuracies(features["train"], found, num_classes=len(names), k=k, temperature=temperature)
        for name, found in features.items()
        if name != "train"
    }
    return _metrics(accuracies, len(names)) + _corrupt_rows(corrupt)


def extract(backbone: nn.Module, batches: Iterable[ImageBatch]) -> Features:
    """Compute unit-length features.

    Args: backbone: (B, 3, H, W) to (B, D). batches: the images.
    Returns: Features, in order.
    Raises: UserError when a feature is not finite.
    """
    was_training = backbone.training
    backbone.eval()
    features: list[Tensor] = []
    labels: list[Tensor] = []
    corrupt: list[str] = []
    with torch.inference_mode():
        for batch in batches:
            corrupt += batch.corrupt
            if not len(batch.label_B):
                continue
            feature_BD = backbone(batch.image_BCHW).float()
            if not feature_BD.isfinite().all():
                raise UserError("The backbone gives features that are not finite: its training diverged. Train anew.")
            features.append(nn.functional.normalize(feature_BD, dim=1))
            labels.append(batch.label_B)
    backbone.train(was_training)
    return Features(
        feature_ND=torch.cat(features) if features else torch.empty(0),
        label_N=torch.cat(labels) if labels else torch.empty(0, dtype=torch.int64),
        corrupt=tuple(corrupt),
    )


def top_accuracies(
    train: Features, test: Features, *, num_classes: int, k: int, temperature: float
) -> tuple[float, float]:
    """Return the percentages of test images whose class gets the most votes, and is among the five with most votes.

    Args: train, test: features and labels. num_classes: C. k, temperature: as for `run`.
    """
    num_top1 = num_top5 = 0
    for start in range(0, len(test.label_N), _CHUNK):
        feature_MD = test.feature_ND[start : start + _CHUNK]
        vote_MC = votes(feature_MD, train, num_classes=num_classes, k=k, temperature=temperature)
        # A stable sort: of classes with equally many votes, the first counts as the winner, on every machine.
        ranked_MC = vote_MC.sort(dim=1, descending=True, stable=True).indices
        is_hit_MC = ranked_MC == test.label_N[start : start + _CHUNK, None]
        num_top1 += int(is_hit_MC[:, :1].sum())
        num_top5 += int(is_hit_MC[:, :5].sum())
    return 100.0 * num_top1 / len(test.label_N), 100.0 * num_top5 / len(test.label_N)


def votes(feature_MD: Tensor, train: Features, *, num_classes: int, k: int, temperature: float) -> Tensor:
    """Return the votes exp(s / T) of the k nearest training images, summed per class.

    Args: feature_MD: float32 (M, D), unit length. train: training features. num_classes: C. k, temperature: as `run`.
    Returns: float64 (M, C), on the host.
    """
    similarity_MN = feature_MD @ train.feature_ND.T
    neighbour_MK = nearest(similarity_MN, min(k, similarity_MN.shape[1]))
    weight_MK = (similarity_MN.gather(1, neighbour_MK).cpu().double() / temperature).exp()
    vote_MC = torch.zeros(len(feature_MD), num_classes, dtype=torch.float64)
    return vote_MC.scatter_add_(1, train.label_N[neighbour_MK.cpu()], weight_MK)


def nearest(similarity_MN: Tensor, k: int) -> Tensor:
    """Return the k most similar training images of each test image; of equally similar ones, the first.

    `topk` alone leaves open which of equal values it takes.

    Args: similarity_MN: float (M, N). k: 1 .. N. Returns: int64 (M, k), ascending rows of the training set.
    """
    smallest_M1 = similarity_MN.topk(k, dim=1).values[:, -1:]
    is_above_MN = similarity_MN > smallest_M1
    is_tied_MN = similarity_MN == smallest_M1
    num_free_M1 = k - is_above_MN.sum(dim=1, keepdim=True)
    is_taken_MN = is_above_MN | (is_tied_MN & (is_tied_MN.cumsum(dim=1, dtype=torch.int32) <= num_free_M1))
    return is_taken_MN.nonzero()[:, 1].reshape(len(similarity_MN), k)


def _variants(root: Path) -> dict[str, DatasetIndex]:
    """Return the variants found below root/variants, each with or without a val/ folder of its own."""
    found = {}
    for name in VARIANTS:
        folder = root / "variants" / name
        if folder.is_dir():
            found[name] = open_class_folders(folder / "val" if (folder / "val").is_dir() else folder)
    return found


def _metrics(accuracies: dict[str, tuple[float, float]], num_classes: int) -> list[tuple[str, float]]:
    results = [("top1", accuracies["val"][0])]
    if num_classes >= 5:
        results.append(("top5", accuracies["val"][1]))
    results += [(f"{name}_top1", accuracies[name][0]) for name in VARIANTS if name in accuracies]
    if "mixed_same" in accuracies and "mixed_rand" in accuracies:
        results.append(("bg_gap", accuracies["mixed_same"][0] - accuracies["mixed_rand"][0]))
    return results


def _corrupt_rows(corrupt: list[str]) -> list[tuple[str, float]]:
    named = [(CORRUPT_IMAGE + key, 1.0) for key in corrupt[:MAX_NAMED_CORRUPT]]
    return [("corrupt_images", float(len(corrupt))), *named]
