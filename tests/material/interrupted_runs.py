"""Runs on made-up batches that stop where a test says, as a crash would stop them, and what they leave."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from backdrop.pipeline.views.batch import Batch
from backdrop.ranks import Ranks
from backdrop.trainer.parts import checkpoint_files
from backdrop.trainer.run import metrics_log, run_folder
from backdrop.trainer.run.training import train
from backdrop.trainer.settings import RunSettings
from tests.material.memory_loader import MemoryLoader

CPU = torch.device("cpu")
NUM_ROWS = 24  # 3 batches of 8


class Interrupted(Exception):
    """What StoppingLoader raises."""


class StoppingLoader(MemoryLoader):
    """Stops the run when a given batch is asked for, as a crash would."""

    stop_at: tuple[int, int] | None = None

    def epoch(self, epoch: int, *, first_batch: int = 0) -> Iterator[Batch]:
        for number, batch in enumerate(super().epoch(epoch, first_batch=first_batch), first_batch):
            if (epoch, number) == self.stop_at:
                raise Interrupted
            yield batch


def run(settings: RunSettings, out: Path, *, resume: bool = False, stop_at: tuple[int, int] | None = None) -> dict:
    """Train, and return the summary. stop_at: (epoch, batch) at which Interrupted is raised."""
    loader = StoppingLoader(settings.plan, num_rows=NUM_ROWS, batch_size=settings.batch_size)
    loader.stop_at = stop_at
    return train(
        settings, loader, out, origin=run_folder.Origin(recipe="smoke"), resume=resume, ranks=Ranks(device="cpu")
    )


def final_state(out: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a run's latest checkpoint."""
    path = checkpoint_files.latest(out)
    assert path is not None
    return load_file(path)


def losses(out: Path) -> list[tuple[int, float]]:
    """Return (step, loss) of every step logged."""
    return [(record["step"], record["loss"]) for record in metrics_log.read_metrics(out)]


def assert_same_end(first: Path, second: Path) -> None:
    """Two runs have the same weights, states and losses, bit for bit."""
    a, b = final_state(first), final_state(second)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert losses(first) == losses(second)
