"""BatchNorm's running statistics where the passes that they follow are dealt to several processes.

A pass normalises by its own batch, whatever ran before; only the running statistics depend on the passes' order. So
each process notes what its pass adds, momentum x the batch's statistics, and all follow all passes in the order of one.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from backdrop.errors import UserError
from backdrop.trainer.parts.collectives import num_processes


class AdaptedStatistics:
    """The running statistics of a network in training mode. In a process alone the network keeps them itself."""

    def __init__(self, network: nn.Module) -> None:
        """Look for the BatchNorms in training mode.

        Raises: UserError: several processes cannot follow the statistics of one.
        """
        batch_norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        self._norms = [norm for norm in batch_norms if norm.training and norm.track_running_stats]
        if num_processes() > 1 and any(norm.momentum is None for norm in self._norms):
            raise UserError(
                "this network's BatchNorm averages over all passes (momentum=None), which several processes cannot "
                "share: start evaluate without torchrun, or add --set bn_mode=eval"
            )

    def noted(self, a_pass: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        """Return what a pass of this process gives and, for `follow`, what it adds to the statistics, (S,).

        In a process alone, and where nothing follows, there is no second one.
        """
        if num_processes() == 1 or not self._norms:
            return (a_pass(),)
        before = self._statistics()
        counts = [norm.num_batches_tracked.clone() for norm in self._norms if norm.num_batches_tracked is not None]
        self._set(torch.zeros_like(before))
        outputs = a_pass()
        added = self._statistics()
        self._set(before)
        for norm, count in zip(self._norms, counts, strict=True):
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked.copy_(count)
        return outputs, added

    def follow(self, added: Tensor) -> None:
        """Have the statistics follow a pass of any process. Args: added: of `noted`."""
        start = 0
        for norm in self._norms:
            for running in (norm.running_mean, norm.running_var):
                assert running is not None
                assert norm.momentum is not None
                running.mul_(1 - norm.momentum).add_(added[start : start + len(running)])
                start += len(running)
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked += 1

    def _statistics(self) -> Tensor:
        """All running means and variances, (S,)."""
        both = [running for norm in self._norms for running in (norm.running_mean, norm.running_var)]
        return torch.cat([running for running in both if running is not None])

    def _set(self, statistics_S: Tensor) -> None:
        start = 0
        for norm in self._norms:
            for running in (norm.running_mean, norm.running_var):
                assert running is not None
                running.copy_(statistics_S[start : start + len(running)])
                start += len(running)
