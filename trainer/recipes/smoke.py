"""Every method on the sample set in minutes on two CPU cores: a check of the chain, no table of a paper.

Command: python cli.py pretrain --method moco --bg random --dataset sample --recipe smoke
ResNet-18, 64-px views (SwAV: 2 of 64 and 6 of 32 px), batch 32, backgrounds of half of the views where they are altered
at all: two hundred steps have to show what the papers' hundred thousand do with less.
"""

from dataclasses import replace
from typing import Any

from pipeline.views.view_plan import View, ViewPlan
from trainer import cast
from trainer.run import optimisers, schedules
from trainer.run.settings import RunSettings, method_module, plan_fields

_SIZE_PX = 64
_LOCAL_SIZE_PX = 32
_MOCO = {"queue_size": 256, "momentum": 0.99, "temperature": 0.1, "head": "bn_mlp", "shuffle_bn_group": 16}
# Each method's numbers where the paper's are made for 4096 images a step or a million images.
_ALGORITHM: dict[str, dict[str, Any]] = {
    "moco": _MOCO,
    "cast": _MOCO,
    "byol": {"hidden_dim": 512, "embedding_dim": 128, "momentum": 0.97},
    "swav": {"hidden_dim": 512, "num_prototypes": 64, "freeze_prototypes_steps": 20},
    "rotnet": {"head": "linear"},
    "supervised": {},
}
_LR = {"moco": 0.08, "cast": 0.08, "byol": 0.12, "swav": 0.12, "rotnet": 0.08, "supervised": 0.08}
_BACKGROUND_PROBABILITY = 0.5


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings for any method."""
    module = method_module(method)
    has_cast = with_cast or getattr(module, "ALWAYS_CAST", False)
    plan = module.view_plan(background)
    plan = cast.constrained(plan) if has_cast else plan
    return RunSettings(
        method=method,
        algorithm=module.Settings(**_ALGORITHM[method]),
        cast=cast.Settings() if has_cast else None,
        epochs=8,
        batch_size=32,
        backbone="resnet18",
        optimiser=optimisers.Settings(lr=_LR[method], lr_per_images=256, weight_decay=1e-4),
        schedule=schedules.Settings(warmup_epochs=1),
        log_steps=5,
        **plan_fields(_smoke_plan(plan)),
    )


def _smoke_plan(plan: ViewPlan) -> ViewPlan:
    background = plan.background
    if background.probability:
        matched = _BACKGROUND_PROBABILITY if background.negative_probability else 0.0
        background = replace(background, probability=_BACKGROUND_PROBABILITY, negative_probability=matched)
    return replace(plan, views=tuple(_small(view) for view in plan.views), background=background)


def _small(view: View) -> View:
    """Shrink a view, and its blur with it."""
    size_px = _SIZE_PX if view.is_global else _LOCAL_SIZE_PX
    low, high = view.blur_sigma_px
    shrink = size_px / view.size_px
    return replace(view, size_px=size_px, blur_sigma_px=(low * shrink, high * shrink))
