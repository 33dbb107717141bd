"""MoCo-v2 (He et al. 2020, "Momentum contrast"; Chen et al. 2020, "Improved baselines"), with BG_Swaps and CAST.

Shapes: B batch, D embedding, K queue.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from backdrop.errors import UserError
from backdrop.pipeline.views.device_stage import Views
from backdrop.pipeline.views.random_streams import NO_VIEW, bits
from backdrop.pipeline.views.view_plan import Background, View, ViewPlan
from backdrop.settings import above, at_least, one_of, within
from backdrop.trainer import cast
from backdrop.trainer.downstream_settings import DetectorRates, Downstream, FinetuningRates, LinearProtocol, Schedule
from backdrop.trainer.losses.info_nce import info_nce, similarities
from backdrop.trainer.parts.backbones import Backbone
from backdrop.trainer.parts.background_numbers import BackgroundNumbers, numbers_of
from backdrop.trainer.parts.embedding_spread import embedding_spread
from backdrop.trainer.parts.heads import batch_norm_head, linear_head, mlp_head
from backdrop.trainer.parts.key_queue import KeyQueue, check_queue
from backdrop.trainer.parts.method_defaults import any_labels, check_several
from backdrop.trainer.parts.momentum_encoder import frozen_copy, update_momentum
from backdrop.trainer.parts.pretraining_method import ParameterGroup, QueryKeyMethod
from backdrop.trainer.parts.running_statistics import still_running_statistics
from backdrop.trainer.parts.split_batch_norm import check_groups, encode_shuffled, split_batch_norms

DEFAULT_RECIPE = "moco_v2_220"
HAS_NEGATIVES = True
HAS_CAST = True
ALWAYS_CAST = False
# For the recipe `smoke`: numbers where the paper's are made for 4096 images a step or a million images; rate for 256.
SMOKE = {"queue_size": 256, "momentum": 0.99, "temperature": 0.1, "head": "bn_mlp", "shuffle_bn_group": 16}
SMOKE_LR = 0.24
_FIFTY = Schedule(epochs=50, batch_size=256, lr=1.0, step_epochs=(30, 40), step_fractions=(0.1, 0.01))
DOWNSTREAM = Downstream(
    # Ryali A.3, which states no rate: 30 for 256 images is that of the released code.
    linear=LinearProtocol(
        bn_mode="adapt",
        schedule=Schedule(
            epochs=120, batch_size=2048, lr=30.0, warmup_epochs=10,
            step_epochs=(60, 80, 100), step_fractions=(0.1, 0.01, 0.001),
        ),
    ),
    # Ryali A.5.2.
    finetuning={
        1: FinetuningRates(head_lr=1.0, trunk_lr=1e-4, schedule=_FIFTY),
        10: FinetuningRates(head_lr=0.3, trunk_lr=1e-4, schedule=_FIFTY),
    },
    # The released configurations, and VirTex's.
    voc_detection=DetectorRates(lr=0.02, warmup_iterations=100, warmup_start_fraction=1 / 1000),
)  # fmt: skip

# Ryali A.1; BG_Random is not in A.1: the best of Table A6.
_BACKGROUNDS = {
    "rm": BackgroundNumbers(probability=0.2),
    "random": BackgroundNumbers(probability=0.2),
    "swaps": BackgroundNumbers(probability=0.2, negative_probability=0.2, min_foreground=0.1),
}
# Draw numbers of the key shuffles, one stream per step each; beyond every number of pipeline/views/random_streams.py.
_KEY_SHUFFLE = 3_000
_MASKED_KEY_SHUFFLE = 3_001
_HEADS = ("mlp", "linear", "bn_mlp")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """MoCo-v2's own numbers (released command: --mlp --moco-t 0.2 --aug-plus --cos)."""

    queue_size: Annotated[int, at_least(1), "Keys in the queue (K); a multiple of the batch size"] = 65_536
    embedding_dim: Annotated[int, at_least(1), "Length of the embedding (dim)"] = 128
    temperature: Annotated[float, above(0), "tau of InfoNCE; v1 and CAST: 0.07"] = 0.2
    momentum: Annotated[float, within(0, 1), "m of the key encoder, constant"] = 0.999
    head: Annotated[
        str,
        one_of(_HEADS),
        "mlp (v2), linear (v1, CAST as released), or bn_mlp: mlp with BatchNorm, whose embeddings are spread out "
        "from the first step on, which runs of a few hundred steps need",
    ] = "mlp"
    shuffle_bn_group: Annotated[
        int,
        at_least(0),
        "Images normalised together, keys shuffled against queries (8 GPUs of 32 images in the paper; 32 of 32 in "
        "Ryali); a batch that is smaller is one group. 0 = one group, no shuffle",
    ] = 32


def view_plan(background: str = "none") -> ViewPlan:
    """Return MoCo-v2's two views with Ryali's setting of one background augmentation.

    Args: background: a name of backdrop.pipeline.views.backgrounds.
    """
    numbers = numbers_of(background, _BACKGROUNDS)
    view = View(min_foreground=numbers.min_foreground)
    return ViewPlan(
        views=(view, view),
        background=Background(
            name=background,
            probability=numbers.probability,
            negative_probability=numbers.negative_probability,
        ),
    )


def check(settings: Settings, batch_size: int) -> None:
    """Raise UserError when the settings do not fit together or with the batch size."""
    check_several(batch_size, "MoCo")
    check_queue(settings.queue_size, batch_size, "algorithm.queue_size")
    check_groups(settings.shuffle_bn_group, batch_size, "algorithm.shuffle_bn_group")


def check_parts(settings: Settings, part_size: int, num_processes: int) -> None:
    """Raise UserError unless a step may be taken in parts of so many images a process.

    In parts the queries' groups stay those of the whole batch; keys are shuffled within their part, over all processes.
    With shuffle_bn_group=0 a part is normalised by itself. CAST's attention loss is averaged over the rows with
    foreground of a part, then over the parts.
    """
    if settings.head == "bn_mlp":
        raise UserError(
            "accumulation_steps is above 1, and the BatchNorm of algorithm.head=bn_mlp is over the whole batch; set "
            "algorithm.head=mlp, or accumulation_steps=1 with a smaller batch_size"
        )
    group = settings.shuffle_bn_group
    if group and (part_size % group or part_size * num_processes < 2 * group):
        raise UserError(
            f"accumulation_steps makes parts of {part_size} images a process, within which keys are shuffled against "
            f"queries: they must be whole groups of algorithm.shuffle_bn_group={group}, two or more over all "
            "processes. Set fewer accumulation_steps or a smaller algorithm.shuffle_bn_group; 0 shuffles nothing and "
            "normalises each part by itself"
        )


check_labels = any_labels


def expected_curve(settings: Settings) -> str:
    """Return what to expect of info_nce_loss. Args: settings: the queue's size counts."""
    highest = math.log(settings.queue_size + 1)
    return (
        f"info_nce_loss starts below ln(queue_size + 1) = {highest:.2f}, while the queue still holds noise, rises "
        "towards it as keys fill the queue (epochs, with the papers' queue), and falls slowly from then on; "
        "positive_is_nearest falls from 1 as the queue fills, and rises from then on. A longer queue, a higher "
        "temperature or stronger backgrounds mean a higher loss, not a worse network."
    )


class Method(QueryKeyMethod):
    """Query encoder, key encoder and queue."""

    has_unused_parameters = False

    def __init__(self, backbone: Backbone, settings: Settings, *, seed: int, cast: cast.Settings | None = None) -> None:
        """Build the encoders around a backbone; the head's weights come from torch's current generator.

        Args: seed: of the initial queue and of the shuffles. cast: CAST's settings, None = without.
        """
        super().__init__()
        self.settings = settings
        self.cast = cast
        self.seed = seed
        num_features = backbone.num_features
        self.backbone = split_batch_norms(backbone, settings.shuffle_bn_group)
        self.head = _build_head(settings, num_features)
        self.key_backbone = frozen_copy(self.backbone)
        self.key_head = frozen_copy(self.head)
        generator = torch.Generator().manual_seed(seed)
        self.queue = KeyQueue(settings.queue_size, settings.embedding_dim, generator)
        # Keys of this step, one tensor per part of the batch.
        self._new_keys: list[Tensor] = []

    def embed_query(self, pooled_BD: Tensor) -> Tensor:
        """Return queries (B, E), unit length, of the backbone's pooled features (B, D)."""
        return functional.normalize(self.head(pooled_BD), dim=1)

    def embed_key(self, image_B3HW: Tensor) -> Tensor:
        """Return the key network's embeddings (B, E), unit length, of images."""
        return functional.normalize(self.key_head(self.key_backbone(image_B3HW)), dim=1)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the query encoder's parameters; the key encoder only follows."""
        query = ("backbone.", "head.")
        return [ParameterGroup(named=[item for item in self.named_parameters() if item[0].startswith(query)])]

    def training_step(self, views: Views) -> dict[str, Tensor]:
        """Return the losses of one batch: view 0 is the query, view 1 the key.

        The query's similarities are taken against the queue of earlier steps only: this batch's keys join it in
        `after_step`, so no key is both positive and negative. BG_Swaps' negatives never join it.
        """
        map_BDhw = self.backbone.forward_map(views.images[0])
        pooled_BD = map_BDhw.mean(dim=(2, 3))
        query_BD = self.embed_query(pooled_BD)
        key_BD, negative_MBD, masked_BD = self._keys(views)

        similarity_BN = similarities(query_BD, key_BD, self.queue.keys_KD, negative_MBD)
        losses = {"info_nce_loss": info_nce(similarity_BN, self.settings.temperature)}
        losses["loss"] = losses["info_nce_loss"]
        with torch.no_grad():
            losses["positive_is_nearest"] = (similarity_BN.argmax(dim=1) == 0).float().mean()
        losses["embedding_spread"] = embedding_spread(query_BD)
        if self.cast is not None and masked_BD is not None:
            similarity_B = (query_BD * masked_BD).sum(dim=1)
            query_mask = cast.query_mask(self.cast, views, query=0, key=1)
            losses |= cast.attention(self.cast, similarity_B, pooled_BD, map_BDhw, query_mask, views.masks[1])
            losses["loss"] = cast.total(self.cast, losses["info_nce_loss"], losses["attention_loss"])
        self._new_keys.append(key_BD)
        return losses

    def after_step(self, step: int, num_steps: int) -> None:
        """Let the key encoder follow and put this batch's keys into the queue.

        The released code moves the key encoder before the next key forward: the same sequence. CAST as released moves
        it before each of its two key forwards, hence by m * m a step; here both of them see the second move.

        Args: step: the step just done. num_steps: of the whole run.
        """
        assert self._new_keys, "after_step follows training_step"
        momentum = self.settings.momentum ** (2 if self._is_cast_released else 1)
        update_momentum(self.key_backbone, self.backbone, momentum)
        update_momentum(self.key_head, self.head, momentum)
        self.queue.enqueue(torch.cat(self._new_keys))
        self._new_keys.clear()

    @property
    def _is_cast_released(self) -> bool:
        return self.cast is not None and self.cast.variant == "released"

    @torch.no_grad()
    def _keys(self, views: Views) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Encode keys (B, D) and BG_Swaps' extra negatives (M, B, D), shuffled together; CAST's masked keys (B, D)."""
        images, masked_BD = [views.images[1]], None
        if views.negative is not None:
            images.append(views.negative)
        is_shared = self.cast is not None and self.cast.key_pass == "shared"
        if self.cast is not None:
            images.append(cast.masked_key(views.images[1], views.masks[1]))
        if self.cast is not None and not is_shared:
            masked_BD = self._masked_keys(images.pop(), views)
        encoded = list(self._encode_shuffled(torch.cat(images), views, _KEY_SHUFFLE).split([len(i) for i in images]))
        if is_shared:
            masked_BD = encoded.pop()
        key_BD, *negatives = encoded
        return key_BD, negatives[0].unflatten(0, (-1, len(key_BD))) if negatives else None, masked_BD

    def _masked_keys(self, images: Tensor, views: Views) -> Tensor:
        """Encode CAST's masked keys (B, D) alone; as released, the running statistics follow them too."""
        with nullcontext() if self._is_cast_released else still_running_statistics(self):
            return self._encode_shuffled(images, views, _MASKED_KEY_SHUFFLE)

    def _encode_shuffled(self, images: Tensor, views: Views, draw: int) -> Tensor:
        if self.settings.shuffle_bn_group == 0:
            return self.embed_key(images)
        stream = int(bits(self.seed, views.epoch, views.step, NO_VIEW, draw) >> 1)
        return encode_shuffled(self.embed_key, images, stream, sent_as=self.key_backbone.autocast_dtype)


def _build_head(settings: Settings, num_features: int) -> nn.Module:
    if settings.head == "linear":
        return linear_head(num_features, settings.embedding_dim)
    if settings.head == "bn_mlp":
        return batch_norm_head(num_features, num_features, settings.embedding_dim, output_bias=True)
    return mlp_head(num_features, num_features, settings.embedding_dim)
