"""SGD and LARS (You et al. 2017), with and without adaptation of biases and normalisation parameters."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from backdrop.settings import one_of, within
from backdrop.trainer.parts.pretraining_method import ParameterGroup

NAMES = ("sgd", "lars")
LARS_NORMS = ("joint", "separate")
# Of numbers that weights, float32, are multiplied with.
_LARGEST = 1e30


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How weights move."""

    name: Annotated[str, one_of(NAMES), "sgd or lars"] = "sgd"
    lr: Annotated[float, within(0, _LARGEST), "Peak learning rate for lr_per_images images a step"] = 0.03
    lr_per_images: Annotated[
        int,
        within(0, _LARGEST),
        "The rate is scaled linearly with batch_size / lr_per_images; 0 = the rate is taken as it is",
    ] = 256
    momentum: Annotated[float, within(0, _LARGEST), "Share of the step before that is added to a step"] = 0.9
    weight_decay: Annotated[float, within(0, _LARGEST), "L2 penalty per step, added to the gradient"] = 1e-4
    includes_bias_and_norm: Annotated[
        bool,
        "Whether biases and normalisation parameters get weight decay (and, with lars, adaptation): MoCo and SwAV "
        "do so, BYOL does not",
    ] = True
    lars_trust: Annotated[float, within(0, _LARGEST), "eta of lars"] = 1e-3
    lars_norms: Annotated[
        str,
        one_of(LARS_NORMS),
        "What lars divides by: joint = |g + wd * w| (BYOL, optax), separate = |g| + wd * |w| (apex's LARC as used "
        "by SwAV, timm, lightly)",
    ] = "joint"
    clip_norm: Annotated[float, within(0, _LARGEST), "Largest norm of the whole gradient; 0 = unlimited"] = 0.0


def peak_lr(settings: Settings, batch_size: int) -> float:
    """Return the learning rate after warm-up."""
    return settings.lr * (batch_size / settings.lr_per_images if settings.lr_per_images else 1.0)


class Lars(torch.optim.Optimizer):
    """Momentum SGD whose step is scaled per tensor by eta * |w| / |g + wd * w|, or 1 where either norm is 0.

    With separate norms the ratio is eta * |w| / (|g| + wd * |w|), the same to 1e-6 at SwAV's weight decay of 1e-6; a
    tensor without gradient then still decays, as in timm (apex leaves it alone). Groups with `is_adapted` false take
    plain momentum steps.
    """

    def __init__(
        self, groups: Iterable[dict], *, lr: float, momentum: float, trust: float, has_separate_norms: bool = False
    ) -> None:
        """Args: groups: each with params, weight_decay, is_adapted. trust: eta."""
        super().__init__(groups, {"lr": lr, "momentum": momentum, "trust": trust})
        self._has_separate_norms = has_separate_norms

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._step_group(group, weights)

    def _step_group(self, group: dict, weights: list[torch.Tensor]) -> None:
        raw = [weight.grad for weight in weights if weight.grad is not None]
        gradients = torch._foreach_add(raw, weights, alpha=group["weight_decay"])
        if group["is_adapted"]:
            weight_norm = torch.stack(torch._foreach_norm(weights))
            norm = torch.stack(torch._foreach_norm(raw if self._has_separate_norms else gradients))
            is_adapted = (weight_norm > 0) & (norm > 0)
            divisor = norm + group["weight_decay"] * weight_norm if self._has_separate_norms else norm
            ratio = torch.where(is_adapted, group["trust"] * weight_norm / divisor, 1.0)
            torch._foreach_mul_(gradients, list(ratio.unbind()))
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        torch._foreach_add_(weights, buffers, alpha=-group["lr"])


def build_optimiser(groups: Sequence[ParameterGroup], settings: Settings) -> torch.optim.Optimizer:
    """Build the optimiser of a method's parameters; its learning rates are set before each step.

    Args: groups: of the method; each becomes two: biases and normalisation parameters, those of one dimension, apart.
    """
    torch_groups = [each for group in groups for each in _split(group, settings)]
    if settings.name == "lars":
        return Lars(
            torch_groups,
            lr=0.0,
            momentum=settings.momentum,
            trust=settings.lars_trust,
            has_separate_norms=settings.lars_norms == "separate",
        )
    for group in torch_groups:
        del group["is_adapted"]
    return torch.optim.SGD(torch_groups, lr=0.0, momentum=settings.momentum)


def _split(group: ParameterGroup, settings: Settings) -> list[dict[str, Any]]:
    """A group as torch takes it: matrices, then vectors. What is none of torch's names stays beside them."""
    rate = {"lr_factor": group.lr_factor, "follows_schedule": group.follows_schedule}
    matrices = [parameter for _, parameter in group.named if parameter.ndim > 1]
    vectors = [parameter for _, parameter in group.named if parameter.ndim <= 1]
    vector_decay = settings.weight_decay if settings.includes_bias_and_norm else 0.0
    return [
        {"params": matrices, "weight_decay": settings.weight_decay, "is_adapted": True, **rate},
        {"params": vectors, "weight_decay": vector_decay, "is_adapted": settings.includes_bias_and_norm, **rate},
    ]


def set_lr(optimiser: torch.optim.Optimizer, peak: float, fraction: float = 1.0) -> None:
    """Set the learning rate of every group.

    Args: peak: of the run. fraction: of it, where the schedule stands.
    """
    for group in optimiser.param_groups:
        group["lr"] = group["lr_factor"] * peak * (fraction if group["follows_schedule"] else 1.0)
