"""Names of weights without those of modules that are only there to hold others: as they are published."""

import torch
from torch import nn


def leave_out_of_names(module: nn.Module, inside: str) -> None:
    """Write a module's weights without the name of a child, and read them so.

    Args: module: which holds the child. inside: what is left out, `network.` say.
    """

    def shorten(module: nn.Module, state: dict[str, torch.Tensor], prefix: str, metadata: object) -> None:
        for name in [name for name in state if name.startswith(prefix + inside)]:
            state[prefix + name.removeprefix(prefix + inside)] = state.pop(name)

    def lengthen(module: nn.Module, state: dict[str, torch.Tensor], prefix: str, *_: object) -> None:
        for name in [name for name in state if name.startswith(prefix)]:
            state[prefix + inside + name.removeprefix(prefix)] = state.pop(name)

    module._register_state_dict_hook(shorten)
    module.register_load_state_dict_pre_hook(lengthen)
