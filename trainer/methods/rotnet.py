"""RotNet (Gidaris et al. 2018, "Unsupervised representation learning by predicting image rotations").

Shapes: B batch, R rotations, D features.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from backdrop.pipeline.views.device_stage import Views
from backdrop.pipeline.views.view_plan import Background, View, ViewPlan
from backdrop.settings import at_least, one_of
from backdrop.trainer import cast
from backdrop.trainer.downstream_settings import Downstream, LinearProtocol, Schedule
from backdrop.trainer.losses.rotation_prediction import NUM_ROTATIONS, rotated, rotation_prediction
from backdrop.trainer.parts.backbones import Backbone
from backdrop.trainer.parts.background_numbers import BackgroundNumbers, numbers_of
from backdrop.trainer.parts.heads import alexnet_head
from backdrop.trainer.parts.method_defaults import any_labels, whole_batch_only
from backdrop.trainer.parts.pretraining_method import ParameterGroup, PretrainingMethod

DEFAULT_RECIPE = "rotnet_30"
HAS_NEGATIVES = False
# There is no query and no key whose match could be explained.
HAS_CAST = False
ALWAYS_CAST = False
# For the recipe `smoke`: numbers where the paper's are made for 4096 images a step or a million images; rate for 256.
SMOKE = {"head": "linear"}
SMOKE_LR = 0.24
DOWNSTREAM = Downstream(
    # Ryali A.3; the parts of the classifier are those of the released code: pooling, BatchNorm, std sqrt(2 / classes),
    # and the fractions of the rate after each step, 0.01, 0.002 and 0.0004 of 0.1.
    linear=LinearProtocol(
        bn_mode="eval",
        init_std=math.sqrt(2 / 1000),
        pooling="max6",
        has_batch_norm=True,
        schedule=Schedule(
            epochs=35, batch_size=256, lr=0.1, weight_decay=5e-4, nesterov=True,
            step_epochs=(5, 15, 25), step_fractions=(0.1, 0.02, 0.004),
        ),
    ),
    finetuning={},
    voc_detection=None,
)  # fmt: skip

_HEADS = ("alexnet", "linear")
# Ryali A.1 names no probability for RotNet; Table 9 compares 0.1 to 0.5, of which 0.1 costs least.
_BACKGROUNDS = dict.fromkeys(("rm", "random", "swaps"), BackgroundNumbers(probability=0.1))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """RotNet's own numbers (released code, ImageNet_RotNet_AlexNet)."""

    head: Annotated[
        str,
        one_of(_HEADS),
        "alexnet: pooled to 6x6, two hidden layers with BatchNorm, as released; linear: one layer on the mean of "
        "the map",
    ] = "alexnet"
    hidden_dim: Annotated[int, at_least(1), "Width of the hidden layers of head alexnet"] = 4096


def view_plan(background: str = "none") -> ViewPlan:
    """Return RotNet's one view with Ryali's setting of one background augmentation.

    The released code crops with torchvision's default scale and flips; no photometric change. Backgrounds come before
    both (Ryali A.1); all four rotations of the view are made on the device.

    Args: background: a name of backdrop.pipeline.views.backgrounds.
    """
    view = View(
        scale=(0.08, 1.0),
        jitter_probability=0.0,
        greyscale_probability=0.0,
        blur_probability=0.0,
    )
    probability = numbers_of(background, _BACKGROUNDS).probability
    return ViewPlan(
        views=(view,),
        background=Background(name=background, probability=probability, negative_probability=0.0, order="before"),
    )


def check(settings: Settings, batch_size: int) -> None:
    """Accept all settings: none depends on another or on the batch size."""


check_labels = any_labels
check_parts = whole_batch_only


def expected_curve(settings: Settings) -> str:
    """Return what to expect of the loss. Args: settings: none of them counts."""
    return (
        f"loss starts near ln 4 = {math.log(NUM_ROTATIONS):.2f} with rotation_accuracy 0.25, which is chance; they "
        "fall and rise within the first epoch."
    )


class Method(PretrainingMethod):
    """Backbone and a classifier of rotations."""

    has_unused_parameters = False

    def __init__(self, backbone: Backbone, settings: Settings, *, seed: int, cast: cast.Settings | None = None) -> None:
        """Build the classifier on a backbone; its weights come from torch's current generator.

        Args: seed: unused, every image is seen in every rotation. cast: must be None.
        """
        super().__init__()
        assert cast is None, "refused where settings are checked"
        self.settings = settings
        self.backbone = backbone
        self.head: nn.Module = nn.Linear(backbone.num_features, NUM_ROTATIONS)
        if settings.head == "alexnet":
            self.head = alexnet_head(backbone.num_features, settings.hidden_dim, NUM_ROTATIONS)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return all parameters."""
        return [ParameterGroup(named=list(self.named_parameters()))]

    def training_step(self, views: Views) -> dict[str, Tensor]:
        """Return the losses of one batch, every image in all four rotations."""
        map_NDhw = self.backbone.forward_map(rotated(views.images[0]))
        logit_N4 = self.head(map_NDhw if self.settings.head == "alexnet" else map_NDhw.mean(dim=(2, 3)))
        loss = rotation_prediction(logit_N4)
        with torch.no_grad():
            turns_N = torch.arange(NUM_ROTATIONS, device=logit_N4.device).repeat_interleave(len(views.row_B))
            accuracy = (logit_N4.argmax(dim=1) == turns_N).float().mean()
        return {"loss": loss, "rotation_accuracy": accuracy}

    def after_step(self, step: int, num_steps: int) -> None:
        """Nothing follows. Args: step: the step just done. num_steps: of the whole run."""
