"""What two processes on one training cost more than one process with the whole batch: BYOL, over gloo on CPUs.

python -m tests.bench processes
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from backdrop.pipeline.views.device_stage import DeviceStage
from backdrop.ranks import Ranks, joined
from backdrop.trainer.run.loop import resolve_settings
from backdrop.trainer.run.training import start, take_step
from tests.bench.timing import row
from tests.material.memory_loader import MemoryLoader

NUM_PROCESSES = 2
NUM_ROUNDS = 4
SIZE = ("views.size_px=96", "batch_size=64")
COLLECTIVES = ("all_reduce", "all_gather", "all_gather_into_tensor", "all_to_all_single")


def measure(folder: Path) -> dict[str, dict]:
    """Return `trainer.two_processes`, `trainer.two_processes_told` and `trainer.collectives`, each of a step."""
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(NUM_PROCESSES)]
    command = [sys.executable, "-m", *launch, "-m", "tests.bench.processes", str(folder / "found.json")]
    subprocess.run(command, check=True)
    found = json.loads((folder / "found.json").read_text())
    what = f"BYOL, recipe smoke, ResNet-18, {' '.join(SIZE)}, cpu, gloo, {NUM_PROCESSES} processes of one thread"
    ratio, told = found["shared_s"] / found["whole_s"], found["shared_s"] / (NUM_PROCESSES * found["part_s"])
    return {
        "trainer.two_processes": row(
            ratio,
            "ratio",
            peer=found["whole_s"],
            ratio=ratio,
            what=f"{what}, processor seconds of a step, of both together; peer: one process with the whole batch",
        ),
        "trainer.two_processes_told": row(
            told,
            "ratio",
            peer=NUM_PROCESSES * found["part_s"],
            ratio=told,
            what=f"{what}, processor seconds of a step, of both together; peer: of two that tell each other nothing",
        ),
        "trainer.collectives": row(found["num_collectives"], "calls", what=f"{what}, a step, the gradients' left out"),
    }


def step_of(ranks: Ranks, *, num_parts: int) -> Callable[[], object]:
    """Return a function that does one step on ready views, those of this process's part of the batch.

    Args: ranks: that are told of. num_parts: of the batch.
    """
    settings = resolve_settings("smoke", "byol", "none", False, SIZE)
    size = settings.batch_size
    loader = MemoryLoader(settings.plan, num_rows=size, batch_size=size, rank=ranks.rank, world_size=num_parts)
    training = start(settings, steps_per_epoch=100, device=torch.device("cpu"), ranks=ranks)
    views = DeviceStage(settings.plan, device="cpu", channels_last=True)(next(iter(loader.epoch(0))))
    return lambda: take_step(training, views)


@contextmanager
def counted() -> Iterator[list[str]]:
    """Note each collective that Python calls; DistributedDataParallel's are called from C++."""
    called: list[str] = []
    before = {name: getattr(distributed, name) for name in COLLECTIVES}

    def counting(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            called.append(name)
            return before[name](*arguments, **options)

        return call

    for name in COLLECTIVES:
        setattr(distributed, name, counting(name))
    try:
        yield called
    finally:
        for name, function in before.items():
            setattr(distributed, name, function)


def cpu_seconds(step: Callable[[], object]) -> float:
    """Return this process's processor seconds of a step."""
    distributed.barrier()
    begun = time.process_time()
    step()
    return time.process_time() - begun


def main(out: Path) -> None:
    """Measure in every process at once, so that what else a machine does meets both sides alike."""
    torch.set_num_threads(1)
    with joined("cpu") as ranks:
        alone = Ranks(device="cpu")
        steps = {
            "shared": step_of(ranks, num_parts=ranks.size),
            "part": step_of(alone, num_parts=ranks.size),
            "whole": step_of(alone, num_parts=1),
        }
        with counted() as called:
            steps["shared"]()
        rounds = [{name: cpu_seconds(step) for name, step in steps.items()} for _ in range(1 + NUM_ROUNDS)][1:]
        of_all: list[Any] = [None] * ranks.size
        distributed.all_gather_object(of_all, rounds)
        if ranks.is_first:
            found = {"shared_s": min(sum(own["shared"] for own in of_round) for of_round in zip(*of_all, strict=True))}
            for name in ("part", "whole"):
                found[f"{name}_s"] = min(own[name] for of_rank in of_all for own in of_rank)
            found["num_collectives"] = len(called)
            out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
