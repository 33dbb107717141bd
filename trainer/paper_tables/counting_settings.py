"""Which settings of a run decide its network: what its identity is made of, and what two runs are compared by."""

from dataclasses import replace
from typing import Any

from backdrop.pipeline.views.backgrounds import BACKGROUNDS
from backdrop.pipeline.views.view_plan import Background, ViewPlan
from backdrop.trainer import cast
from backdrop.trainer.settings import RunSettings, by_path

# Of speed, of records, of the machine: the papers say nothing of them and no row is another row for them. The seed
# tells runs of a row apart; the folder that a run starts from is no setting of the network in it.
NOT_COUNTING = (
    "seed", "checkpoint_steps", "keep_checkpoints", "keep_every_epochs", "log_steps", "log", "loader_threads",
    "geometry", "device_form", "bad_rows", "precision", "is_compiled", "accumulation_steps", "processes_may_change",
    "algorithm.start_from",
)  # fmt: skip
_PROBE = "probe."
# No row of a paper leaves images out; a run that does is another one, every other run what it was.
_LEFT_OUT = "without"


def counting(settings: RunSettings) -> dict[str, Any]:
    """Return the settings that decide a run's network, by path; those that do nothing in it have their defaults.

    CAST at weight 0 is the method without it, bit for bit; method cast is moco with CAST; a background that is none has
    no probability; a crop that need hold no foreground has no fallback.
    """
    found = by_path(_without_idle(settings))
    if not settings.without:
        del found[_LEFT_OUT]
    return {path: value for path, value in found.items() if path not in NOT_COUNTING and not path.startswith(_PROBE)}


def _without_idle(settings: RunSettings) -> RunSettings:
    in_use = cast.in_use(settings.cast)
    # What follows from `scales_optimiser` is in the optimiser's settings by now.
    added = replace(in_use, scales_optimiser=False) if in_use else None
    # Method cast is moco with the settings of `cast` (trainer/methods/cast.py).
    settings = replace(settings, cast=added, method="moco" if settings.method == "cast" else settings.method)
    background = settings.background
    if background.name == "none":
        settings = replace(settings, background=Background())
    elif not BACKGROUNDS.load(background.name).HAS_NEGATIVE:
        default = Background()
        idle = ("negative_probability", "negative_matches", "negative_draw", "num_negatives")
        same = {name: getattr(default, name) for name in idle}
        settings = replace(settings, background=replace(background, **same))
    if not any(view.min_foreground > 0 for view in settings.views):
        settings = replace(settings, pair_constraint=False, crop_fallback=ViewPlan.crop_fallback)
    return settings
