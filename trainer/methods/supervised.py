"""Supervised classification, the baseline of Ryali et al. 2021, section 4.9, Tables 7 and 8.

The baseline is that of Goyal et al. 2017, "Accurate, large minibatch SGD", section 5.1.
Shapes: B batch, D features, L classes.
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from backdrop.data_folders import data_folder
from backdrop.errors import UserError
from backdrop.pipeline.views.device_stage import Views
from backdrop.pipeline.views.view_plan import Background, View, ViewPlan
from backdrop.settings import at_least, one_of
from backdrop.stores.datasets.coco import categories_in_images
from backdrop.trainer import cast
from backdrop.trainer.downstream_settings import Downstream, LinearProtocol, Schedule
from backdrop.trainer.parts import checkpoint_files
from backdrop.trainer.parts.backbones import Backbone
from backdrop.trainer.parts.background_numbers import BackgroundNumbers, numbers_of
from backdrop.trainer.parts.method_defaults import check_several, whole_batch_only
from backdrop.trainer.parts.pretraining_method import ParameterGroup, PretrainingMethod
from backdrop.trainer.parts.start_weights import load_parts

DEFAULT_RECIPE = "supervised_90"
HAS_NEGATIVES = False
# There is no query and no key whose match could be explained.
HAS_CAST = False
ALWAYS_CAST = False
# For the recipe `smoke`: numbers where the paper's are made for 4096 images a step or a million images; rate for 256.
SMOKE = dict[str, object]()
SMOKE_LR = 0.08
DOWNSTREAM = Downstream(
    # Ryali A.4.1: a classifier retrained without background augmentations.
    linear=LinearProtocol(bn_mode="eval", schedule=Schedule(epochs=40, batch_size=4096, lr=0.01, weight_decay=1e-4)),
    finetuning={},
    voc_detection=None,
    classifier="classifier",
)

_TRAINED = ("all", "classifier")
_LABELS = ("class", "categories")
# Table 8; Table 7 compares 0.1 to 0.5.
_BACKGROUNDS = dict.fromkeys(("rm", "random", "swaps"), BackgroundNumbers(probability=0.2))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is classified and what is trained."""

    num_classes: Annotated[int, at_least(2), "L; the store's labels are 0 .. L - 1"] = 1000
    labels: Annotated[
        str,
        one_of(_LABELS),
        "class: the store's, one an image; categories: every category of COCO in the image, by annotations",
    ] = "class"
    annotations: Annotated[
        str,
        "COCO's instances file of the store's images, for labels=categories; \"\" = "
        "coco/annotations/instances_train2017.json below BACKDROP_DATA",
    ] = ""
    start_from: Annotated[
        str,
        'Folder of a finished supervised run to start from, "" = from random weights. Read again by --resume',
    ] = ""
    trained: Annotated[
        str,
        one_of(_TRAINED),
        "all: backbone and classifier (with start_from: fine-tuning, A.4.2); classifier: a new one on the frozen "
        "backbone of start_from (A.4.1), whose batch statistics are frozen too",
    ] = "all"
    is_last_gamma_zero: Annotated[
        bool,
        "Whether the last BatchNorm of each residual block starts at 0, as Goyal et al. do",
    ] = True


def view_plan(background: str = "none") -> ViewPlan:
    """Return the one view of the standard protocol (Ryali A.3), with Ryali's setting of one background augmentation.

    Crops of torchvision's default scale and flips; colours stay as they are.

    Args: background: a name of backdrop.pipeline.views.backgrounds.
    """
    view = View(scale=(0.08, 1.0), jitter_probability=0.0, greyscale_probability=0.0, blur_probability=0.0)
    probability = numbers_of(background, _BACKGROUNDS).probability
    return ViewPlan(
        views=(view,), background=Background(name=background, probability=probability, negative_probability=0.0)
    )


def check(settings: Settings, batch_size: int) -> None:
    """Raise UserError when the settings do not fit together or with the batch size."""
    check_several(batch_size, "supervised")
    if settings.trained == "classifier" and not settings.start_from:
        raise UserError(
            "algorithm.trained=classifier trains on a frozen backbone and needs one: give "
            "--set algorithm.start_from=RUN, the folder of a run of pretrain --method supervised"
        )
    if settings.start_from and checkpoint_files.latest(Path(settings.start_from)) is None:
        raise UserError(
            f"algorithm.start_from={settings.start_from} is no folder of a run with a checkpoint; give the folder of a "
            "run of pretrain --method supervised"
        )


def check_labels(settings: Settings, label_N: np.ndarray) -> None:
    """Raise UserError unless every row that is trained on has a class of 0 .. num_classes - 1.

    Args: label_N: int, class of each row, -1 = none.
    """
    if settings.labels == "categories":
        _check_categories(settings, len(label_N))
        return
    if (label_N < 0).any():
        raise UserError(
            f"{int((label_N < 0).sum())} of the store's {len(label_N)} rows have no label, and method 'supervised' "
            "learns from labels; take a store of a data set with one folder per class (--dataset imagenet), or another "
            "method"
        )
    if label_N.max(initial=0) >= settings.num_classes:
        raise UserError(
            f"the store's labels go up to {int(label_N.max())}, and algorithm.num_classes={settings.num_classes}; "
            f"set algorithm.num_classes={int(label_N.max()) + 1} or more"
        )


def _check_categories(settings: Settings, num_rows: int) -> None:
    is_in_NL = _categories_in_images(settings.annotations)
    if is_in_NL.shape[1] != settings.num_classes:
        raise UserError(
            f"the annotations have {is_in_NL.shape[1]} categories, and algorithm.num_classes={settings.num_classes}; "
            f"set algorithm.num_classes={is_in_NL.shape[1]}"
        )
    if num_rows > len(is_in_NL):
        raise UserError(_OTHER_IMAGES)


_OTHER_IMAGES = (
    "algorithm.labels=categories wants a store of the very images of its annotations, and these are others; build it "
    "with build-store --dataset coco, and name the annotations of the same split: --set algorithm.annotations=FILE"
)


@cache
def _categories_in_images(annotations: str) -> np.ndarray:
    """Which categories are in each row's image, bool (N, L). Raises: UserError: there is no such file."""
    folder = data_folder("coco")
    if not annotations and folder is None:
        raise UserError(
            "algorithm.labels=categories reads COCO's annotations: give --set algorithm.annotations=FILE, "
            "instances_train2017.json, or set BACKDROP_DATA to the folder that holds coco/"
        )
    path = Path(annotations) if annotations else Path(folder or "") / "annotations" / "instances_train2017.json"
    return categories_in_images(path)[0]


check_parts = whole_batch_only


def expected_curve(settings: Settings) -> str:
    """Return what to expect of the loss. Args: settings: the number of classes and where weights come from count."""
    chance = f"ln(num_classes) = {math.log(settings.num_classes):.2f}"
    if settings.start_from and settings.trained == "all":
        return f"loss goes on where the run of start_from ended, far below chance, {chance}."
    return f"loss starts near {chance}, which is chance, and falls at once; accuracy rises from 1 / num_classes."


class Method(PretrainingMethod):
    """Backbone and a linear classifier on its mean feature."""

    has_unused_parameters = False

    def __init__(self, backbone: Backbone, settings: Settings, *, seed: int, cast: cast.Settings | None = None) -> None:
        """Build the classifier on a backbone; its weights come from torch's current generator.

        Args: seed: unused, nothing is drawn. cast: must be None.
        Raises: UserError: what settings.start_from holds is no supervised run, or another backbone's.
        """
        super().__init__()
        assert cast is None, "refused where settings are checked"
        self.settings = settings
        # Read at the first step: what is scored or exported needs no labels.
        self._is_in_NL: Tensor | None = None
        self.backbone = backbone
        self.classifier = nn.Linear(backbone.num_features, settings.num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)
        if settings.is_last_gamma_zero:
            _zero_last_gammas(backbone)
        self._is_backbone_frozen = settings.trained == "classifier"
        if settings.start_from:
            names = ("backbone",) if self._is_backbone_frozen else ("backbone", "classifier")
            load_parts(Path(settings.start_from), self, names)
        if self._is_backbone_frozen:
            self.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> "Method":
        """Switch to training, or evaluation; a frozen backbone stays in evaluation, its statistics as they are."""
        super().train(mode)
        if self._is_backbone_frozen:
            self.backbone.eval()
        return self

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return all parameters that are not frozen."""
        return [ParameterGroup(named=[item for item in self.named_parameters() if item[1].requires_grad])]

    def training_step(self, views: Views) -> dict[str, Tensor]:
        """Return the cross-entropy of one batch and the share of rows classified correctly."""
        logit_BL = self.classifier(self.backbone(views.images[0]))
        if self.settings.labels == "categories":
            return categories_loss(logit_BL, self._is_in_image(views))
        accuracy = (logit_BL.detach().argmax(dim=1) == views.label_B).float().mean()
        return {"loss": functional.cross_entropy(logit_BL, views.label_B), "accuracy": accuracy}

    def _is_in_image(self, views: Views) -> Tensor:
        """Which categories are in the images of a batch, bool (B, L). Raises: UserError: rows are other images."""
        if self._is_in_NL is None:
            is_in_NL = torch.from_numpy(_categories_in_images(self.settings.annotations)).to(views.row_B.device)
            # The store's own class is the category of the largest instance: rows that are shifted do not have it.
            is_out_B = views.row_B >= len(is_in_NL)
            is_in_BL = is_in_NL[views.row_B.clamp(max=len(is_in_NL) - 1)]
            has_class_B = is_in_BL.gather(1, views.label_B.clamp(min=0)[:, None])[:, 0] | (views.label_B < 0)
            if bool((is_out_B | ~has_class_B).any()):
                raise UserError(_OTHER_IMAGES)
            self._is_in_NL = is_in_NL
        return self._is_in_NL[views.row_B]

    def after_step(self, step: int, num_steps: int) -> None:
        """Nothing follows. Args: step: the step just done. num_steps: of the whole run."""


def categories_loss(logit_BL: Tensor, is_in_BL: Tensor) -> dict[str, Tensor]:
    """Return the cross-entropy with each image's categories in equal shares, and how often the best is one of them.

    Softmax over categories and targets 1 / K, as Mahajan et al. 2018 ("Exploring the limits of weakly supervised
    pretraining", section 2.2) train on several labels an image; images without any count as 0.

    Args: logit_BL: float. is_in_BL: bool, K categories of each image.
    """
    share_BL = is_in_BL / is_in_BL.sum(dim=1, keepdim=True).clamp(min=1)
    loss = -(share_BL * logit_BL.log_softmax(dim=1)).sum(dim=1).mean()
    accuracy = is_in_BL.gather(1, logit_BL.detach().argmax(dim=1, keepdim=True)).float().mean()
    return {"loss": loss, "accuracy": accuracy}


def _zero_last_gammas(backbone: Backbone) -> None:
    from torchvision.models.resnet import BasicBlock, Bottleneck  # here: as slow to import as torch

    for block in backbone.modules():
        if isinstance(block, (BasicBlock, Bottleneck)):
            last = block.bn2 if isinstance(block, BasicBlock) else block.bn3
            nn.init.zeros_(last.weight)
