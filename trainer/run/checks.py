"""What must hold before anything is opened or built: each setting is possible, and they go together."""

from typing import Any

from backdrop.errors import UserError
from backdrop.pipeline.views.backgrounds import BACKGROUNDS
from backdrop.pipeline.views.crops import check_background, check_jitter
from backdrop.pipeline.views.view_plan import ViewPlan
from backdrop.settings import check_settings
from backdrop.trainer import backbones, cast, loggers
from backdrop.trainer.methods import METHODS, MethodFile
from backdrop.trainer.optimisation import schedules
from backdrop.trainer.settings import RunSettings


def check(settings: RunSettings) -> None:
    """Raise UserError unless the settings are possible and go together; nothing is opened or built."""
    module = METHODS.load(settings.method)
    check_settings(settings)
    backbones.find(settings.backbone)
    loggers.names_in(settings.log)
    if settings.cifar_stem:
        backbones.check_cifar_stem(settings.backbone)
    if settings.shrink_on_decoding and settings.geometry == "device":
        raise UserError("shrink_on_decoding=True goes with geometry=host: with geometry=device images are sent whole")
    schedules.check(settings.schedule, settings.epochs)
    _check_views(settings, module.view_plan())
    _check_background(settings, module)
    _check_cast(settings, module)
    module.check(settings.algorithm, settings.batch_size)
    _check_accumulation(settings, module)


def _check_views(settings: RunSettings, plan: ViewPlan) -> None:
    """All views of the method, or its global ones alone (SwAV without multi-crop)."""
    num_views, num_global = len(plan.views), sum(view.is_global for view in plan.views)
    if len(settings.views) not in (num_views, num_global):
        or_global = f", or its {num_global} global ones alone" if num_global < num_views else ""
        raise UserError(f"{len(settings.views)} views were given; {settings.method} takes {num_views}{or_global}")
    for index, view in enumerate(settings.views):
        check_jitter(f"views.{index}", view)


def _check_background(settings: RunSettings, module: MethodFile[Any]) -> None:
    name = settings.background.name
    has_negative = BACKGROUNDS.load(name).HAS_NEGATIVE
    check_background(settings.background)
    if has_negative and not module.HAS_NEGATIVES:
        fit = [method for method in METHODS.names() if METHODS.load(method).HAS_NEGATIVES]
        raise UserError(
            f"background {name!r} adds a negative to every query, and method {settings.method!r} has no negatives; "
            f"use --bg random, or one of these methods: {', '.join(fit)}"
        )


def _check_cast(settings: RunSettings, module: MethodFile[Any]) -> None:
    if settings.cast is None:
        return
    if not module.HAS_CAST:
        fit = [method for method in METHODS.names() if METHODS.load(method).HAS_CAST]
        raise UserError(
            f"--cast is not defined for method {settings.method!r}, which matches no query with a key; methods with "
            f"CAST: {', '.join(fit)}"
        )
    if cast.in_use(settings.cast) is None:
        return
    if settings.cast.variant == "released" and settings.cast.key_pass == "shared":
        raise UserError(
            "cast.variant=released has a key pass of its own for masked keys; leave out cast.key_pass=shared"
        )
    family = backbones.find(settings.backbone)
    if family.CELL_PX and not settings.cifar_stem:
        other = ", or cifar_stem=true" if family.HAS_CIFAR_STEM else ""
        for index, view in enumerate(settings.views):
            if view.is_global and view.size_px <= family.CELL_PX:
                raise UserError(
                    f"views.{index}.size_px={view.size_px}: the feature map of {settings.backbone} is one cell then, "
                    f"and CAST has nothing to point at; set views.size_px to more than {family.CELL_PX}{other}"
                )


def _check_accumulation(settings: RunSettings, module: MethodFile[Any]) -> None:
    part_size, is_left = divmod(settings.batch_size, settings.accumulation_steps)
    # Several processes make smaller parts, and parts that do not divide are named when the processes are counted.
    if settings.accumulation_steps > 1 and not is_left:
        module.check_parts(settings.algorithm, part_size, num_processes=1)
