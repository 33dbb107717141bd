"""The momentum buffers of an SGD-like optimiser by their parameters' names, to keep and to put back."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_BUFFER = "momentum_buffer"  # torch's name for it


def momenta(module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the buffers of the module's parameters that have one."""
    return {
        name: optimiser.state[parameter][_BUFFER]
        for name, parameter in module.named_parameters()
        if optimiser.state.get(parameter, {}).get(_BUFFER) is not None
    }


def restore_momenta(module: nn.Module, optimiser: torch.optim.Optimizer, kept: Mapping[str, Tensor]) -> None:
    """Put buffers back, each where and laid out in memory as its parameter is. Args: kept: as `momenta` gave them."""
    parameters = dict(module.named_parameters())
    for name, momentum in kept.items():
        optimiser.state[parameters[name]][_BUFFER] = torch.empty_like(parameters[name]).copy_(momentum)
