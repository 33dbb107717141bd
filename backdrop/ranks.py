"""Several GPUs on one work, started by torchrun: who this process is, and what the processes tell each other.

The first rank alone touches the run folder's pseudo-labels; batches go from it to all, predictions from all to it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from backdrop.errors import UserError

# The others wait while the first rank finds classical maps, which takes hours for a large data set.
TIMEOUT = timedelta(days=7)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those of the training."""

    device: str
    # torch device of this process
    rank: int = 0
    # of this process
    size: int = 1
    # number of processes

    @property
    def is_first(self) -> bool:
        """Whether this process reads and writes the pseudo-labels."""
        return self.rank == 0

    def share(self, num_images: int) -> slice:
        """This rank's images of a batch; shares differ by one at most.

        Args:
            num_images: of the batch.
        """
        least, more = divmod(num_images, self.size)
        start = self.rank * least + min(self.rank, more)
        return slice(start, start + least + (self.rank < more))

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose gradients are averaged over all ranks. Batch statistics stay per rank, as in the code."""
        if self.size == 1:
            return model
        return DistributedDataParallel(model, device_ids=[self.device] if self.device.startswith("cuda") else None)

    def from_first(self, values: Any) -> Any:
        """The first rank's small JSON-able value.

        Args:
            values: that of this rank; only the first rank's counts.
        """
        if self.size == 1:
            return values
        box = [values]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def by_first(self, work: Callable[[], Any]) -> Any:
        """Return what the first process finds or does, while the others wait.

        Args: work: called there alone; gives what is small.
        Raises: UserError, in all, what it raised there.
        """
        if self.size == 1:
            return work()
        value, error = None, None
        if self.is_first:
            try:
                value = work()
            except UserError as caught:
                error = str(caught)
        value, error = self.from_first((value, error))
        if error is not None:
            raise UserError(error)
        return value

    def tensor_from_first(self, tensor: Tensor) -> Tensor:
        """The first rank's tensor.

        Args:
            tensor: of the right shape and dtype on every rank, on `device`.
        """
        if self.size > 1:
            distributed.broadcast(tensor, src=0)
        return tensor

    def to_first(self, part: Tensor, num_images: int) -> Tensor:
        """All ranks' shares of a batch, complete on the first rank only: (num_images, ...).

        Args:
            part: this rank's `share`, images first.
            num_images: of the batch.
        """
        if self.size == 1:
            return part
        whole = part.new_zeros(num_images, *part.shape[1:])
        whole[self.share(num_images)] = part
        distributed.reduce(whole, dst=0)
        return whole

    def sum(self, value: float) -> float:
        """The sum of a number over all ranks."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return float(total)


def is_first_process() -> bool:
    """Whether this process speaks for all that torchrun started; true where it started none."""
    return os.environ.get("RANK", "0") == "0"


def present(device: torch.device | str) -> Ranks:
    """Return this process among those that `joined`; alone where none did. Args: device: its own."""
    if not distributed.is_initialized():
        return Ranks(device=str(device))
    return Ranks(device=str(device), rank=distributed.get_rank(), size=distributed.get_world_size())


@contextmanager
def joined(device: str | None = None, *, timeout: timedelta = TIMEOUT) -> Iterator[Ranks]:
    """Take part in the work that torchrun started; alone where it did not, as before where this process has joined.

    Args:
        device: torch device; None = a GPU where there is one.
        timeout: longest wait for another process before this one gives up.

    Raises:
        UserError: torchrun started more processes than there are GPUs.
    """
    if distributed.is_initialized():
        yield present(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return
    size, local_rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    has_gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
    if size == 1:
        yield Ranks(device=device or ("cuda" if has_gpu else "cpu"))
        return
    if has_gpu and local_rank >= torch.cuda.device_count():
        raise UserError(
            f"torchrun started process {local_rank + 1} on a machine with {torch.cuda.device_count()} GPUs: "
            "give --nproc-per-node that many"
        )
    own_device = f"cuda:{local_rank}" if has_gpu else "cpu"
    if has_gpu:
        torch.cuda.set_device(own_device)
    # Tensors of the host go over gloo in either case, so that words between processes never wait for a GPU.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo", timeout=timeout)
    try:
        yield Ranks(device=own_device, rank=distributed.get_rank(), size=size)
    finally:
        distributed.destroy_process_group()
