"""Step time with a background augmentation or CAST over the same step without, on whatever device is there; and the
share of a step that a real run waits for its loader."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.views.device_stage import DeviceStage, Views
from tests.bench.photographs import write_beton
from tests.bench.timing import row
from tests.memory_loader import MemoryLoader
from trainer.recipes import smoke
from trainer.run.loop import pretrain
from trainer.run.run_folder import read_metrics, read_settings
from trainer.run.settings import RunSettings, apply_overrides
from trainer.run.training import Training, start, take_step

# (method, background) of each line; every one is divided by MoCo without backgrounds.
CASES = {
    "none": ("moco", "none"),
    "rm": ("moco", "rm"),
    "random": ("moco", "random"),
    "swaps": ("moco", "swaps"),
    "cast": ("cast", "none"),
    "cast_released": ("cast", "none"),
}
OVERRIDES = ("views.size_px=96", "batch_size=64", "algorithm.shuffle_bn_group=32")
ROUNDS = 6
NUM_IMAGES, NUM_EPOCHS = 512, 3


def measure(folder: Path) -> dict[str, dict]:
    """Return `trainer.<case>_step_ratio`; the cases take turns, so that a busy minute slows all of them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = {
        name: one_step(settings_of(*case), device, is_released=name == "cast_released") for name, case in CASES.items()
    }
    seconds = {name: float("inf") for name in CASES}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            seconds[name] = min(seconds[name], time.perf_counter() - begun)
    what = f"ResNet-18, 96 px, batch 64, {device.type}, device stage included; peer: seconds of a MoCo step without"
    return loader_wait(folder) | {
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


def loader_wait(folder: Path) -> dict[str, dict]:
    """Return `trainer.loader_wait`, from the records of a run of pretrain after its first epoch.

    The first step of an epoch waits for the loader to start. There are thousands in an epoch of ImageNet and eight in
    these, so it is left out.
    """
    beton, _ = write_beton(folder, NUM_IMAGES)
    overrides = [*OVERRIDES, "background.probability=0.2", f"epochs={NUM_EPOCHS}", "log_steps=1"]
    pretrain(
        method="moco", background="swaps", with_cast=False, store=beton, out=folder / "run", recipe="smoke",
        overrides=overrides,
    )  # fmt: skip
    records = [record for record in read_metrics(folder / "run") if record["epoch"] > 0]
    within = [now for before, now in itertools.pairwise(records) if now["epoch"] == before["epoch"]]
    batch_size = read_settings(folder / "run").batch_size
    waited = sum(record["waited_s"] for record in within)
    taken = sum(batch_size / record["images_per_s"] for record in within)
    what = f"share of a step spent waiting for a batch, MoCo with BG_Swaps, ResNet-18, 96 px, {len(within)} steps"
    return {"trainer.loader_wait": row(waited / taken, "ratio", what=what)}


def one_step(settings: RunSettings, device: torch.device, *, is_released: bool) -> Callable[[], None]:
    """Return a function that does one whole step, compiled and warm.

    Args: is_released: as CAST's released code computes it, which runs every query through the network a second time,
        forward and backward, for the attention loss alone (and its masked keys in a forward of their own).
    """
    if is_released:
        settings = apply_overrides(settings, ["cast.variant=released"])
    training = start(settings, steps_per_epoch=100, device=device)
    if is_released:
        training.forward = with_second_query(training)
    batch = next(
        iter(
            MemoryLoader(
                settings.plan, num_rows=max(128, 2 * settings.batch_size), batch_size=settings.batch_size
            ).epoch(0)
        )
    )
    stage = DeviceStage(settings.plan, device=device, channels_last=True)

    def step() -> None:
        take_step(training, stage(batch))
        if device.type == "cuda":
            torch.cuda.synchronize()

    step()
    return step


def with_second_query(training: Training) -> Callable[[Views], dict[str, torch.Tensor]]:
    """Return a training step that embeds the query twice; the second time changes no value, and costs what it costs."""
    once = training.forward

    def forward(views: Views) -> dict[str, torch.Tensor]:
        losses = once(views)
        again_BD = training.method.embed_query(training.method.backbone(views.images[0]))
        return losses | {"loss": losses["loss"] + 0.0 * again_BD.sum()}

    return forward
