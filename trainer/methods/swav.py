"""SwAV with multi-crop (Caron et al. 2020, "Unsupervised learning of visual features by contrasting cluster
assignments"), with CAST.

Shapes: V views, G global views, B batch, D embedding, K prototypes.
"""

import math
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from backdrop.errors import UserError
from backdrop.pipeline.views.device_stage import Views
from backdrop.pipeline.views.view_plan import Background, View, ViewPlan
from backdrop.settings import above, at_least
from backdrop.trainer import cast
from backdrop.trainer.downstream_settings import DetectorRates, Downstream, FinetuningRates, LinearProtocol, Schedule
from backdrop.trainer.losses.swapped_prediction import swapped_prediction
from backdrop.trainer.parts.backbones import Backbone
from backdrop.trainer.parts.background_numbers import BackgroundNumbers, numbers_of
from backdrop.trainer.parts.embedding_spread import embedding_spread
from backdrop.trainer.parts.heads import batch_norm_head
from backdrop.trainer.parts.key_queue import KeyQueue, check_queue
from backdrop.trainer.parts.method_defaults import any_labels, check_several, whole_batch_only
from backdrop.trainer.parts.pretraining_method import ParameterGroup, QueryKeyMethod
from backdrop.trainer.parts.running_statistics import still_running_statistics
from backdrop.trainer.parts.sinkhorn import assign_codes

DEFAULT_RECIPE = "swav_100"
HAS_NEGATIVES = False
HAS_CAST = True
ALWAYS_CAST = False
# For the recipe `smoke`: numbers where the paper's are made for 4096 images a step or a million images; rate for 256.
# As many prototypes as a batch can use evenly, and codes sharp enough to tell apart embeddings that still are close
# together: with epsilon 0.05 the loss stays at ln K.
SMOKE = {"hidden_dim": 512, "num_prototypes": 20, "freeze_prototypes_steps": 25, "sinkhorn_epsilon": 0.02}
SMOKE_LR = 0.4
# The released code (eval_semisup.py): both rates fall to a fifth.
_TWENTY = Schedule(epochs=20, batch_size=256, lr=1.0, step_epochs=(12, 16), step_fractions=(0.2, 0.04))
DOWNSTREAM = Downstream(
    # Ryali A.3, which states no rate: 0.3 for 256 images and the weight decay are those of the released code.
    linear=LinearProtocol(
        bn_mode="eval", schedule=Schedule(epochs=100, batch_size=2048, lr=0.3, weight_decay=1e-6, warmup_epochs=5)
    ),
    # Ryali A.5.2.
    finetuning={
        1: FinetuningRates(head_lr=5.0, trunk_lr=0.02, schedule=_TWENTY),
        10: FinetuningRates(head_lr=0.2, trunk_lr=0.01, schedule=_TWENTY),
    },
    # VISSL's configuration of the paper.
    voc_detection=DetectorRates(lr=0.1, warmup_iterations=1_000, warmup_start_fraction=1 / 3),
)

_NUM_GLOBAL = 2
_NUM_LOCAL = 6
# Ryali A.1.
_BACKGROUNDS = {
    "rm": BackgroundNumbers(probability=0.25, min_foreground=0.15),
    "random": BackgroundNumbers(probability=0.2, min_foreground=0.15),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """SwAV's own numbers (released code, batch 4096)."""

    hidden_dim: Annotated[
        int,
        at_least(1),
        "Width of the projector's hidden layer; Ryali 4.6 uses 4096 with 256 for strong backgrounds",
    ] = 2048
    embedding_dim: Annotated[int, at_least(1), "Length of the embedding"] = 128
    num_prototypes: Annotated[int, at_least(2), "Number of prototypes (K)"] = 3000
    temperature: Annotated[float, above(0), "tau of the prediction"] = 0.1
    sinkhorn_epsilon: Annotated[
        float,
        above(0),
        "Smoothness of the codes; lower (0.03) when the loss stays at ln K",
    ] = 0.05
    sinkhorn_iterations: Annotated[int, at_least(1), "Normalisations of rows and columns that make the codes"] = 3
    freeze_prototypes_steps: Annotated[
        int,
        at_least(0),
        "First steps in which the prototypes stay as drawn; released: one epoch at 4096 (313), 5005 steps at batch 256",
    ] = 313
    queue_size: Annotated[
        int,
        at_least(0),
        "Earlier embeddings per global view that join the batch when codes are assigned; 0 = none (released: 3840 "
        "at 256)",
    ] = 0
    queue_start_epoch: Annotated[int, at_least(0), "Epoch from which the queue is filled; it is used once full"] = 15


def view_plan(background: str = "none") -> ViewPlan:
    """Return SwAV's 2 global and 6 local views with Ryali's setting of one background augmentation.

    Ryali A.1 gives FG_min without naming views; it constrains the global ones here, the only ones whose background is
    altered (a local crop of at most 14 % of the image could seldom hold 15 % of a large foreground).

    Args: background: a name of backdrop.pipeline.views.backgrounds.
    """
    numbers = numbers_of(background, _BACKGROUNDS)
    large = View(scale=(0.14, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), min_foreground=numbers.min_foreground)
    local = replace(large, size_px=96, scale=(0.05, 0.14), min_foreground=0.0, is_global=False)
    return ViewPlan(
        views=(large,) * _NUM_GLOBAL + (local,) * _NUM_LOCAL,
        background=Background(name=background, probability=numbers.probability),
    )


def check(settings: Settings, batch_size: int) -> None:
    """Raise UserError when the settings do not fit together or with the batch size."""
    check_several(batch_size, "SwAV")
    if settings.queue_size:
        check_queue(settings.queue_size, batch_size, "algorithm.queue_size")


check_labels = any_labels
check_parts = whole_batch_only


def expected_curve(settings: Settings) -> str:
    """Return what to expect of swapped_loss. Args: settings: the number of prototypes counts."""
    chance = math.log(settings.num_prototypes)
    return (
        f"swapped_loss starts at or a little above ln(num_prototypes) = {chance:.2f}, every prototype as likely as any "
        "other, and stays there for the first epoch or two, the steps with frozen prototypes among them; then it falls "
        "slowly. Should it stay, set algorithm.sinkhorn_epsilon=0.03. prototype_entropy near the same number says that "
        "all prototypes are used, near 0 that one takes all. When the queue starts, the loss may rise for a while."
    )


class Method(QueryKeyMethod):
    """Backbone, projector, prototypes and, optionally, a queue per global view."""

    num_steps_done: Tensor
    # The prototypes, in their frozen steps.
    has_unused_parameters = True

    def __init__(self, backbone: Backbone, settings: Settings, *, seed: int, cast: cast.Settings | None = None) -> None:
        """Build the heads around a backbone; their weights come from torch's current generator.

        Args: seed: of the queues. cast: CAST's settings, None = without.
        """
        super().__init__()
        self.settings = settings
        if cast is not None and cast.key_pass == "shared":
            raise UserError("cast.key_pass=shared: SwAV has no key network whose pass could be shared; leave it out")
        self.cast = cast
        self.backbone = backbone
        self.projector = batch_norm_head(
            backbone.num_features, settings.hidden_dim, settings.embedding_dim, output_bias=True
        )
        self.prototypes = nn.Linear(settings.embedding_dim, settings.num_prototypes, bias=False)
        generator = torch.Generator().manual_seed(seed)
        num_queues = _NUM_GLOBAL if settings.queue_size else 0
        self.queues = nn.ModuleList(
            KeyQueue(settings.queue_size, settings.embedding_dim, generator, is_dealt=True) for _ in range(num_queues)
        )
        self.register_buffer("num_steps_done", torch.zeros((), dtype=torch.int64))

    def embed_query(self, pooled_BD: Tensor) -> Tensor:
        """Return embeddings (B, E), unit length, of the backbone's pooled features (B, D)."""
        return functional.normalize(self.projector(pooled_BD), dim=1)

    def embed_key(self, image_B3HW: Tensor) -> Tensor:
        """Return embeddings (B, E), unit length, of images: the same network's, SwAV has no other."""
        return self.embed_query(self.backbone(image_B3HW))

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return all parameters; the prototypes move only after their first frozen steps."""
        return [ParameterGroup(named=list(self.named_parameters()))]

    def training_step(self, views: Views) -> dict[str, Tensor]:
        """Return the losses of one batch: the global views come first."""
        self._normalise_prototypes()
        map_GBDhw, pooled_VBD = self._features(views.images)
        prototypes_KD = self.prototypes.weight
        if int(self.num_steps_done) < self.settings.freeze_prototypes_steps:
            # Without a gradient the optimiser skips them, weight decay included, as in the released code.
            prototypes_KD = prototypes_KD.detach()
        embedding_VBD = self._embed(pooled_VBD)
        score_VBK = embedding_VBD @ prototypes_KD.T
        code_GBK = self._codes(embedding_VBD.detach(), score_VBK.detach(), views.epoch)
        losses = {"swapped_loss": swapped_prediction(code_GBK, score_VBK, self.settings.temperature)}
        losses["loss"] = losses["swapped_loss"]
        losses["embedding_spread"] = embedding_spread(embedding_VBD[0])
        if self.cast is not None:
            losses |= self._attention(self.cast, views, map_GBDhw, pooled_VBD, score_VBK)
            losses["loss"] = cast.total(self.cast, losses["swapped_loss"], losses["attention_loss"])
        # Between 0 (one prototype takes all) and ln K: how evenly the batch uses the prototypes.
        share_K = torch.softmax(score_VBK[0].detach() / self.settings.temperature, dim=1).mean(dim=0)
        return losses | {"prototype_entropy": -(share_K * share_K.clamp_min(1e-12).log()).sum()}

    def after_step(self, step: int, num_steps: int) -> None:
        """Count the step. Args: step: the step just done. num_steps: of the whole run."""
        self.num_steps_done += 1

    @torch.no_grad()
    def _normalise_prototypes(self) -> None:
        self.prototypes.weight.copy_(functional.normalize(self.prototypes.weight, dim=1))

    def _features(self, images: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the global views' maps and every view's pooled features: one backbone pass per run of equal sizes."""
        maps: list[Tensor] = []
        for _, group in groupby(images, key=lambda image: image.shape[-1]):
            run = list(group)
            maps += self.backbone.forward_map(torch.cat(run)).chunk(len(run))
        return maps[:_NUM_GLOBAL], [map_BDhw.mean(dim=(2, 3)) for map_BDhw in maps]

    def _embed(self, pooled_VBD: list[Tensor]) -> Tensor:
        """Return (V, B, D) unit embeddings of pooled features: one projector pass for all views, as released."""
        embedding = functional.normalize(self.projector(torch.cat(pooled_VBD)), dim=1)
        return embedding.unflatten(0, (len(pooled_VBD), -1))

    def _attention(
        self,
        settings: cast.Settings,
        views: Views,
        map_GBDhw: list[Tensor],
        pooled_VBD: list[Tensor],
        score_VBK: Tensor,
    ) -> dict[str, Tensor]:
        """Return CAST's losses: each global view is the query of the other, the mean of both directions is taken.

        CAST is defined by q . k_m, which SwAV has not. What stands for it is what SwAV makes large: the log-likelihood
        of the masked key's code under the query's prediction.
        """
        code_GBK = self._masked_codes(views)
        sums: dict[str, Tensor] = {}
        for query in range(_NUM_GLOBAL):
            key = 1 - query
            log_probability_BK = torch.log_softmax(score_VBK[query] / self.settings.temperature, dim=1)
            found = cast.attention(
                settings,
                (code_GBK[key] * log_probability_BK).sum(dim=1),
                pooled_VBD[query],
                map_GBDhw[query],
                cast.query_mask(settings, views, query, key),
                views.masks[key],
            )
            sums = {name: sums.get(name, 0.0) + value / _NUM_GLOBAL for name, value in found.items()}
        return sums

    @torch.no_grad()
    def _masked_codes(self, views: Views) -> Tensor:
        """Return the codes (G, B, K) of the masked global views, which leave no trace in the running statistics."""
        pairs = zip(views.images[:_NUM_GLOBAL], views.masks[:_NUM_GLOBAL], strict=True)
        with still_running_statistics(self):
            pooled = [self.backbone(cast.masked_key(image, mask)) for image, mask in pairs]
            score_GBK = self._embed(pooled) @ self.prototypes.weight.T
        return torch.stack([self._assign(score_BK) for score_BK in score_GBK])

    @torch.no_grad()
    def _codes(self, embedding_VBD: Tensor, score_VBK: Tensor, epoch: int) -> Tensor:
        """Return the codes (G, B, K) of the global views, from the batch and the queue once it is full."""
        codes = []
        for index in range(_NUM_GLOBAL):
            score_BK = score_VBK[index]
            batch_size = len(score_BK)
            if self.queues and epoch >= self.settings.queue_start_epoch:
                queue = self.queues[index]
                assert isinstance(queue, KeyQueue)
                if queue.is_full():
                    score_BK = torch.cat([queue.keys_KD @ self.prototypes.weight.T, score_BK])
                queue.enqueue(embedding_VBD[index])
            codes.append(self._assign(score_BK)[-batch_size:])
        return torch.stack(codes)

    def _assign(self, score_BK: Tensor) -> Tensor:
        return assign_codes(
            score_BK,
            epsilon=self.settings.sinkhorn_epsilon,
            num_iterations=self.settings.sinkhorn_iterations,
        )
