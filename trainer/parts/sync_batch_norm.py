"""BatchNorm over the batches of several processes.

torch's SyncBatchNorm runs on GPUs only; the one here serves processes on CPUs, written with two sums that are
differentiable once. Second-order gradients do not go through either of them: CAST's heads stay plain BatchNorm1d.
"""

from typing import Any, TypeVar

import torch
from torch import distributed, nn

from backdrop.trainer.parts.split_batch_norm import SplitBatchNorm2d, refuse_other_batch_norms

_Network = TypeVar("_Network", bound=nn.Module)
_KNOWN = (nn.BatchNorm1d, nn.BatchNorm2d, SplitBatchNorm2d, nn.SyncBatchNorm)


class _Sum(torch.autograd.Function):
    """The sum over a group of processes; each process's loss depends on it, so gradients are summed as well."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor, group: distributed.ProcessGroup | None) -> torch.Tensor:
        context.group = group
        return _all_reduced(values, group)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _all_reduced(gradient, context.group), None


def _all_reduced(values: torch.Tensor, group: distributed.ProcessGroup | None) -> torch.Tensor:
    result = values.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(result, group=group)
    return result


class AllReduceBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm of any rank of input whose batch is that of a group of processes with equally many rows each."""

    group: distributed.ProcessGroup | None = None

    def forward(self, x_BC: torch.Tensor) -> torch.Tensor:
        """Normalise a batch. Args: x_BC: float (B, C, ...). Returns: the same shape."""
        if not self.training:
            return super().forward(x_BC)
        axes = [axis for axis in range(x_BC.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x_BC.ndim)]
        num_values = x_BC.numel() // x_BC.shape[1] * distributed.get_world_size(self.group)
        x = x_BC.to(torch.promote_types(x_BC.dtype, torch.float32))
        mean_C = _Sum.apply(x.sum(axes), self.group) / num_values
        centred = x - mean_C.view(shape)
        variance_C = _Sum.apply((centred * centred).sum(axes), self.group) / num_values
        self._follow(mean_C.detach(), variance_C.detach() * (num_values / max(num_values - 1, 1)))
        scale_C = torch.rsqrt(variance_C + self.eps) * self.weight
        return (centred * scale_C.view(shape) + self.bias.view(shape)).to(x_BC.dtype)

    def _follow(self, mean_C: torch.Tensor, variance_C: torch.Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(variance_C, self.momentum)
        self.num_batches_tracked += 1

    def _check_input_dim(self, input: torch.Tensor) -> None:
        assert input.ndim >= 2, "rows and channels at least"


def synchronise_batch_norms(
    network: _Network,
    group: distributed.ProcessGroup | None,
    *,
    device: torch.device,
    kinds: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d),
) -> _Network:
    """Replace plain BatchNorms of a network, in place; parameters, buffers and names stay.

    Args: network: any module. group: processes that normalise together, None = all. device: that the network is on.
        kinds: exact types that are replaced. Returns: the network.
    Raises: UserError: a BatchNorm of another kind.
    """
    refuse_other_batch_norms(network, (*_KNOWN, AllReduceBatchNorm))
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) in kinds:
                setattr(parent, name, _synchronised(child, group, device))
    return network


def _synchronised(plain: Any, group: distributed.ProcessGroup | None, device: torch.device) -> nn.Module:
    new: Any
    if device.type == "cuda":
        new = nn.SyncBatchNorm(plain.num_features, plain.eps, plain.momentum, process_group=group)
    else:
        new = AllReduceBatchNorm(plain.num_features, plain.eps, plain.momentum)
        new.group = group
    new.weight, new.bias = plain.weight, plain.bias
    new.running_mean, new.running_var = plain.running_mean, plain.running_var
    new.num_batches_tracked = plain.num_batches_tracked
    return new.train(plain.training)
