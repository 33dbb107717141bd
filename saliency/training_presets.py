"""Which training a preset of `saliency train` is of: DeepUSPS2, or FOUND's head."""

from collections.abc import Callable, Sequence
from typing import Any

from backdrop.errors import UserError
from backdrop.saliency.deepusps2 import deepusps
from backdrop.saliency.deepusps2 import settings as deepusps_settings
from backdrop.saliency.found import settings as found_settings
from backdrop.saliency.found import training as found_training


def choose_training(
    preset: str, overrides: Sequence[str] = (), sources: Sequence[str] = ()
) -> tuple[Any, Callable[..., dict[str, Any] | None]]:
    """Return a preset's settings with a user's changes, and what trains with them.

    Args: preset: found, or a name of DeepUSPS2's. overrides: `name=value` texts. sources: of more labels.
    Returns: the settings; a function of an index, the run's folder, them, seed, backbone_weights and validation.
    Raises: UserError: no such preset or setting, an impossible value, sources where there are none.
    """
    names = (*deepusps_settings.PRESETS, found_settings.PRESET)
    if preset not in names:
        raise UserError(f"no preset {preset!r}: give one of {', '.join(names)}")
    if preset != found_settings.PRESET:
        return deepusps_settings.choose_settings(preset, overrides, sources), deepusps.train
    if sources:
        raise UserError(f"--preset found has no pseudo-labels but its own; leave out --source {', '.join(sources)}")
    return found_settings.choose_settings(overrides), found_training.train
