"""How a method's backbones are trained on with labels afterwards: numbers that its file states, as its paper has them.

Each evaluation takes those of the run's method. A method that states none is never scored with another's unasked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from backdrop.errors import UserError
from backdrop.settings import at_least, check_settings, from_below


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Length, batches and rate of a fit with momentum SGD."""

    epochs: Annotated[int, at_least(1), "Passes over the images"]
    batch_size: Annotated[int, at_least(1), "Images a step; the last step of an epoch takes those that are left"]
    lr: Annotated[float, at_least(0), "Peak rate for 256 images a step; scaled linearly with the batch"]
    weight_decay: Annotated[float, at_least(0), "L2 penalty"] = 0.0
    momentum: Annotated[float, from_below(0, 1), "Of SGD"] = 0.9
    nesterov: Annotated[bool, "Whether momentum is Nesterov's"] = False
    warmup_epochs: Annotated[float, at_least(0), "Linear warm-up from 0"] = 0.0
    step_epochs: Annotated[
        tuple[int, ...],
        at_least(0),
        "Epochs from which the rate is the fraction of `step_fractions`; () = half a cosine to 0, moving every step",
    ] = ()
    step_fractions: Annotated[
        tuple[float, ...],
        at_least(0),
        "Fractions of the peak rate, one for each of `step_epochs`",
    ] = ()

    @property
    def peak_lr(self) -> float:
        """The rate after warm-up."""
        return self.lr * self.batch_size / 256


def check_schedule(schedule: Schedule) -> None:
    """Raise UserError where a value is out of range or two do not fit."""
    check_settings(schedule)
    if len(schedule.step_epochs) != len(schedule.step_fractions):
        raise UserError(
            f"step_epochs={schedule.step_epochs} and step_fractions={schedule.step_fractions} must be equally many"
        )
    if list(schedule.step_epochs) != sorted(set(schedule.step_epochs)):
        raise UserError(f"step_epochs={schedule.step_epochs} must rise")
    if schedule.warmup_epochs >= schedule.epochs:
        raise UserError(f"warmup_epochs={schedule.warmup_epochs} must be below epochs={schedule.epochs}")


@dataclass(frozen=True, kw_only=True)
class LinearProtocol:
    """How a linear classifier is fitted on a frozen backbone (`evaluate linear`).

    bn_mode: "adapt", BatchNorm normalises by the batch and its statistics follow; "eval", they stay. init_std: of the
    classifier's weights before the fit. pooling: "mean" of the map, or "max6", the largest of each of 6 x 6 parts.
    has_batch_norm: whether a BatchNorm without parameters stands before the classifier.
    """

    schedule: Schedule
    bn_mode: str
    init_std: float = 0.01
    pooling: str = "mean"
    has_batch_norm: bool = False


@dataclass(frozen=True, kw_only=True)
class FinetuningRates:
    """How a backbone and a new classifier are trained together (`evaluate limited-labels`).

    head_lr, trunk_lr: peak rates of classifier and backbone for 256 images a step. schedule: its own lr is 1.
    """

    head_lr: float
    trunk_lr: float
    schedule: Schedule


@dataclass(frozen=True, kw_only=True)
class DetectorRates:
    """The learning rate of a detector that is fine-tuned (`evaluate voc-detection`, `export-backbone --to detectron2`).

    lr: peak rate for 16 images a step. warmup_iterations: steps of linear warm-up, from warmup_start_fraction of it.
    """

    lr: float
    warmup_iterations: int
    warmup_start_fraction: float


@dataclass(frozen=True, kw_only=True)
class Downstream:
    """What a method states of its evaluation.

    linear: None = nobody has published such numbers. finetuning: percent of the labels to rates. voc_detection: None
    likewise. classifier: the method's module, an `nn.Linear`, from pooled features to the classes of the store, which
    is scored as it was trained; "" = there is none.
    """

    linear: LinearProtocol | None
    finetuning: Mapping[int, FinetuningRates]
    voc_detection: DetectorRates | None
    classifier: str = ""
