"""BYOL (Grill et al. 2020, "Bootstrap your own latent"), with CAST.

Shapes: B batch, D embedding.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from backdrop.errors import UserError
from backdrop.pipeline.views.device_stage import Views
from backdrop.pipeline.views.view_plan import Background, View, ViewPlan
from backdrop.settings import at_least, within
from backdrop.trainer import cast
from backdrop.trainer.downstream_settings import DetectorRates, Downstream, FinetuningRates, LinearProtocol, Schedule
from backdrop.trainer.losses.byol_regression import byol_regression, cosine
from backdrop.trainer.parts.backbones import Backbone
from backdrop.trainer.parts.background_numbers import BackgroundNumbers, numbers_of
from backdrop.trainer.parts.embedding_spread import embedding_spread
from backdrop.trainer.parts.heads import batch_norm_head
from backdrop.trainer.parts.method_defaults import any_labels, check_several
from backdrop.trainer.parts.momentum_encoder import cosine_momentum, frozen_copy, update_momentum
from backdrop.trainer.parts.pretraining_method import ParameterGroup, QueryKeyMethod
from backdrop.trainer.parts.running_statistics import still_running_statistics

DEFAULT_RECIPE = "byol_300"
HAS_NEGATIVES = False
HAS_CAST = True
ALWAYS_CAST = False
# For the recipe `smoke`: numbers where the paper's are made for 4096 images a step or a million images; rate for 256.
SMOKE = {"hidden_dim": 512, "embedding_dim": 128, "momentum": 0.99}
SMOKE_LR = 0.24
_FIFTY = Schedule(epochs=50, batch_size=256, lr=1.0, step_epochs=(30, 40), step_fractions=(0.1, 0.01))
DOWNSTREAM = Downstream(
    # Ryali A.3; Nesterov's momentum is the released code's (`configs/eval.py`).
    linear=LinearProtocol(
        bn_mode="adapt",
        schedule=Schedule(
            epochs=140, batch_size=1024, lr=0.2, nesterov=True,
            step_epochs=(80, 100, 120), step_fractions=(0.1, 0.01, 0.001),
        ),
    ),
    # Ryali A.5.2.
    finetuning={
        1: FinetuningRates(head_lr=1.0, trunk_lr=1e-3, schedule=_FIFTY),
        10: FinetuningRates(head_lr=0.1, trunk_lr=1e-3, schedule=_FIFTY),
    },
    # Ryali A.10.
    voc_detection=DetectorRates(lr=0.08, warmup_iterations=100, warmup_start_fraction=1 / 1000),
)  # fmt: skip

# Ryali A.1.
_BACKGROUNDS = {
    "rm": BackgroundNumbers(probability=0.15, min_foreground=0.05),
    "random": BackgroundNumbers(probability=0.05, min_foreground=0.05),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """BYOL's own numbers (released code)."""

    hidden_dim: Annotated[int, at_least(1), "Width of the hidden layers of projector and predictor"] = 4096
    embedding_dim: Annotated[int, at_least(1), "Length of projection and prediction"] = 256
    momentum: Annotated[
        float,
        within(0, 1),
        "tau at the first step; it reaches 1 along a cosine. Released: 0.99 for 100 and 300 epochs, 0.996 for 1000",
    ] = 0.99


def view_plan(background: str = "none") -> ViewPlan:
    """Return BYOL's two views with Ryali's setting of one background augmentation.

    The crop's scale is Ryali's (0.2, 1); Grill et al. use (0.08, 1) and Ryali found no difference at 300 epochs.

    Args: background: a name of backdrop.pipeline.views.backgrounds.
    """
    numbers = numbers_of(background, _BACKGROUNDS)
    first = View(min_foreground=numbers.min_foreground, jitter=(0.4, 0.4, 0.2, 0.1), blur_probability=1.0)
    second = replace(first, blur_probability=0.1, solarise_probability=0.2)
    return ViewPlan(views=(first, second), background=Background(name=background, probability=numbers.probability))


def check(settings: Settings, batch_size: int) -> None:
    """Raise UserError when the settings do not fit together or with the batch size."""
    check_several(batch_size, "BYOL")


check_labels = any_labels


def check_parts(settings: Settings, part_size: int, num_processes: int) -> None:
    """Raise UserError unless a step may be taken in parts of so many images a process.

    As Grill et al. make small batches of large ones (section 5, "Batch size": gradients averaged over N steps before
    the online network moves, the target after it): a part is normalised by itself, over the processes of its group.
    """
    if part_size * num_processes < 2:
        raise UserError(
            f"accumulation_steps makes parts of {part_size} image, and BYOL normalises over a part; set "
            "accumulation_steps so that parts have 2 images or more (Grill et al.: 256)"
        )


def expected_curve(settings: Settings) -> str:
    """Return what to expect of regression_loss. Args: settings: none of them counts."""
    return (
        "regression_loss is that of both directions together: it starts near 4, where predictions and targets are "
        "unrelated, and falls, soon slowly. At 0 within an epoch, with embedding_spread near 0 beside it, the network "
        "has collapsed."
    )


class Method(QueryKeyMethod):
    """Online network (backbone, projector, predictor) and target network (backbone, projector)."""

    has_unused_parameters = False

    def __init__(self, backbone: Backbone, settings: Settings, *, seed: int, cast: cast.Settings | None = None) -> None:
        """Build both networks around a backbone; weights of the heads come from torch's current generator.

        Args: seed: unused, BYOL draws nothing. cast: CAST's settings, None = without.
        """
        super().__init__()
        self.settings = settings
        self.cast = cast
        hidden, embedding = settings.hidden_dim, settings.embedding_dim
        self.backbone = backbone
        self.projector = batch_norm_head(backbone.num_features, hidden, embedding, output_bias=False)
        self.predictor = batch_norm_head(embedding, hidden, embedding, output_bias=False)
        self.target_backbone = frozen_copy(self.backbone)
        self.target_projector = frozen_copy(self.projector)

    def embed_query(self, pooled_BD: Tensor) -> Tensor:
        """Return predictions (B, E) from the backbone's pooled features (B, D)."""
        return self.predictor(self.projector(pooled_BD))

    def embed_key(self, image_B3HW: Tensor) -> Tensor:
        """Return the target network's projections (B, E) of images."""
        return self.target_projector(self.target_backbone(image_B3HW))

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the online network's parameters; the target only follows."""
        online = ("backbone.", "projector.", "predictor.")
        return [ParameterGroup(named=[item for item in self.named_parameters() if item[0].startswith(online)])]

    def training_step(self, views: Views) -> dict[str, Tensor]:
        """Return the losses of one batch: each view predicts the other's target, both directions summed."""
        targets, masked_targets = self._targets(views)
        directions = [
            self._direction(views, online, targets[1 - online], masked_targets[1 - online]) for online in (0, 1)
        ]
        losses = {"regression_loss": directions[0]["regression_loss"] + directions[1]["regression_loss"]}
        losses["loss"] = losses["regression_loss"]
        losses["embedding_spread"] = (embedding_spread(targets[0]) + embedding_spread(targets[1])) / 2
        if self.cast is not None:
            # The attention loss is the mean of both directions, so that lambda weighs it as it does for one query.
            for name in ("attention_loss", "rows_without_foreground"):
                losses[name] = (directions[0][name] + directions[1][name]) / 2
            losses["loss"] = cast.total(self.cast, losses["regression_loss"], losses["attention_loss"])
        return losses

    def after_step(self, step: int, num_steps: int) -> None:
        """Let the target follow, with a momentum that rises to 1.

        Args: step: the step just done. num_steps: of the whole run.
        """
        momentum = cosine_momentum(self.settings.momentum, step, num_steps)
        update_momentum(self.target_backbone, self.backbone, momentum)
        update_momentum(self.target_projector, self.projector, momentum)

    def _direction(
        self, views: Views, online: int, target_BD: Tensor, masked_target_BD: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the losses of one view's prediction of the other view's target."""
        map_BDhw = self.backbone.forward_map(views.images[online])
        pooled_BD = map_BDhw.mean(dim=(2, 3))
        prediction_BD = self.embed_query(pooled_BD)
        losses = {"regression_loss": byol_regression(prediction_BD, target_BD)}
        if self.cast is not None and masked_target_BD is not None:
            key = 1 - online
            # q . k_m of CAST is here the cosine that the regression is made of. The heads' batch statistics tie rows
            # together, and the gradient of the sum of similarities includes that.
            similarity_B = cosine(prediction_BD, masked_target_BD)
            query_mask = cast.query_mask(self.cast, views, online, key)
            losses |= cast.attention(self.cast, similarity_B, pooled_BD, map_BDhw, query_mask, views.masks[key])
        return losses

    @torch.no_grad()
    def _targets(self, views: Views) -> tuple[list[Tensor], list[Tensor] | list[None]]:
        """Encode both views, and with CAST both masked views, see `cast.Settings.key_pass`."""
        if self.cast is None:
            return [self.embed_key(image) for image in views.images], [None, None]
        masked = [cast.masked_key(image, mask) for image, mask in zip(views.images, views.masks, strict=True)]
        if self.cast.key_pass == "shared":
            pairs = [self.embed_key(torch.cat(pair)).chunk(2) for pair in zip(views.images, masked, strict=True)]
            return [plain for plain, _ in pairs], [masked for _, masked in pairs]
        targets = [self.embed_key(image) for image in views.images]
        with still_running_statistics(self):
            return targets, [self.embed_key(image) for image in masked]
