"""ImageNet with the labels of 1 % and 10 % of its training images: a linear classifier, and the network fine-tuned.

Ryali et al. 2021, A.5, Tables 6 and A13; the splits are those of SimCLR (Chen et al. 2020), 1 % a subset of 10 %.
Linear: everything as in `linear`. Fine-tuned: the classifier and the trunk with rates of their own, `_FINETUNING`.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from backdrop.errors import UserError
from backdrop.settings import at_least, check_settings, one_of
from backdrop.stores.images.image_codec import sha256
from backdrop.stores.indexes.imagenet_classes import CLASS_OF_WNID
from backdrop.stores.indexes.kept_trees import files_below
from backdrop.trainer.downstream_settings import FinetuningRates, Schedule, check_schedule
from backdrop.trainer.evaluation import linear
from backdrop.trainer.evaluation.data.batches import prepared
from backdrop.trainer.evaluation.data.imagenet import LAYOUT as LAYOUT_OF_IMAGES
from backdrop.trainer.evaluation.data.imagenet import Splits, open_splits
from backdrop.trainer.evaluation.data.images import Images, LabelledImages
from backdrop.trainer.evaluation.data.transforms import Transform
from backdrop.trainer.evaluation.harness.defaults import no_problems
from backdrop.trainer.evaluation.harness.method_numbers import stated_by
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import Subject, pretrained_backbone
from backdrop.trainer.evaluation.linear import Options as LinearOptions
from backdrop.trainer.evaluation.probing.frozen_backbone import Probing, fit_head, identity_of
from backdrop.trainer.evaluation.probing.probe import Fit, epoch_batches, fit, new_head
from backdrop.trainer.parts.collectives import num_processes, rank
from backdrop.trainer.parts.pieces import own_pieces
from backdrop.trainer.parts.sync_batch_norm import synchronise_batch_norms

DATA = "imagenet"
LAYOUT = f"{LAYOUT_OF_IMAGES}; and ROOT/1percent.txt, ROOT/10percent.txt"
SOURCE = "lists: github.com/google-research/simclr (imagenet_subsets), images: https://www.image-net.org (ILSVRC2012)"
TAKES_DAYS = False
problems_of_data = no_problems
NUM_IMAGES = {1: 12_811, 10: 128_116}
_MODES = ("linear", "finetune")
_EVALUATION_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """Changes to the fine-tuning; None stands for the method's own setting of A.5.2."""

    epochs: Annotated[int | None, at_least(1), "Passes over the images"] = None
    batch_size: Annotated[int | None, at_least(1), "Images a step"] = None
    head_lr: Annotated[float | None, at_least(0), "Rate of the classifier for 256 images a step"] = None
    trunk_lr: Annotated[float | None, at_least(0), "Rate of the trunk, likewise"] = None
    weight_decay: Annotated[float | None, at_least(0), "Of both"] = None
    step_epochs: Annotated[tuple[int, ...] | None, at_least(0), "Epochs at which both rates fall"] = None
    step_fractions: Annotated[tuple[float, ...] | None, at_least(0), "To what fraction of the peak each time"] = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen."""

    percents: Annotated[tuple[int, ...], one_of(NUM_IMAGES), "Shares of the labels, in percent"] = (
        1,
        10,
    )
    modes: Annotated[
        tuple[str, ...],
        one_of(_MODES),
        "What is fitted: a linear classifier on frozen features, the whole network, or both",
    ] = _MODES
    lists: Annotated[str, 'Folder of the two lists; "" = beside train/'] = ""
    linear: Annotated[
        LinearOptions,
        "Of the linear classifier, and what both have in common: seed, protocol, red_std, score_epochs",
    ] = field(default_factory=LinearOptions)
    finetune: Annotated[Finetuning, "Of the fine-tuning"] = field(default_factory=Finetuning)


def needed_beside(data: Path, options: Options) -> list[Path]:
    """Return the lists, one per share, that must be there besides the images."""
    folder = Path(options.lists) if options.lists else data
    return [folder / f"{percent}percent.txt" for percent in options.percents]


def facts_of_data(data: Path, options: Options) -> dict[str, Any]:
    """Return which lists a score is of. Raises: UserError: one cannot be read."""
    lists = zip(options.percents, needed_beside(data, options), strict=True)
    return {"lists": {f"{percent} %": f"sha256 {sha256(_read(path)).hex()}" for percent, path in lists}}


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Fit and score on every share and in every mode: linear_1_top1, linear_1_top5, finetune_1_top1, ..."""
    check_settings(options)
    result = Result()
    splits = open_splits(data, result)
    if not splits.is_imagenet:
        raise UserError(f"the lists name images of ImageNet's, and {data} has other classes. Expected: {LAYOUT}")
    # The whole training set is not needed here, only what the lists name.
    result.facts.pop("train images")
    result.problems = [problem for problem in result.problems if not problem.startswith("train images")]
    lists = zip(options.percents, needed_beside(data, options), strict=True)
    subsets = {percent: listed_images(path, splits.train.root, percent, result) for percent, path in lists}
    result.facts |= {**facts_of_data(data, options), "projection": "none", "bn_mode": {}}
    for percent, train in subsets.items():
        for mode in options.modes:
            scores = _MODE[mode](subject, replace(splits, train=train), percent, options, result)
            result.metrics |= {f"{mode}_{percent}_{name}": value for name, value in scores.items()}
    return result


def listed_images(path: Path, train: Path, percent: int, result: Result) -> Images:
    """Read a list of file names, `<wnid>_<number>.JPEG` a line, and find the images.

    Args: path: of the list. train: folder of the class folders. result: where the count is noted.
    Raises: UserError: no such list, a line of another kind, or images that are not there, with their number: training
        on what is left would score another split.
    """
    names = _read(path).decode(errors="replace").split()
    wnids = [name.partition("_")[0] for name in names]
    strange = [name for name, wnid in zip(names, wnids, strict=True) if wnid not in CLASS_OF_WNID or "/" in name]
    if strange or not names:
        raise UserError(
            f"{path} has lines that name no image, e.g. {(strange or ['(it is empty)'])[0]!r}. From: {SOURCE}"
        )
    keys = [f"{wnid}/{name}" for wnid, name in zip(wnids, names, strict=True)]
    sizes = dict(files_below(train).files())
    missing = [key for key in keys if sizes.get(key, -1) < 0]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(keys)} images of {path} are not in {train}, e.g. {missing[0]}; "
            "get the whole training set, or give the folder of other lists with --set lists=DIR"
        )
    result.expect(f"{percent} % of the labels", len(keys), NUM_IMAGES[percent])
    sizes_bytes = np.array([sizes[key] for key in keys], dtype=np.int64)
    return Images(train, tuple(keys), np.array([CLASS_OF_WNID[wnid] for wnid in wnids]), sizes_bytes=sizes_bytes)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"the list {path} cannot be read ({error.strerror}). Expected: {LAYOUT}. From: {SOURCE}"
        ) from error


def _linear(subject: Subject, splits: Splits, percent: int, options: Options, result: Result) -> dict[str, float]:
    protocol = linear.protocol_of(subject, options.linear)
    probing = linear.probing_of(
        subject, pretrained_backbone(subject), splits, protocol, options.linear, name=f"labels-{percent}-linear"
    )
    fitted = fit_head(
        probing,
        protocol.schedule,
        init_std=protocol.init_std,
        has_batch_norm=protocol.has_batch_norm,
        seed=options.linear.seed,
        score_epochs=options.linear.score_epochs,
    )
    result.facts["linear"] = linear.facts_of(subject, protocol, probing, options.linear)
    _note(probing, "linear", protocol.bn_mode, result)
    return _scores(fitted, result)


def _finetune(subject: Subject, splits: Splits, percent: int, options: Options, result: Result) -> dict[str, float]:
    common = replace(options.linear, training="crops", bn_mode="eval")
    protocol = linear.protocol_of(subject, common)
    rates = _rates(subject, percent, options)
    backbone = pretrained_backbone(subject)
    probing = linear.probing_of(subject, backbone, splits, protocol, common, name=f"labels-{percent}-finetune")
    fitted = finetune(
        probing,
        rates.schedule,
        head_lr=rates.head_lr,
        trunk_lr=rates.trunk_lr,
        seed=common.seed,
        score_epochs=common.score_epochs,
    )
    result.facts[f"finetune {percent} %"] = asdict(rates)
    _note(probing, "finetune", "trained", result)
    return _scores(fitted, result)


def _note(probing: Probing, mode: str, bn_mode: str, result: Result) -> None:
    """Note what both modes have in common, and how BatchNorm stood in this one."""
    result.facts |= {"pretrained_sha256": probing.weights_sha256, "transform": probing.val_transform.name}
    result.facts["bn_mode"][mode] = bn_mode


_MODE = {"linear": _linear, "finetune": _finetune}


def _scores(fitted: Fit, result: Result) -> dict[str, float]:
    result.note_corrupt(sorted(fitted.corrupt))
    both = {"": fitted.last, "best_": fitted.best}
    return {f"{prefix}top{num}": scores[f"top{num}"] for prefix, scores in both.items() for num in (1, 5)}


def _rates(subject: Subject, percent: int, options: Options) -> FinetuningRates:
    _, rates = stated_by(
        subject.method,
        options.linear.protocol,
        "linear.protocol",
        f"rate of fine-tuning on {percent} % of the labels",
        lambda each: each.finetuning.get(percent),
    )
    changes: dict[str, Any] = {name: value for name, value in asdict(options.finetune).items() if value is not None}
    if "step_epochs" in changes and "step_fractions" not in changes:
        changes["step_fractions"] = tuple(0.1 ** (step + 1) for step in range(len(changes["step_epochs"])))
    own = {name: changes.pop(name) for name in ("head_lr", "trunk_lr") if name in changes}
    return replace(rates, **own, schedule=replace(rates.schedule, **changes))


def finetune(
    probing: Probing,
    schedule: Schedule,
    *,
    head_lr: float,
    trunk_lr: float,
    seed: int,
    score_epochs: int,
) -> Fit:
    """Train a backbone and a new classifier on it together, BatchNorm included; the same call resumes.

    Args: probing: its backbone is changed. head_lr, trunk_lr: the rates for 256 images a step. seed: of the weights,
        the order and the crops.
    """
    check_schedule(schedule)
    head = new_head(probing.backbone.num_features, probing.num_classes, init_std=0.01, seed=seed)
    model = nn.Sequential(probing.backbone, head).to(probing.device)
    is_shared = num_processes() > 1
    if is_shared:
        # BatchNorm normalises by the whole step's images, as in one process.
        synchronise_batch_norms(model, None, device=probing.device, has_equal_shares=False)
    groups = [
        {"params": list(probing.backbone.parameters()), "lr_factor": trunk_lr},
        {"params": list(head.parameters()), "lr_factor": head_lr},
    ]
    state = Fit(name=probing.name, model=model, groups=groups, is_shared=is_shared)
    rows = np.arange(len(probing.train.label_N))
    assert probing.transform_of_epoch is not None
    transform_of_epoch = probing.transform_of_epoch

    def training(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        steps = epoch_batches(rows, schedule, seed=seed, epoch=epoch)
        return _images(
            probing,
            probing.train,
            transform_of_epoch(epoch),
            [step[rank() :: num_processes()] for step in steps],
            state,
        )

    def validation() -> Iterator[tuple[Tensor, Tensor]]:
        val_rows = np.arange(len(probing.val.label_N))
        batches = [val_rows[at : at + _EVALUATION_BATCH] for at in range(0, len(val_rows), _EVALUATION_BATCH)]
        return _images(probing, probing.val, probing.val_transform, list(own_pieces(batches)), state)

    decisive: list[Any] = [
        probing.weights_sha256,
        identity_of(probing.train),
        identity_of(probing.val),
        asdict(schedule),
        head_lr,
        trunk_lr,
        seed,
    ]
    decisive += [score_epochs, probing.val_transform.identity, transform_of_epoch(0).identity]
    digest = sha256(json.dumps(decisive).encode()).hex()
    path = probing.folder / f"{probing.name}-fit-{digest[:16]}.safetensors"
    fit(state, schedule, training, validation, num_rows=len(rows), path=path, score_epochs=score_epochs)
    return state


def _images(
    probing: Probing, images: LabelledImages, transform: Transform, batches: list[np.ndarray], state: Fit
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images (B, 3, H, W) and their classes; without any where a share of a step has none."""
    for batch in prepared(((images, rows) for rows in batches), transform, device=probing.device):
        state.corrupt.update(images.keys[row] for row in batch.corrupt_rows)
        if len(batch.row_B) or state.is_shared:
            yield batch.image_BCHW, torch.from_numpy(images.label_N[batch.row_B]).to(probing.device)
