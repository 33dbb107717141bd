"""Every method on the sample set in minutes on two CPU cores: a check of the chain, no table of a paper.

Command: python cli.py pretrain --method moco --bg random --dataset sample --recipe smoke
ResNet-18, 32-px views (SwAV: 2 of 32 and 6 of 24 px; with CAST 48 px), batch 32, 40 epochs, backgrounds of half of the
views where they are altered at all: a thousand steps have to show what the papers' hundred thousand do with less. For
the same reason crops are larger and keep their hue, and hold some of the foreground with a background augmentation or
CAST; without either, the baseline, crops know no mask. With the papers' crops and colours two views are still matched
at chance after so few steps.
"""

from dataclasses import replace

from backdrop.pipeline.views.view_plan import View, ViewPlan
from backdrop.trainer import cast
from backdrop.trainer.methods import METHODS
from backdrop.trainer.optimisation import optimisers, schedules
from backdrop.trainer.settings import RunSettings, plan_fields

_SIZE_PX, _LOCAL_SIZE_PX = 32, 24
# CAST needs a feature map of more than one cell, which a ResNet makes of 33 px or more.
_CAST_SIZE_PX = 48
# Share of the image in a crop, and the least share of its foreground.
_SCALE, _MIN_FOREGROUND = (0.3, 1.0), 0.3
_LOCAL_SCALE, _LOCAL_MIN_FOREGROUND = (0.1, 0.4), 0.1
_JITTER = (0.2, 0.2, 0.2, 0.0)
_BACKGROUND_PROBABILITY = 0.5


def settings(method: str, background: str, with_cast: bool) -> RunSettings:
    """Return the recipe's settings for any method."""
    module = METHODS.load(method)
    has_cast = with_cast or module.ALWAYS_CAST
    plan = module.view_plan(background)
    plan = cast.constrained(plan) if has_cast else plan
    return RunSettings(
        method=method,
        algorithm=module.Settings(**module.SMOKE),
        # Of lambda 1 and 3, which tie in the paper, the smaller, and the release's clipping: without them the attention
        # of a network that knows nothing yet outweighs the match, and neither is learnt.
        cast=cast.Settings(weight=1.0) if has_cast else None,
        epochs=40,
        batch_size=32,
        backbone="resnet18",
        optimiser=optimisers.Settings(
            lr=module.SMOKE_LR, lr_per_images=256, weight_decay=1e-4, clip_norm=2.0 if has_cast else 0.0
        ),
        schedule=schedules.Settings(warmup_epochs=1),
        log_steps=5,
        **plan_fields(
            _smoke_plan(
                plan,
                _CAST_SIZE_PX if has_cast else _SIZE_PX,
                knows_masks=has_cast or background != "none",
            )
        ),
    )


def _smoke_plan(plan: ViewPlan, size_px: int, *, knows_masks: bool) -> ViewPlan:
    background = plan.background
    if background.probability:
        matched = _BACKGROUND_PROBABILITY if background.negative_probability else 0.0
        background = replace(background, probability=_BACKGROUND_PROBABILITY, negative_probability=matched)
    views = tuple(_small(view, size_px, knows_masks=knows_masks) for view in plan.views)
    return replace(plan, views=views, background=background)


def _small(view: View, global_size_px: int, *, knows_masks: bool) -> View:
    """Shrink a view, and its blur with it, and make it easier to match."""
    size_px = global_size_px if view.is_global else _LOCAL_SIZE_PX
    low, high = view.blur_sigma_px
    shrink = size_px / view.size_px
    least = _MIN_FOREGROUND if view.is_global else _LOCAL_MIN_FOREGROUND
    return replace(
        view,
        size_px=size_px,
        blur_sigma_px=(low * shrink, high * shrink),
        scale=_SCALE if view.is_global else _LOCAL_SCALE,
        min_foreground=least if knows_masks else 0.0,
        jitter=_JITTER,
        greyscale_probability=0.0,
        solarise_probability=0.0,
    )
