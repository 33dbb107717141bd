"""What must hold before anything is opened or built: each setting is possible, and they go together."""

import types
from dataclasses import fields
from importlib import import_module

import pipeline.views.backgrounds
import trainer.methods
from pipeline.views.view_plan import CROP_FALLBACKS, CROP_PROPOSALS
from stores.errors import UserError
from trainer.parts import backbones
from trainer.run import optimisers, schedules
from trainer.run.settings import PRECISIONS, RunSettings, method_module


def check(settings: RunSettings) -> None:
    """Raise UserError unless the settings are possible and go together; nothing is opened or built."""
    module = method_module(settings.method)
    for name in ("epochs", "batch_size", "checkpoint_steps", "keep_checkpoints", "log_steps", "accumulation_steps"):
        if getattr(settings, name) < 1:
            raise UserError(f"{name}={getattr(settings, name)} must be 1 or more")
    for name in ("seed", "loader_threads", "keep_every_epochs", "sync_bn_group"):
        if getattr(settings, name) < 0:
            raise UserError(f"{name}={getattr(settings, name)} must be 0 or more")
    if settings.backbone not in backbones.NAMES:
        raise UserError(f"unknown backbone {settings.backbone!r}; allowed: {', '.join(backbones.NAMES)}")
    if settings.precision not in PRECISIONS:
        raise UserError(f"precision={settings.precision!r} is unknown; allowed: {', '.join(PRECISIONS)}")
    optimisers.check(settings.optimiser)
    schedules.check(settings.schedule, settings.epochs)
    _check_views(settings, len(module.view_plan().views))
    _check_background(settings, module)
    _check_cast(settings, module)
    module.check(settings.algorithm, settings.batch_size)


def _check_views(settings: RunSettings, num_views: int) -> None:
    if len(settings.views) != num_views:
        raise UserError(f"{len(settings.views)} views were given; {settings.method} takes {num_views}")
    for name, allowed in (("crop_proposal", CROP_PROPOSALS), ("crop_fallback", CROP_FALLBACKS)):
        if getattr(settings, name) not in allowed:
            raise UserError(f"{name}={getattr(settings, name)!r} is unknown; allowed: {', '.join(allowed)}")
    for index, view in enumerate(settings.views):
        if view.size_px < 8:
            raise UserError(f"views.{index}.size_px={view.size_px} must be 8 or more")
        shares = [field.name for field in fields(view) if field.name.endswith("_probability")]
        for name in [*shares, "min_foreground"]:
            _check_unit_interval(f"views.{index}.{name}", getattr(view, name))
        low, high = view.scale
        if not 0 < low <= high <= 1:
            raise UserError(f"views.{index}.scale={view.scale} must be two rising numbers in (0, 1]")


def _check_unit_interval(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"{name}={value} must be in [0, 1]")


def _check_background(settings: RunSettings, module: types.ModuleType) -> None:
    name = settings.background.name
    if name not in pipeline.views.backgrounds.NAMES:
        raise UserError(f"unknown background {name!r}; allowed: {', '.join(pipeline.views.backgrounds.NAMES)}")
    for field in ("probability", "negative_probability"):
        _check_unit_interval(f"background.{field}", getattr(settings.background, field))
    if settings.background.warmup_epochs < 0:
        raise UserError(f"background.warmup_epochs={settings.background.warmup_epochs} must be 0 or more")
    if import_module(f"pipeline.views.backgrounds.{name}").HAS_NEGATIVE and not module.HAS_NEGATIVES:
        fit = [method for method in trainer.methods.NAMES if method_module(method).HAS_NEGATIVES]
        raise UserError(
            f"background {name!r} adds a negative to every query, and method {settings.method!r} has no negatives; "
            f"use --bg random, or one of these methods: {', '.join(fit)}"
        )


def _check_cast(settings: RunSettings, module: types.ModuleType) -> None:
    if settings.cast is None:
        return
    if not module.HAS_CAST:
        fit = [method for method in trainer.methods.NAMES if method_module(method).HAS_CAST]
        raise UserError(
            f"--cast is not defined for method {settings.method!r}, which compares queries with prototypes, not with "
            f"one masked key; methods with CAST: {', '.join(fit)}"
        )
    if settings.cast.weight < 0:
        raise UserError(f"cast.weight={settings.cast.weight} must be 0 or more")
