"""Writes loss_curves.json: the loss of the first 30 steps of every method, on made-up images.

    python -m tests.golden.make_loss_curves

A refactoring must not move these curves; whoever changes what a step computes runs this and says why in the commit.
Sums of floats come in another order with another number of threads, and training amplifies that: at the smoke recipe's
rates, 1 and 2 threads are 2 % apart after three steps. So there is one thread here, and a small rate.
"""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import torch

from backdrop.pipeline.views.device_stage import DeviceStage
from backdrop.trainer.run.training import start, take_step
from tests.material.memory_loader import MemoryLoader
from tests.material.tiny_runs import tiny

CURVES = {
    "moco": ("moco", "none"),
    "moco-swaps": ("moco", "swaps"),
    "cast": ("cast", "none"),
    "byol-random": ("byol", "random"),
    "swav-rm": ("swav", "rm"),
    "rotnet": ("rotnet", "none"),
    "supervised": ("supervised", "none"),
}
NUM_STEPS = 30
_LR = 1e-3
FILE = Path(__file__).with_name("loss_curves.json")


def curve(name: str, num_steps: int = NUM_STEPS) -> list[float]:
    """Return the losses of the first steps of a tiny run."""
    method, background = CURVES[name]
    settings = tiny(method, background)
    slow = replace(settings.optimiser, lr=_LR, lr_per_images=0)
    settings = replace(settings, epochs=10, optimiser=slow)
    loader = MemoryLoader(settings.plan, num_rows=24, batch_size=settings.batch_size)
    training = start(settings, steps_per_epoch=loader.num_batches, device=torch.device("cpu"))
    stage = DeviceStage(settings.plan, device=torch.device("cpu"))
    losses: list[float] = []
    while len(losses) < num_steps:
        for batch in loader.epoch(training.step // loader.num_batches):
            losses.append(float(take_step(training, stage(batch))[0]["loss"]))
    return losses[:num_steps]


if __name__ == "__main__":
    torch.set_num_threads(1)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    made = {
        "made_by": "python -m tests.golden.make_loss_curves",
        "commit": commit,
        "torch": torch.__version__.partition("+")[0],
        "curves": {name: [float(f"{loss:.6g}") for loss in curve(name)] for name in CURVES},
    }
    FILE.write_text(json.dumps(made, indent=1) + "\n")
