"""How long training stands still for a checkpoint, and what memory it takes: MoCo-v2 with a ResNet-50, on the CPU."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from backdrop.trainer.run import checkpoint
from backdrop.trainer.run.checkpoint_writer import checkpoint_writer
from backdrop.trainer.run.loop import resolve_settings
from backdrop.trainer.run.training import Training, start
from tests.bench.timing import row

NUM_TIMES = 4
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure(folder: Path) -> dict[str, dict]:
    """Return `trainer.checkpoint_stall` and `trainer.checkpoint_memory`; peer: written while the training waits."""
    training = _training()
    with checkpoint_writer() as writer:

        def beside() -> None:
            writer.start(lambda: _snapshot(training, folder))

        def waiting() -> None:
            _snapshot(training, folder).write()

        stall_s, memory_mb = _least(beside, writer.wait)
        peer_s, _ = _least(waiting, lambda: None)
    state_mb = next((folder / "checkpoints").iterdir()).stat().st_size / 1e6
    what = f"MoCo-v2, ResNet-50, {state_mb:.0f} MB of state, cpu, {torch.get_num_threads()} threads"
    return {
        "trainer.checkpoint_stall": row(
            stall_s, "s", peer=peer_s, ratio=stall_s / peer_s, what=f"{what}; peer: until the file is on disk"
        ),
        "trainer.checkpoint_memory": row(memory_mb, "MB", what=f"{what}; more than before, at most"),
    }


def _training() -> Training:
    """A training that has momenta."""
    settings = resolve_settings("moco_v2_220", "moco", "none", False, [])
    training = start(settings, steps_per_epoch=5004, device=torch.device("cpu"))
    for _, parameter in training.method.optimised_parameters():
        parameter.grad = torch.zeros_like(parameter)
    training.optimiser.step()
    training.optimiser.zero_grad(set_to_none=True)
    return training


def _snapshot(training: Training, folder: Path) -> checkpoint.Snapshot:
    taken = checkpoint.snapshot(folder, training.method, training.optimiser, step=1, keep=1)
    assert taken is not None, "this process is alone"
    return taken


def _least(work: Callable[[], None], wait: Callable[[], None]) -> tuple[float, float]:
    """Least seconds that `work` took, after a first time, and the most MB more that the process held until `wait`."""
    seconds, megabytes = [], []
    for _ in range(NUM_TIMES):
        _CLEAR.write_text("5")  # the highest memory counts from here
        before = _kilobytes("VmRSS")
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
        wait()
        megabytes.append((_kilobytes("VmHWM") - before) / 1e3)
    return min(seconds[1:]), max(megabytes)


def _kilobytes(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])
