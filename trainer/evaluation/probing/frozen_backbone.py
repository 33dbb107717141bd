"""A linear classifier on a backbone whose parameters stay as they are: where its features come from, step by step.

BatchNorm stands in one of two ways while the classifier is fitted. "eval": by its running statistics; a feature is then
a function of its image, and is kept in a file where the same transform comes again. "adapt": by each group of images,
while the running statistics follow them (parameters frozen, buffers not); every feature is then computed anew.

Legend: B batch, C h w feature map, D features.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from backdrop.errors import UserError
from backdrop.stores.images.image_codec import sha256
from backdrop.trainer.downstream_settings import Schedule, check_schedule
from backdrop.trainer.evaluation.data.batches import ImageBatch, forwarded
from backdrop.trainer.evaluation.data.images import LabelledImages
from backdrop.trainer.evaluation.data.transforms import Transform
from backdrop.trainer.evaluation.harness.subject import weights_digest
from backdrop.trainer.evaluation.probing.adapted_statistics import AdaptedStatistics
from backdrop.trainer.evaluation.probing.features import BATCH_SIZE, FeatureFile, Features, features_of
from backdrop.trainer.evaluation.probing.probe import (
    Batches,
    Fit,
    epoch_batches,
    fit,
    new_head,
    on_device,
    split,
)
from backdrop.trainer.parts.backbones import Backbone

BN_MODES = ("eval", "adapt")
POOLINGS = ("mean", "max6")
# Side of the map that RotNet's classifier looks at.
_MAP_SIDE = 6
_EVALUATION_ROWS = 4096


def identity_of(images: LabelledImages) -> str:
    """Digest of images and their classes."""
    return sha256(images.identity.encode() + np.ascontiguousarray(images.label_N, "<i8").tobytes()).hex()


@dataclass(frozen=True, kw_only=True)
class Probing:
    """What is probed, on what, and how BatchNorm stands.

    backbone: changed in place where bn_mode is "adapt". weights_sha256: its digest before.
    name: of the evaluation, for files. folder: where those lie.
    transform_of_epoch: how training images are cut afresh in each epoch.
    cached_transforms, cached_transform_of: instead: features with each of a few transforms are kept, and the second
        says which one an epoch takes of each row, (epoch, rows int64 (B,)) to int64 (B,).
    val_transform: of the validation images.
    images_per_pass: images of a forward pass; with "adapt", those that BatchNorm normalises together.
    pooling: "mean" of the feature map; "max6": its maxima on 6 x 6 fields (RotNet).
    cache_dtype: float16 or float32.
    """

    backbone: Backbone
    weights_sha256: str
    name: str
    folder: Path
    device: torch.device
    train: LabelledImages
    val: LabelledImages
    num_classes: int
    val_transform: Transform
    transform_of_epoch: Callable[[int], Transform] | None = None
    cached_transforms: tuple[Transform, ...] = ()
    cached_transform_of: Callable[[int, np.ndarray], np.ndarray] | None = None
    bn_mode: str = "eval"
    images_per_pass: int = BATCH_SIZE
    pooling: str = "mean"
    cache_dtype: str = "float16"

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return features (B, D), or (B, D * 36) with "max6"."""
        if self.pooling == "mean":
            return self.backbone(image_BCHW)
        return functional.adaptive_max_pool2d(self.backbone.forward_map(image_BCHW), _MAP_SIDE).flatten(1)


def fit_head(
    probing: Probing,
    schedule: Schedule,
    *,
    init_std: float = 0.01,
    has_batch_norm: bool = False,
    seed: int = 0,
    score_epochs: int = 1,
) -> Fit:
    """Fit a classifier; the same call resumes, and returns at once where it was done before.

    Args: probing, schedule: what and how. init_std: of the weights before the fit. has_batch_norm: whether a BatchNorm
        without parameters stands before the classifier (RotNet). seed: of weights, order and crops.
        score_epochs: how often the validation images are scored.
    Returns: the fit: its model maps features to logits, its history holds the scores.
    Raises: UserError: settings out of range, no image can be decoded, the loss diverges.
    """
    _check(probing, schedule)
    frozen = _frozen_digest(probing)
    model = _model(probing, init_std=init_std, has_batch_norm=has_batch_norm, seed=seed).to(probing.device)
    state = Fit(
        name=probing.name,
        model=model,
        groups=[{"params": list(model.parameters()), "lr_factor": 1.0}],
        kept=dict(probing.backbone.named_buffers()) if probing.bn_mode == "adapt" else {},
    )
    decisive: list[Any] = [
        probing.weights_sha256,
        identity_of(probing.train),
        identity_of(probing.val),
        asdict(schedule),
    ]
    decisive += [
        init_std,
        has_batch_norm,
        seed,
        score_epochs,
        probing.bn_mode,
        probing.images_per_pass,
        probing.pooling,
    ]
    decisive += [
        probing.cache_dtype,
        probing.val_transform.identity,
        [each.identity for each in probing.cached_transforms],
    ]
    decisive += [probing.transform_of_epoch(0).identity if probing.transform_of_epoch else "", probing.num_classes]
    digest = sha256(json.dumps(decisive).encode()).hex()
    source = _Source(probing, schedule, seed, state)
    fit(
        state,
        schedule,
        source.training,
        source.validation,
        num_rows=len(probing.train.label_N),
        path=probing.folder / f"{probing.name}-fit-{digest[:16]}.safetensors",
        score_epochs=score_epochs,
    )
    probing.backbone.eval()
    assert _frozen_digest(probing) == frozen, "the fit of a classifier changed the backbone it was to leave alone"
    return state


def _check(probing: Probing, schedule: Schedule) -> None:
    check_schedule(schedule)
    if probing.bn_mode == "adapt" and probing.cached_transforms:
        raise UserError(
            "features that are kept need bn_mode=eval: with adapt they change with each group of images; "
            "add --set bn_mode=eval, or train on fresh crops"
        )


def _frozen_digest(probing: Probing) -> str:
    """Digest of what no fit may change: parameters, and with "eval" the buffers too."""
    if probing.bn_mode == "eval":
        return weights_digest(probing.backbone, None)
    parts = [p.detach().cpu().contiguous().numpy().tobytes() for _, p in sorted(probing.backbone.named_parameters())]
    return sha256(b"".join(parts)).hex()


def _model(probing: Probing, *, init_std: float, has_batch_norm: bool, seed: int) -> nn.Module:
    num_features = probing.backbone.num_features
    if probing.pooling == "mean":
        return new_head(num_features, probing.num_classes, init_std=init_std, seed=seed)
    head = new_head(num_features * _MAP_SIDE**2, probing.num_classes, init_std=init_std, seed=seed)
    norm = [nn.BatchNorm2d(num_features, affine=False)] if has_batch_norm else []
    return nn.Sequential(nn.Unflatten(1, (num_features, _MAP_SIDE, _MAP_SIDE)), *norm, nn.Flatten(), head)


class _Source:
    """Where the features of a fit come from."""

    def __init__(self, probing: Probing, schedule: Schedule, seed: int, state: Fit) -> None:
        self.probing, self.schedule, self.seed, self.state = probing, schedule, seed, state
        self.kept: dict[str, Features] = {}

    def training(self, epoch: int) -> Batches:
        """The steps of an epoch."""
        return self._cached_steps(epoch) if self.probing.cached_transforms else self._live_steps(epoch)

    def validation(self) -> Batches:
        """A pass over the validation images."""
        probing = self.probing
        if probing.bn_mode == "eval":
            found = self._features(probing.val, probing.val_transform, "val")
            pieces = [found.row_M[at : at + _EVALUATION_ROWS] for at in range(0, len(found), _EVALUATION_ROWS)]
            arrays = ((found.feature_ND[rows], probing.val.label_N[rows]) for rows in pieces)
            return on_device(arrays, probing.device)
        rows = np.arange(len(probing.val.label_N))
        batches = [rows[at : at + BATCH_SIZE] for at in range(0, len(rows), BATCH_SIZE)]
        probing.backbone.eval()
        return self._passes(probing.val, probing.val_transform, [[batch] for batch in batches])

    def _live_steps(self, epoch: int) -> Batches:
        probing = self.probing
        assert probing.transform_of_epoch is not None
        rows = np.arange(len(probing.train.label_N))
        steps = epoch_batches(rows, self.schedule, seed=self.seed, epoch=epoch)
        pieces = [split(step, probing.images_per_pass) for step in steps]
        probing.backbone.train(probing.bn_mode == "adapt")
        return self._passes(probing.train, probing.transform_of_epoch(epoch), pieces)

    def _passes(
        self, images: LabelledImages, transform: Transform, pieces_of_step: list[list[np.ndarray]]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features and classes of each step, whose pieces go through the backbone one after the other.

        The backbone stays as it is, so that several processes take a piece each, whichever step it is of.
        """
        asked = ((images, piece) for pieces in pieces_of_step for piece in pieces)
        statistics = AdaptedStatistics(self.probing.backbone)

        def features_of_piece(batch: ImageBatch) -> tuple[Tensor, ...]:
            with torch.no_grad():
                return statistics.noted(lambda: self.probing.features(batch.image_BCHW))

        batches = forwarded(asked, transform, features_of_piece, device=self.probing.device)
        for pieces in pieces_of_step:
            features, rows = [], []
            for batch in itertools.islice(batches, len(pieces)):
                self.state.corrupt.update(images.keys[row] for row in batch.corrupt_rows)
                if batch.outputs:
                    features.append(batch.outputs[0])
                    rows.append(batch.row_B)
                for added in batch.outputs[1:]:
                    statistics.follow(added)
            if rows:
                label_B = torch.from_numpy(images.label_N[np.concatenate(rows)])
                yield torch.cat(features), label_B.to(self.probing.device)

    def _cached_steps(self, epoch: int) -> Batches:
        probing = self.probing
        assert probing.cached_transform_of is not None
        found = [
            self._features(probing.train, each, f"train-{number}")
            for number, each in enumerate(probing.cached_transforms)
        ]
        # An image that cannot be decoded cannot be with any transform.
        steps = epoch_batches(np.arange(len(probing.train.label_N)), self.schedule, seed=self.seed, epoch=epoch)
        is_there_N = np.zeros(len(probing.train.label_N), dtype=bool)
        is_there_N[found[0].row_M] = True
        for step in steps:
            rows = step[is_there_N[step]]
            if len(rows):
                which_B = probing.cached_transform_of(epoch, rows)
                feature_BD = np.empty((len(rows), found[0].feature_ND.shape[1]), found[0].feature_ND.dtype)
                for number in np.unique(which_B):
                    feature_BD[which_B == number] = found[number].feature_ND[rows[which_B == number]]
                yield next(on_device([(feature_BD, probing.train.label_N[rows])], probing.device))

    def _features(self, images: LabelledImages, transform: Transform, name: str) -> Features:
        if name not in self.kept:
            self.probing.backbone.eval()
            self.kept[name] = features_of(
                self.probing.features,
                images,
                transform,
                file=FeatureFile(
                    folder=self.probing.folder, name=f"{self.probing.name}-{name}", dtype=self.probing.cache_dtype
                ),
                identity=(self.probing.weights_sha256, self.probing.pooling),
                device=self.probing.device,
            )
            self.state.corrupt.update(self.kept[name].corrupt)
        return self.kept[name]
