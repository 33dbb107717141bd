"""Linear evaluation on ImageNet: a classifier fitted by SGD on frozen features.

Ryali et al. 2021, A.3, Tables 2, 5, 9 and A12; CAST (Selvaraju et al. 2021), Table 1. The settings are those of the
method that the backbone was trained with, see `_PROTOCOLS`. The scores after the last epoch are reported; those of the
best epoch, which MoCo's released script takes, stand beside them.

The classifier stays in the run's folder as linear.safetensors (of a weights file: in FILE.evaluation), backbone and
`fc` under torchvision's names, and is what every later evaluation of these weights scores, where they have no other.

Table A12 of Ryali et al. has MoCo and BYOL with BatchNorm's statistics adapted while the classifier is fitted, which is
what Table 2 reports ("parameters were frozen"), and SwAV without ("parameters and buffers"): `bn_mode`.
"""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from torch import nn

from backdrop.disk_errors import disk_errors
from backdrop.ranks import present
from backdrop.settings import SEEDS, above, at_least, check_settings, one_of
from backdrop.stores.images.imagenet_statistics import IMAGENET_STD
from backdrop.tensor_files import write_tensors
from backdrop.trainer.downstream_settings import LinearProtocol, Schedule
from backdrop.trainer.evaluation.data.imagenet import LAYOUT, SOURCE, Splits, open_splits
from backdrop.trainer.evaluation.data.transforms import Transform, random_resized_crop, standard
from backdrop.trainer.evaluation.harness.defaults import no_facts, no_problems, nothing_beside
from backdrop.trainer.evaluation.harness.method_numbers import stated_by
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import FITTED, PROBE_FILE, Subject, pretrained_backbone, weights_digest
from backdrop.trainer.evaluation.probing.features import FORMATS
from backdrop.trainer.evaluation.probing.frozen_backbone import BN_MODES, Probing, fit_head
from backdrop.trainer.parts.backbones import Backbone
from backdrop.trainer.run import run_folder

__all__ = [
    "DATA",
    "LAYOUT",
    "SOURCE",
    "TAKES_DAYS",
    "Options",
    "check_training",
    "facts_of",
    "facts_of_data",
    "needed_beside",
    "probing_of",
    "problems_of_data",
    "protocol_of",
    "run",
]

DATA = "imagenet"
TAKES_DAYS = False
needed_beside = nothing_beside
facts_of_data = no_facts
problems_of_data = no_problems
TRAININGS = ("crops", "cached_crops", "cached_centre")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen; None and "" stand for the method's own setting of A.3."""

    protocol: Annotated[
        str,
        'Whose settings, a method that states some; "" = the method of the run, moco for a weights file',
    ] = ""
    epochs: Annotated[int | None, at_least(1), "Passes over the images"] = None
    batch_size: Annotated[int | None, at_least(1), "Images a step"] = None
    lr: Annotated[float | None, at_least(0), "Rate for 256 images a step, scaled linearly with the batch"] = None
    weight_decay: Annotated[float | None, at_least(0), "L2 penalty of the classifier's weights"] = None
    warmup_epochs: Annotated[float | None, at_least(0), "Linear warm-up from 0"] = None
    nesterov: Annotated[bool | None, "Whether momentum is Nesterov's"] = None
    step_epochs: Annotated[
        tuple[int, ...] | None,
        at_least(0),
        "Epochs at which the rate falls; none of them = half a cosine",
    ] = None
    step_fractions: Annotated[
        tuple[float, ...] | None,
        at_least(0),
        "To what fraction of its peak the rate falls each time",
    ] = None
    bn_mode: Annotated[
        str,
        one_of(("", *BN_MODES)),
        "Adapt: BatchNorm normalises by the batch, its statistics follow; eval: as they were trained",
    ] = ""
    images_per_pass: Annotated[
        int,
        at_least(2),
        "Images of a forward pass; with adapt, those normalised together: 64 on each of the paper's GPUs",
    ] = 64
    init_std: Annotated[
        float | None,
        at_least(0),
        "Standard deviation of the classifier's weights before the fit",
    ] = None
    training: Annotated[
        str,
        one_of(TRAININGS),
        "Crops: fresh random resized crops and flips in every epoch. cached_crops: num_cached_crops of them "
        "for each image, their features computed once and taken in turn. cached_centre: the evaluation's "
        "crop. Both need bn_mode eval",
    ] = "crops"
    num_cached_crops: Annotated[
        int,
        at_least(1),
        "Crops of each image whose features are kept, with training=cached_crops",
    ] = 4
    red_std: Annotated[
        float,
        above(0),
        "Standard deviation of the red channel: 0.228 in SwAV's released code",
    ] = IMAGENET_STD[0]
    dtype: Annotated[str, one_of(FORMATS), "Format of features that are kept"] = "float16"
    score_epochs: Annotated[
        int,
        at_least(1),
        "The validation images are scored after every so many epochs, and after the last",
    ] = 1
    seed: Annotated[int, SEEDS, "Of the classifier's weights, the order and the crops"] = 0


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Fit a classifier and score it: top1 and top5 after the last epoch, best_top1 and best_top5."""
    result = Result()
    protocol = protocol_of(subject, options)
    splits = open_splits(data, result)
    backbone = pretrained_backbone(subject)
    probing = probing_of(subject, backbone, splits, protocol, options, name="linear")
    fitted = fit_head(
        probing,
        protocol.schedule,
        init_std=protocol.init_std,
        has_batch_norm=protocol.has_batch_norm,
        seed=options.seed,
        score_epochs=options.score_epochs,
    )
    result.metrics = {**_tops(fitted.last), **{f"best_{name}": value for name, value in _tops(fitted.best).items()}}
    result.facts |= facts_of(subject, protocol, probing, options)
    result.facts |= {"best_epoch": fitted.best["epoch"], "loss": fitted.last["loss"]}
    result.note_corrupt(sorted(fitted.corrupt))
    if not splits.is_imagenet:
        result.facts["probe"] = "not left: other classes than ImageNet's"
    elif not isinstance(fitted.model, nn.Linear):
        result.facts["probe"] = "not left: it is not on pooled features"
    elif subject.run is None and "conv1.weight" not in backbone.state_dict():
        result.facts["probe"] = "not left: the weights are no ResNet's, and of no run that says whose"
    elif subject.head is not None and subject.classifier != FITTED:
        result.facts["probe"] = f"not left: the classifier {subject.classifier} is what is scored"
    else:
        metadata = {"bn_mode": protocol.bn_mode, "pretrained_sha256": probing.weights_sha256}
        metadata |= {"protocol": json.dumps(asdict(protocol)), "scores": json.dumps(_tops(fitted.last))}
        result.facts["probe"] = _leave(subject, backbone, fitted.model, metadata).name
    return result


def protocol_of(subject: Subject, options: Options) -> LinearProtocol:
    """Return a method's settings with the user's changes. Raises: UserError: there is no such protocol or training."""
    check_training(options)
    _, protocol = stated_by(
        subject.method, options.protocol, "protocol", "protocol of a linear classifier", lambda each: each.linear
    )
    stated = {field.name for field in fields(Schedule)}
    chosen = {name: value for name, value in asdict(options).items() if name in stated}
    if chosen["step_epochs"] is not None and chosen["step_fractions"] is None:
        # Fewer or more steps than the method has fall to a tenth each.
        chosen["step_fractions"] = tuple(0.1 ** (step + 1) for step in range(len(chosen["step_epochs"])))
    schedule = replace(protocol.schedule, **{field: value for field, value in chosen.items() if value is not None})
    # Features that are kept cannot follow the batch.
    bn_mode = options.bn_mode or (protocol.bn_mode if options.training == "crops" else "eval")
    init_std = protocol.init_std if options.init_std is None else options.init_std
    return replace(protocol, schedule=schedule, bn_mode=bn_mode, init_std=init_std)


def check_training(options: Options) -> None:
    """Raise UserError where there is no such way to train."""
    check_settings(options)


def probing_of(
    subject: Subject, backbone: Backbone, splits: Splits, protocol: LinearProtocol, options: Options, *, name: str
) -> Probing:
    """Return what is probed: which images, with which transforms."""
    size_px, seed = subject.image_size_px, options.seed
    std = (options.red_std, *IMAGENET_STD[1:])

    def crop(epoch: int) -> Transform:
        return replace(random_resized_crop(size_px, seed=seed, epoch=epoch), std=std)

    centre = replace(standard(size_px), std=std)
    num_cached = min(options.num_cached_crops, protocol.schedule.epochs)
    cached = {"cached_crops": tuple(crop(number) for number in range(num_cached)), "cached_centre": (centre,)}
    cached_transforms = cached.get(options.training, ())
    return Probing(
        backbone=backbone,
        weights_sha256=weights_digest(backbone, None),
        name=name,
        folder=subject.folder,
        device=subject.device,
        train=splits.train,
        val=splits.val,
        num_classes=splits.num_classes,
        val_transform=centre,
        transform_of_epoch=crop if options.training == "crops" else None,
        cached_transforms=cached_transforms,
        cached_transform_of=lambda epoch, rows: np.full(len(rows), epoch % len(cached_transforms)),
        bn_mode=protocol.bn_mode,
        images_per_pass=options.images_per_pass,
        pooling=protocol.pooling,
        cache_dtype=options.dtype,
    )


def facts_of(subject: Subject, protocol: LinearProtocol, probing: Probing, options: Options) -> dict:
    """Return what decides a probe's score besides weights and images."""
    training = {
        "crops": f"random resized crop {subject.image_size_px}, flip",
        "cached_crops": f"{len(probing.cached_transforms)} random resized crops {subject.image_size_px}, flip, kept",
        "cached_centre": "as in validation, kept",
    }[options.training]
    return {
        "pretrained_sha256": probing.weights_sha256,
        "protocol": asdict(protocol),
        "bn_mode": protocol.bn_mode,
        "images_per_pass": options.images_per_pass,
        "training transform": training,
        "transform": probing.val_transform.name,
        "red_std": options.red_std,
        "num_classes": probing.num_classes,
        "projection": "none",
        "reported": "last epoch",
    }


def _tops(scores: dict[str, float]) -> dict[str, float]:
    return {name: scores[name] for name in ("top1", "top5")}


def _leave(subject: Subject, backbone: Backbone, head: nn.Linear, metadata: dict[str, str]) -> Path:
    """Write backbone and classifier for the evaluations after this one.

    Args: metadata: what is said of them in the file's metadata.
    """
    folder = subject.probe_folder
    if subject.run is not None:
        settings = run_folder.read_settings(subject.run)
        metadata = metadata | {"backbone": settings.backbone, "cifar_stem": json.dumps(settings.cifar_stem)}
    tensors = {**backbone.state_dict(), **{f"fc.{name}": value for name, value in head.state_dict().items()}}
    path = folder / PROBE_FILE

    def write() -> None:
        with disk_errors(path):
            write_tensors(path, tensors, metadata)

    present(subject.device).by_first(write)
    return path
