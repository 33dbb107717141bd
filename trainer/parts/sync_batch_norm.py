"""BatchNorm over the batches of several processes.

torch's SyncBatchNorm runs on GPUs only; the one here serves processes on CPUs. Second-order gradients do not go through
either of them: CAST's heads stay plain BatchNorm1d.
"""

from typing import Any, TypeVar

import torch
from torch import distributed, nn

from backdrop.trainer.parts.split_batch_norm import SplitBatchNorm2d, refuse_other_batch_norms

_Network = TypeVar("_Network", bound=nn.Module)
_KNOWN = (nn.BatchNorm1d, nn.BatchNorm2d, SplitBatchNorm2d, nn.SyncBatchNorm)


class _Normalise(torch.autograd.Function):
    """BatchNorm and its gradient, with one collective each way: its passes over the batch are those of torch's own."""

    @staticmethod
    def forward(
        ctx: Any, x_BC: torch.Tensor, weight_C: torch.Tensor, bias_C: torch.Tensor, norm: "AllReduceBatchNorm"
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        mean_C, variance_C, num_values = _statistics(x_BC, norm)
        ctx.save_for_backward(x_BC, weight_C, mean_C, variance_C)
        ctx.norm, ctx.num_values = norm, num_values
        ctx.mark_non_differentiable(mean_C, variance_C)
        y_BC = torch.batch_norm(x_BC, weight_C, bias_C, mean_C, variance_C, False, 0.0, norm.eps, False)
        return y_BC, mean_C, variance_C, num_values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_y_BC: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_BC, weight_C, mean_C, variance_C = ctx.saved_tensors
        norm, shape = ctx.norm, _of_channels(x_BC)
        # A process without rows adds nothing; torch's own divides by their number.
        of_weight_C = of_bias_C = torch.zeros_like(weight_C)
        if len(x_BC):
            # Of statistics that are given, as in evaluation: sums over this process's rows alone.
            _, of_weight_C, of_bias_C = torch.ops.aten.native_batch_norm_backward(
                of_y_BC, x_BC, weight_C, mean_C, variance_C, None, None, False, norm.eps, [False, True, True]
            )
        # Every process's loss depends on the statistics of all.
        sums_2C = torch.stack([of_weight_C, of_bias_C])
        distributed.all_reduce(sums_2C, group=norm.group)
        through_variance_C, through_mean_C = sums_2C / ctx.num_values
        inverse_std_C = torch.rsqrt(variance_C + norm.eps)
        scale_C = weight_C * inverse_std_C
        slope_C = -scale_C * inverse_std_C * through_variance_C
        offset_C = -scale_C * through_mean_C - slope_C * mean_C
        of_x_BC = torch.addcmul(offset_C.view(shape), x_BC, slope_C.view(shape))
        return of_x_BC.addcmul_(of_y_BC, scale_C.view(shape)), of_weight_C, of_bias_C, None


def _statistics(x_BC: torch.Tensor, norm: "AllReduceBatchNorm") -> tuple[torch.Tensor, torch.Tensor, int]:
    """Mean and (biased) variance, each (C,), over the rows of a group of processes, and how many values these have.

    The same bits in each process.
    """
    size, num_values = distributed.get_world_size(norm.group), _num_values(x_BC)
    # A process without rows has no statistics.
    of_own = torch.batch_norm_update_stats(x_BC, None, None, 0.0) if num_values else 2 * [x_BC.new_zeros(x_BC.shape[1])]
    num_C = [] if norm.has_equal_shares else [torch.full_like(of_own[0], num_values)]
    own_KC = torch.stack([*of_own, *num_C])
    of_each = own_KC.new_empty(len(own_KC) * size, own_KC.shape[1])
    distributed.all_gather_into_tensor(of_each, own_KC, group=norm.group)
    means_WC, variances_WC, *nums_WC = of_each.unflatten(0, (size, -1)).unbind(1)
    # Not by a sum of squares, whose digits are lost where the mean is large.
    if not nums_WC:
        return means_WC.mean(0), variances_WC.mean(0) + means_WC.var(0, correction=0), num_values * size
    num_of_all = int(nums_WC[0][:, 0].sum())
    share_WC = nums_WC[0] / num_of_all
    mean_C = (means_WC * share_WC).sum(0)
    variance_C = ((variances_WC + (means_WC - mean_C) ** 2) * share_WC).sum(0)
    return mean_C, variance_C, num_of_all


def _num_values(x_BC: torch.Tensor) -> int:
    """Of one channel."""
    return x_BC.numel() // x_BC.shape[1]


def _of_channels(x_BC: torch.Tensor) -> list[int]:
    """The shape in which (C,) goes with a batch."""
    return [-1 if axis == 1 else 1 for axis in range(x_BC.ndim)]


class AllReduceBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm of any rank of input whose batch is that of a group of processes.

    has_equal_shares: whether all of them have equally many rows.
    """

    group: distributed.ProcessGroup | None = None
    has_equal_shares: bool = True

    def forward(self, x_BC: torch.Tensor) -> torch.Tensor:
        """Normalise a batch. Args: x_BC: float (B, C, ...). Returns: the same shape."""
        if not self.training:
            return super().forward(x_BC)
        x = x_BC.to(torch.promote_types(x_BC.dtype, torch.float32))
        y, mean_C, variance_C, num_values = _Normalise.apply(x, self.weight, self.bias, self)
        self._follow(mean_C, variance_C * (num_values / max(num_values - 1, 1)))
        return y.to(x_BC.dtype)

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
    has_equal_shares: bool = True,
) -> _Network:
    """Replace plain BatchNorms of a network, in place; parameters, buffers and names stay.

    Args: network: any module. group: processes that normalise together, None = all. device: that the network is on.
        kinds: exact types that are replaced. has_equal_shares: whether all have equally many rows.
    Returns: the network.
    Raises: UserError: a BatchNorm of another kind.
    """
    refuse_other_batch_norms(network, (*_KNOWN, AllReduceBatchNorm))
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) in kinds:
                setattr(parent, name, _synchronised(child, group, device, has_equal_shares))
    return network


def _synchronised(
    plain: Any, group: distributed.ProcessGroup | None, device: torch.device, has_equal_shares: bool
) -> nn.Module:
    new: Any
    if device.type == "cuda":
        new = nn.SyncBatchNorm(plain.num_features, plain.eps, plain.momentum, process_group=group)
    else:
        new = AllReduceBatchNorm(plain.num_features, plain.eps, plain.momentum)
        new.group, new.has_equal_shares = group, has_equal_shares
    new.weight, new.bias = plain.weight, plain.bias
    new.running_mean, new.running_var = plain.running_mean, plain.running_var
    new.num_batches_tracked = plain.num_batches_tracked
    return new.train(plain.training)
