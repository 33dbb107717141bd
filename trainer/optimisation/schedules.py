"""The learning rate as a pure function of the step: linear warm-up, then half a cosine, or steps down."""

import math
from dataclasses import dataclass
from typing import Annotated

from backdrop.errors import UserError
from backdrop.settings import at_least, within
from backdrop.trainer.parts.learning_rates import half_cosine, linear_warmup, num_passed


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Shape of the learning rate over a run; fractions are of the peak rate."""

    warmup_epochs: Annotated[float, at_least(0), "Length of the linear warm-up, always per step"] = 0.0
    warmup_start_fraction: Annotated[float, within(0, 1), "Rate at the first warm-up step (SwAV: 0.3 of 4.8)"] = 0.0
    final_fraction: Annotated[float, within(0, 1), "Rate at the end"] = 0.0
    is_per_epoch: Annotated[
        bool,
        "Whether the cosine moves once an epoch (MoCo, CAST) or every step (BYOL, SwAV)",
    ] = False
    tenth_at_epochs: Annotated[
        tuple[int, ...],
        at_least(1),
        "Epochs at which the rate falls to a tenth, in place of the cosine (RotNet, supervised); () = cosine",
    ] = ()


def check(settings: Settings, epochs: int) -> None:
    """Raise UserError when the schedule does not fit the length of the run."""
    if settings.warmup_epochs > epochs:
        raise UserError(f"schedule.warmup_epochs={settings.warmup_epochs} is above epochs={epochs}; change one of them")
    falls = settings.tenth_at_epochs
    if list(falls) != sorted(set(falls)) or any(not 0 < epoch < epochs for epoch in falls):
        raise UserError(f"schedule.tenth_at_epochs={falls} must be rising epochs between 0 and epochs={epochs}")


def lr_fraction(settings: Settings, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return the learning rate of a step as a fraction of its peak.

    Args: step: steps done before. steps_per_epoch, epochs: length of the run.
    """
    epoch = step / steps_per_epoch
    if epoch < settings.warmup_epochs:
        return linear_warmup(epoch, settings.warmup_epochs, settings.warmup_start_fraction)
    if settings.tenth_at_epochs:
        return 0.1 ** num_passed(epoch, settings.tenth_at_epochs)
    if settings.is_per_epoch:
        epoch = max(math.floor(epoch), settings.warmup_epochs)
    progress = (epoch - settings.warmup_epochs) / (epochs - settings.warmup_epochs)
    return half_cosine(progress, settings.final_fraction)
