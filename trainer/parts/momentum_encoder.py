"""The slowly moving copy of a network that MoCo calls the key encoder and BYOL the target.

He et al. 2020, "Momentum contrast", Eq. 2; Grill et al. 2020, "Bootstrap your own latent", Eq. 1 and section 3.2.
| paper | here |
|---|---|
| theta_q, theta | online |
| theta_k, xi | target |
| m, tau | momentum |
"""

import copy
import math
from typing import TypeVar

import torch
from torch import nn

_Network = TypeVar("_Network", bound=nn.Module)


def frozen_copy(online: _Network) -> _Network:
    """Return a copy of a network whose parameters take no gradient."""
    target = copy.deepcopy(online)
    target.requires_grad_(False)
    return target


@torch.no_grad()
def update_momentum(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """Move the target towards the online network: target <- m * target + (1 - m) * online.

    Parameters only: the target keeps the batch statistics of its own inputs (as both papers' code does).
    Call once per optimiser step.
    """
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1.0 - momentum)


def cosine_momentum(base: float, step: int, num_steps: int) -> float:
    """Return the momentum at a step: from `base` to 1 along half a cosine (Grill et al. 2020, section 3.2)."""
    return 1.0 - (1.0 - base) * (math.cos(math.pi * step / num_steps) + 1.0) / 2.0
