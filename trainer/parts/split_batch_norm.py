"""BatchNorm over groups of the batch, as several devices would compute it, on one device or on several.

Shuffle-BN (He et al. 2020, "Momentum contrast", section 3.3) needs queries and keys normalised in different groups, or
the statistics of a group tell the network which key belongs to which query. Groups are consecutive runs of rows; where
several processes train, keys are shuffled over all of them, and a group is never larger than a process's batch.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from backdrop.errors import UserError
from backdrop.pipeline.views.row_order import row_order
from backdrop.trainer.parts.collectives import num_processes
from backdrop.trainer.parts.row_exchange import RowExchange

_Network = TypeVar("_Network", bound=nn.Module)
# Dimensions of (groups, rows of a group, C, H, W) that a group's statistics are taken over.
_OF_A_GROUP = (1, 3, 4)


class SplitBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose batch statistics are taken per `group_size` consecutive rows; 0 = the whole batch.

    Running statistics follow the first group, as they follow the first device in the released MoCo. Without gradients a
    batch of several groups is overwritten.
    """

    group_size: int = 0
    # Always there: `split_batch_norms` makes layers that keep running statistics.
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor
    momentum: float

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Normalise a batch. Args: x_BCHW: float (B, C, H, W). Returns: the same shape."""
        if not self.training or self.group_size == 0 or len(x_BCHW) <= self.group_size:
            return super().forward(x_BCHW)
        if torch.compiler.is_compiling() and len(x_BCHW) % self.group_size == 0:
            return self._all_at_once(x_BCHW)
        if not torch.is_grad_enabled():
            return self._in_place(x_BCHW)
        first, *others = x_BCHW.split(self.group_size)
        normalise = nn.functional.batch_norm
        rest = [normalise(x, None, None, self.weight, self.bias, training=True, eps=self.eps) for x in others]
        return torch.cat([super().forward(first), *rest])

    def _in_place(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Keys: over what the convolution gave, as ReLUs write.

        Nothing else reads that; and where it is large (keys with BG_Swaps' negatives) fresh memory takes a CPU longer
        than the normalisation does, and a GPU a copy to join the groups in.
        """
        self.num_batches_tracked.add_(1)
        unread = torch.empty_like(self.weight), torch.empty_like(self.weight)
        for number, x in enumerate(x_BCHW.split(self.group_size)):
            running = (None, None) if number else (self.running_mean, self.running_var)
            arguments = x, self.weight, self.bias, *running, True, self.momentum, self.eps
            torch.native_batch_norm(*arguments, out=(x, *unread))
        return x_BCHW

    def _all_at_once(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """The same as one formula, which a compiler makes a few kernels of; operation by operation it costs more."""
        groups = x_BCHW.unflatten(0, (-1, self.group_size))
        out, mean, var = _NormaliseGroups.apply(groups, self.weight, self.bias, self.eps)
        with torch.no_grad():
            num_values = groups[0, :, 0].numel()
            unbiased = var[0].flatten() * (num_values / (num_values - 1))
            self.running_mean.lerp_(mean[0].flatten(), self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
            self.num_batches_tracked.add_(1)
        return out.flatten(0, 1)


class _NormaliseGroups(torch.autograd.Function):
    """The formula and its gradient, written out: of what autograd derives a compiler makes more kernels.

    Groups are (groups, rows of a group, C, H, W), their statistics (groups, 1, C, 1, 1).
    """

    @staticmethod
    def forward(
        ctx: Any, groups: torch.Tensor, weight_C: torch.Tensor, bias_C: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = _accurate(groups)
        var, mean = torch.var_mean(x, dim=_OF_A_GROUP, correction=0, keepdim=True)
        inverse_std = torch.rsqrt(var + eps)
        out = (x - mean) * (inverse_std * weight_C[:, None, None]) + bias_C[:, None, None]
        ctx.save_for_backward(groups, weight_C, mean, inverse_std)
        ctx.mark_non_differentiable(mean, var)
        return out.to(groups.dtype), mean, var

    @staticmethod
    def backward(ctx: Any, of_out: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        groups, weight_C, mean, inverse_std = ctx.saved_tensors
        of_out, normalised = _accurate(of_out), (_accurate(groups) - mean) * inverse_std
        of_bias = of_out.sum(_OF_A_GROUP, keepdim=True)
        of_weight = (of_out * normalised).sum(_OF_A_GROUP, keepdim=True)
        through_statistics = (of_bias + normalised * of_weight) / groups[0, :, 0].numel()
        of_groups = (of_out - through_statistics) * (inverse_std * weight_C[:, None, None])
        return of_groups.to(groups.dtype), of_weight.sum(0).flatten(), of_bias.sum(0).flatten(), None


def _accurate(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def split_batch_norms(network: _Network, group_size: int) -> _Network:
    """Replace every BatchNorm2d of a network, in place, by one that works in groups; weights and names stay.

    Args: network: any module. group_size: rows of a group; 0 = leave the network as it is. Returns: the network.
    Raises: UserError: a BatchNorm of another kind, which would tell the network which key belongs to which query.
    """
    if group_size == 0:
        return network
    refuse_other_batch_norms(network, (nn.BatchNorm2d, SplitBatchNorm2d))
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                split = SplitBatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum)
                split.load_state_dict(child.state_dict())
                split.group_size = group_size
                setattr(parent, name, split)
    return network


def refuse_other_batch_norms(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    """Raise UserError where a network normalises batches by layers that cannot be replaced.

    Args: network: any module. kinds: exact types that are known.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and type(layer) not in kinds:
            raise UserError(
                f"the network's {name} is a {type(layer).__name__}, whose batches can neither be split into groups nor "
                "joined over processes; choose another --backbone, or set algorithm.shuffle_bn_group=0 in one process"
            )


def encode_shuffled(
    encode: Callable[[torch.Tensor], torch.Tensor],
    image_BCHW: torch.Tensor,
    stream: int,
    *,
    sent_as: torch.dtype | None = None,
) -> torch.Tensor:
    """Encode images in a random order over all processes; embeddings come back in the images' own order.

    The order, and with it every group, is that of one process with the whole batch. Each image goes to the one process
    that encodes it. Gradients do not cross processes.

    Args: encode: images to embeddings, row by row but for batch statistics. image_BCHW: float (B, C, H, W) of this
        process. stream: 63-bit key of the order, the same in every process. sent_as: what the encoder casts images to
        first of all: half of the bytes, and no number changes; None = nothing. Returns: (B, D).
    """
    size = num_processes()
    if sent_as is not None and size > 1:
        image_BCHW = image_BCHW.to(sent_as)
    exchange = RowExchange(row_order(stream, 0, size * len(image_BCHW)), image_BCHW.device)
    return exchange.back(encode(exchange.there(image_BCHW)))


def check_groups(group_size: int, batch_size: int, name: str) -> None:
    """Raise UserError unless a batch is a whole number of groups, or smaller than one.

    Args: group_size: rows of a group, 0 = off. batch_size: rows of a batch. name: the setting's name, for the message.
    """
    if group_size < 0 or group_size == 1:
        raise UserError(f"{name}={group_size} is not possible; give 2 or more images, or 0 for no groups")
    if group_size and batch_size > group_size and batch_size % group_size:
        raise UserError(
            f"batch_size={batch_size} is no multiple of {name}={group_size}; change one of them, or set {name}=0 "
            "to normalise over the whole batch without shuffling"
        )
