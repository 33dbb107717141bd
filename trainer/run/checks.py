"""What must hold before anything is opened or built: each setting is possible, and they go together."""

import math
import types
from collections.abc import Sequence
from dataclasses import fields

from backdrop.errors import UserError
from backdrop.pipeline.views.backgrounds import BACKGROUNDS
from backdrop.pipeline.views.batch import BAD_ROWS, GEOMETRIES
from backdrop.pipeline.views.crops import check_background
from backdrop.pipeline.views.device_stage import FORMS
from backdrop.pipeline.views.view_plan import CROP_FALLBACKS, CROP_PROPOSALS, View
from backdrop.trainer import backbones, cast, online_probe
from backdrop.trainer.methods import METHODS
from backdrop.trainer.optimisation import optimisers, schedules
from backdrop.trainer.settings import PRECISIONS, RunSettings, method_module

# What torch and the random streams take.
_NUM_SEEDS = 2**63


def check(settings: RunSettings) -> None:
    """Raise UserError unless the settings are possible and go together; nothing is opened or built."""
    module = method_module(settings.method)
    for name in ("epochs", "batch_size", "checkpoint_steps", "keep_checkpoints", "log_steps", "accumulation_steps"):
        if getattr(settings, name) < 1:
            raise UserError(f"{name}={getattr(settings, name)} must be 1 or more")
    for name in ("seed", "loader_threads", "keep_every_epochs", "sync_bn_group"):
        if getattr(settings, name) < 0:
            raise UserError(f"{name}={getattr(settings, name)} must be 0 or more")
    if settings.seed >= _NUM_SEEDS:
        raise UserError(f"seed={settings.seed} must be below {_NUM_SEEDS} (2 to the power of 63)")
    backbones.find(settings.backbone)
    if settings.cifar_stem:
        backbones.check_cifar_stem(settings.backbone)
    _check_choice("precision", settings.precision, PRECISIONS)
    _check_choice("geometry", settings.geometry, GEOMETRIES)
    _check_choice("bad_rows", settings.bad_rows, BAD_ROWS)
    _check_choice("device_form", settings.device_form, FORMS)
    if settings.shrink_on_decoding and settings.geometry == "device":
        raise UserError("shrink_on_decoding=True goes with geometry=host: with geometry=device images are sent whole")
    optimisers.check(settings.optimiser)
    schedules.check(settings.schedule, settings.epochs)
    online_probe.check(settings.probe)
    _check_views(settings, len(module.view_plan().views))
    _check_background(settings, module)
    _check_cast(settings, module)
    _check_accumulation(settings, module)
    module.check(settings.algorithm, settings.batch_size)


def _check_views(settings: RunSettings, num_views: int) -> None:
    if len(settings.views) != num_views:
        raise UserError(f"{len(settings.views)} views were given; {settings.method} takes {num_views}")
    _check_choice("crop_proposal", settings.crop_proposal, CROP_PROPOSALS)
    _check_choice("crop_fallback", settings.crop_fallback, CROP_FALLBACKS)
    for index, view in enumerate(settings.views):
        _check_view(f"views.{index}", view)


def _check_view(path: str, view: View) -> None:
    if view.size_px < 8:
        raise UserError(f"{path}.size_px={view.size_px} must be 8 or more")
    shares = [field.name for field in fields(view) if field.name.endswith("_probability")]
    for name in [*shares, "min_foreground"]:
        _check_unit_interval(f"{path}.{name}", getattr(view, name))
    for name, highest in (("scale", 1.0), ("aspect_ratio", math.inf), ("blur_sigma_px", math.inf)):
        low, high = getattr(view, name)
        if not 0 < low <= high <= highest:
            raise UserError(
                f"{path}.{name}={low:g},{high:g} must be two rising numbers above 0"
                + (f", {highest:g} at most" if highest < math.inf else "")
            )
    *strengths, hue = view.jitter
    if min(strengths) < 0 or not 0 <= hue <= 0.5:
        given = ",".join(f"{strength:g}" for strength in view.jitter)
        raise UserError(f"{path}.jitter={given} must be 0 or more, the last (hue, in turns) 0.5 at most")


def _check_choice(name: str, given: str, allowed: Sequence[str]) -> None:
    if given not in allowed:
        raise UserError(f"{name}={given!r} is unknown; allowed: {', '.join(allowed)}")


def _check_unit_interval(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"{name}={value} must be in [0, 1]")


def _check_background(settings: RunSettings, module: types.ModuleType) -> None:
    name = settings.background.name
    has_negative = BACKGROUNDS.load(name).HAS_NEGATIVE
    check_background(settings.background)
    if has_negative and not module.HAS_NEGATIVES:
        fit = [method for method in METHODS.names() if method_module(method).HAS_NEGATIVES]
        raise UserError(
            f"background {name!r} adds a negative to every query, and method {settings.method!r} has no negatives; "
            f"use --bg random, or one of these methods: {', '.join(fit)}"
        )


def _check_cast(settings: RunSettings, module: types.ModuleType) -> None:
    if settings.cast is None:
        return
    if not module.HAS_CAST:
        fit = [method for method in METHODS.names() if method_module(method).HAS_CAST]
        raise UserError(
            f"--cast is not defined for method {settings.method!r}, which matches no query with a key; methods with "
            f"CAST: {', '.join(fit)}"
        )
    cast.check(settings.cast)
    family = backbones.find(settings.backbone)
    if family.CELL_PX and not settings.cifar_stem:
        other = ", or cifar_stem=true" if family.HAS_CIFAR_STEM else ""
        for index, view in enumerate(settings.views):
            if view.is_global and view.size_px <= family.CELL_PX:
                raise UserError(
                    f"views.{index}.size_px={view.size_px}: the feature map of {settings.backbone} is one cell then, "
                    f"and CAST has nothing to point at; set views.size_px to more than {family.CELL_PX}{other}"
                )


def _check_accumulation(settings: RunSettings, module: types.ModuleType) -> None:
    if settings.accumulation_steps > 1 and not hasattr(module, "check_parts"):
        raise UserError(
            f"accumulation_steps={settings.accumulation_steps}: a step of {settings.method} taken in parts is not the "
            "step of the whole batch, which its BatchNorms or codes are computed over; set accumulation_steps=1 with "
            "a smaller batch_size, or start more processes with torchrun"
        )
