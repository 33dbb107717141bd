"""Step time with a background augmentation or CAST over the same step without, on whatever device is there."""

import time
from pathlib import Path

import torch

from pipeline.views.device_stage import DeviceStage
from tests.bench.timing import row
from tests.memory_loader import MemoryLoader
from trainer.recipes import smoke
from trainer.run.settings import RunSettings, apply_overrides
from trainer.run.training import start, take_step

# (method, background) of each line; every one is divided by MoCo without backgrounds.
CASES = {"none": ("moco", "none"), "random": ("moco", "random"), "swaps": ("moco", "swaps"), "cast": ("cast", "none")}
OVERRIDES = ("views.size_px=96", "batch_size=64", "algorithm.shuffle_bn_group=32")
ROUNDS = 6


def measure(folder: Path) -> dict[str, dict]:
    """Return `trainer.<case>_step_ratio`; the cases take turns, so that a busy minute slows all of them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = {name: one_step(settings_of(*case), device) for name, case in CASES.items()}
    seconds = {name: float("inf") for name in CASES}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            seconds[name] = min(seconds[name], time.perf_counter() - begun)
    what = f"ResNet-18, 96 px, batch 64, {device.type}, device stage included; peer: seconds of a MoCo step without"
    return {
        f"trainer.{name}_step_ratio": row(
            seconds[name] / seconds["none"], "ratio", peer=seconds["none"], ratio=seconds[name] / seconds["none"],
            what=what,
        )
        for name in CASES if name != "none"
    }  # fmt: skip


def settings_of(method: str, background: str) -> RunSettings:
    """Return the smoke recipe at 96 px with the paper's background probability."""
    probability = [] if background == "none" else ["background.probability=0.2"]
    return apply_overrides(smoke.settings(method, background, False), [*OVERRIDES, *probability])


def one_step(settings: RunSettings, device: torch.device):
    """Return a function that does one whole step, compiled and warm."""
    training = start(settings, steps_per_epoch=100, device=device)
    batch = next(iter(MemoryLoader(settings.plan, num_rows=128, batch_size=settings.batch_size).epoch(0)))
    stage = DeviceStage(settings.plan, device=device)

    def step() -> None:
        take_step(training, stage(batch))
        if device.type == "cuda":
            torch.cuda.synchronize()

    step()
    return step
