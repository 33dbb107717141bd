"""One training in several processes, started by torchrun: how they share the work and how they end together.

Each process takes batch_size / processes rows of every batch. Plain DistributedDataParallel averages the gradients; it
copies no buffers, because batch statistics are either synchronised or meant to be a process's own. Only the first
process writes the run's folder.
"""

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from backdrop.devices import share_of_cores
from backdrop.errors import UserError
from backdrop.pipeline.views.device_stage import Views
from backdrop.ranks import Ranks
from backdrop.trainer import cast
from backdrop.trainer.methods import METHODS
from backdrop.trainer.parts.collectives import gathered
from backdrop.trainer.parts.pretraining_method import PretrainingMethod
from backdrop.trainer.parts.sync_batch_norm import synchronise_batch_norms
from backdrop.trainer.settings import RunSettings

# A process that hears nothing from another for so long ends. (torchrun ends all much sooner when one of them dies.)
TIMEOUT = timedelta(minutes=10)
# Slurm sends one of them before it takes a machine away.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def share_of(settings: RunSettings, num_processes: int) -> int:
    """Return the rows of a batch that one process takes.

    Raises: UserError: the processes cannot have equal shares, or a share does not suit the method.
    """
    if settings.batch_size % num_processes:
        raise UserError(
            f"batch_size={settings.batch_size} cannot be shared equally by {num_processes} processes; start as many "
            "as divide it, or set another batch_size"
        )
    share = settings.batch_size // num_processes
    if share % settings.accumulation_steps:
        raise UserError(
            f"accumulation_steps={settings.accumulation_steps} does not divide the {share} images that each process "
            "takes of a batch; set one that does"
        )
    module = METHODS.load(settings.method)
    if num_processes > 1:
        module.check(settings.algorithm, share)
    if settings.accumulation_steps > 1:
        module.check_parts(settings.algorithm, share // settings.accumulation_steps, num_processes)
    return share


def loader_threads(settings: RunSettings) -> int:
    """Return the threads of this process's loader; 0 = one per core."""
    if settings.loader_threads or int(os.environ.get("LOCAL_WORLD_SIZE", "1")) == 1:
        return settings.loader_threads
    return share_of_cores()


# ----------------------------------------------------------------------------------------------------------- networks


def synchronise(method: nn.Module, settings: RunSettings, ranks: Ranks) -> None:
    """Make a method's BatchNorms those of its group of processes, in place.

    Those of MoCo's backbone already have groups of their own and stay. With CAST the heads' BatchNorms stay each
    process's own: L_att differentiates twice through them, which synchronised ones do not support.

    Raises: UserError: the processes cannot form such groups.
    """
    if ranks.size == 1:
        return
    size = _group_size(settings, ranks.size)
    if size > 1:
        group = _own_group(size, ranks)
        kinds = (nn.BatchNorm2d,) if cast.in_use(settings.cast) else (nn.BatchNorm1d, nn.BatchNorm2d)
        synchronise_batch_norms(method, group, device=torch.device(ranks.device), kinds=kinds)


def _group_size(settings: RunSettings, num_processes: int) -> int:
    """Processes that normalise together."""
    # What is normalised at once: of a step in parts, a part.
    share = settings.batch_size // num_processes // settings.accumulation_steps
    size = max(1, settings.sync_bn_group // share) if settings.sync_bn_group else num_processes
    size = min(size, num_processes)
    if (settings.sync_bn_group > share and settings.sync_bn_group % share) or num_processes % size:
        raise UserError(
            f"sync_bn_group={settings.sync_bn_group}: {num_processes} processes with {share} images each cannot form "
            f"equal groups of that many; set a multiple of {share} that divides {share * num_processes}, or 0 for all"
        )
    return size


def _own_group(size: int, ranks: Ranks) -> distributed.ProcessGroup | None:
    if size == ranks.size:
        return None
    # Every process takes part in making every group.
    starts = range(0, ranks.size, size)
    groups = [distributed.new_group(list(range(start, start + size)), timeout=TIMEOUT) for start in starts]
    group = groups[ranks.rank // size]
    assert not isinstance(group, int), "this process is in its own group"
    return group


class _Step(nn.Module):
    """A method whose forward is its training step: DistributedDataParallel wants one forward that returns all."""

    def __init__(self, method: PretrainingMethod) -> None:
        super().__init__()
        self.method = method

    def forward(self, views: Views) -> dict[str, Tensor]:
        return self.method.training_step(views)


def wrapped_step(method: PretrainingMethod, ranks: Ranks) -> Callable[[Views], dict[str, Tensor]]:
    """Return the method's training step; its gradients are averaged over the processes."""
    if ranks.size == 1:
        return method.training_step
    with warnings.catch_warnings():
        # torch 2.13 and later warn of this argument's end. Its successor copies all buffers from the first process at
        # the start, and SwAV's dealt queue is each process's own: torch's warning says to stay with this one then.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(
            _Step(method), broadcast_buffers=False, find_unused_parameters=method.has_unused_parameters
        )


def without_averaging(step: Callable[[Views], dict[str, Tensor]]) -> Any:
    """Return a context in which gradients add up in each process: all parts of a batch but the last."""
    return step.no_sync() if isinstance(step, DistributedDataParallel) else nullcontext()


# ---------------------------------------------------------------------------------------------------------- agreement


def check_same(ranks: Ranks, value: int, question: str) -> None:
    """Raise UserError unless all processes have the same value. Args: question: what it tells, for the message."""
    if ranks.size > 1:
        values = gathered(torch.tensor([value])).tolist()
        if len(set(values)) > 1:
            raise UserError(
                f"the processes of this training disagree on {question}: {values}. The run's folder has to lie where "
                "the machines of all processes see it"
            )


@contextmanager
def clear_loss_of_peers(ranks: Ranks) -> Iterator[None]:
    """Turn what the network says when another process is gone into a message. Raises: UserError then."""
    try:
        yield
    except RuntimeError as error:
        if ranks.size == 1 or not (isinstance(error, distributed.DistError) or "gloo" in str(error)):
            raise
        raise UserError(
            f"process {ranks.rank} of {ranks.size} lost touch with another one, which ended or hangs; its own message "
            "tells why. The same command goes on from the latest checkpoint. "
            f"What the network said: {str(error).splitlines()[0]}"
        ) from error


class StopRequest:
    """Whether a scheduler asked this process to end."""

    was_made = False
    _asked: tuple[Tensor, distributed.Work] | None = None

    def ask(self, ranks: Ranks) -> None:
        """Begin to ask, in all processes at once, whether any of them was asked to end; waits for nobody."""
        if ranks.size > 1:
            answer = torch.tensor(self.was_made, dtype=torch.uint8)
            work = distributed.all_reduce(answer, distributed.ReduceOp.MAX, async_op=True)
            assert work is not None, "every process is one of this group"
            self._asked = answer, work

    def is_agreed(self, ranks: Ranks) -> bool:
        """Return the answer, the same in every process; it went its way beside the step, and waits for no GPU."""
        if ranks.size == 1:
            return self.was_made
        assert self._asked is not None, "ask comes first"
        answer, work = self._asked
        work.wait()
        self._asked = None
        return bool(answer)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Listen to STOP_SIGNALS; what they did before is restored at the end."""
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        request.was_made = True
        # Not print: the signal may have come in the middle of one.
        os.write(2, f"\n{signal.Signals(number).name}: a checkpoint is written after this step or the next\n".encode())

    # Signals arrive in the main thread only; a training that runs elsewhere is stopped by whoever started it.
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, note) for number in STOP_SIGNALS} if is_main else {}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
