"""Step time with a background augmentation or CAST over the same step without, on whatever device is there; a compiled
step over the bare network; and the share of a step that a real run waits for its loader."""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from backdrop.pipeline.beton.beton_of_store import StoreSource
from backdrop.pipeline.views.batch import Batch
from backdrop.pipeline.views.device_stage import DeviceStage, Views
from backdrop.trainer.run.loop import RunRequest, pretrain, resolve_settings
from backdrop.trainer.run.metrics_log import read_metrics
from backdrop.trainer.run.run_folder import read_settings
from backdrop.trainer.run.training import Training, start, take_step
from backdrop.trainer.settings import RunSettings, apply_overrides
from tests.bench.photographs import write_beton
from tests.bench.timing import row
from tests.material.memory_loader import MemoryLoader

# (method, background) of each line; every one is divided by the same without its background, or without CAST's loss.
CASES = {
    "none": ("moco", "none"),
    "cast_without": ("cast", "none"),
    "rm": ("moco", "rm"),
    "random": ("moco", "random"),
    "swaps": ("moco", "swaps"),
    "cast": ("cast", "none"),
    "cast_shared": ("cast", "none"),
    "cast_released": ("cast", "none"),
}
PEERS = {
    "rm": "none",
    "random": "none",
    "swaps": "none",
    "cast": "cast_without",
    "cast_shared": "cast_without",
    "cast_released": "cast_without",
}
NUM_EPOCHS = 3
# Of Ryali A.1, which recipe smoke does not have.
PROBABILITY = "background.probability=0.2"


@dataclass(frozen=True, kw_only=True)
class Size:
    """What is measured on a kind of device.

    what: in words. overrides: of every case. rounds: times each case is timed. steps: per time, between which nothing
    waits for the device, as in a run. recipes: by method. num_images: of the run whose wait for its loader is measured.
    """

    what: str
    overrides: tuple[str, ...]
    rounds: int
    steps: int
    recipes: dict[str, str]
    num_images: int


SIZES = {
    "cpu": Size(
        what="recipe smoke, ResNet-18, 96 px, batch 64",
        overrides=("views.size_px=96", "batch_size=64", "algorithm.shuffle_bn_group=32"),
        rounds=6,
        steps=1,
        recipes={"moco": "smoke", "cast": "smoke"},
        num_images=512,
    ),
    "cuda": Size(
        what="recipes moco_v2_220 and cast_coco, ResNet-50, 224 px, batch 256, bf16",
        overrides=("batch_size=256",),
        rounds=5,
        steps=6,
        recipes={"moco": "moco_v2_220", "cast": "cast_coco"},
        num_images=1536,
    ),
}


def measure(folder: Path) -> dict[str, dict]:
    """Return `trainer.<case>_step_ratio`, `trainer.compiled_over_bare` and `trainer.loader_wait`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return step_ratios(device) | compiled_over_bare(device) | loader_wait(folder)


def step_ratios(device: torch.device) -> dict[str, dict]:
    """Return each case's step over one without backgrounds."""
    settings = {name: settings_of(*case, device) for name, case in CASES.items()}
    settings["cast_without"] = replace(settings["cast_without"], cast=None)
    # Masked keys in one batch with the ordinary ones; `cast` has them in a pass of their own.
    settings["cast_shared"] = apply_overrides(settings["cast_shared"], ["cast.key_pass=shared"])
    steps = {name: steps_of(each, device, is_released=name == "cast_released") for name, each in settings.items()}
    seconds = in_turns(steps, device)
    what = f"{SIZES[device.type].what}, {device.type}, device stage included; peer: seconds of a step without"
    ratios = {name: (seconds[name] / seconds[peer], seconds[peer]) for name, peer in PEERS.items()}
    return {
        f"trainer.{name}_step_ratio": row(ratio, "ratio", peer=peer, ratio=ratio, what=what)
        for name, (ratio, peer) in ratios.items()
    }


def compiled_over_bare(device: torch.device) -> dict[str, dict]:
    """Return a compiled step of MoCo on ready views over what it cannot do without, compiled likewise."""
    settings = replace(settings_of("moco", "none", device), is_compiled=True, precision="bf16")
    training = start(settings, steps_per_epoch=100, device=device)
    views = DeviceStage(settings.plan, device=device, channels_last=True)(batch_of(settings, device))
    whole_batch = apply_overrides(settings, ["algorithm.shuffle_bn_group=0"])
    bare = bare_step(start(whole_batch, steps_per_epoch=100, device=device), views)
    seconds = in_turns({"step": lambda: take_step(training, views), "bare": bare}, device)
    ratio = seconds["step"] / seconds["bare"]
    what = (
        f"{SIZES[device.type].what}, {device.type}, torch.compile, channels last, on ready views; peer: seconds of the "
        "query backbone's forward and backward and the key backbone's forward, BatchNorm over the whole batch"
    )
    return {"trainer.compiled_over_bare": row(ratio, "ratio", peer=seconds["bare"], ratio=ratio, what=what)}


def bare_step(training: Training, views: Views) -> Callable[[], object]:
    """Return the backbones' work alone: no head, loss, optimiser or momentum."""
    method = training.method

    def step() -> None:
        method.zero_grad(set_to_none=True)
        method.backbone(views.images[0]).sum().backward()
        with torch.no_grad():
            method.key_backbone(views.images[1])

    return step


def in_turns(steps: dict[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """Return the least seconds of a step; the cases take turns, so that a busy minute slows all of them."""
    size = SIZES[device.type]
    seconds = {name: float("inf") for name in steps}
    for number in range(size.rounds + 1):
        for name, step in steps.items():
            begun = time.perf_counter()
            for _ in range(size.steps):
                step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:  # the first time compiles and warms up
                seconds[name] = min(seconds[name], (time.perf_counter() - begun) / size.steps)
    return seconds


def settings_of(method: str, background: str, device: torch.device) -> RunSettings:
    """Return the recipe's settings at the device's size, with the paper's background probability."""
    size = SIZES[device.type]
    probability = [] if background == "none" else [PROBABILITY]
    return resolve_settings(size.recipes[method], method, background, False, [*size.overrides, *probability])


def batch_of(settings: RunSettings, device: torch.device) -> Batch:
    """Return a batch in memory of the kind that the loader hands over: pinned where there is a GPU."""
    size = settings.batch_size
    batch = next(iter(MemoryLoader(settings.plan, num_rows=max(128, 2 * size), batch_size=size).epoch(0)))
    if device.type == "cpu":
        return batch
    views = [
        replace(
            view,
            image_BHWC=view.image_BHWC.pin_memory(),
            mask_BHP=view.mask_BHP.pin_memory(),
            donor_BHWC=None if view.donor_BHWC is None else view.donor_BHWC.pin_memory(),
        )
        for view in batch.views
    ]
    return replace(batch, views=tuple(views))


def steps_of(settings: RunSettings, device: torch.device, *, is_released: bool) -> Callable[[], object]:
    """Return a function that does one whole step from a loader's batch.

    Args: is_released: as CAST's released code computes it, which runs every query through the network a second time,
        forward and backward, for the attention loss alone (and its masked keys in a forward of their own).
    """
    if is_released:
        settings = apply_overrides(settings, ["cast.variant=released"])
    training = start(settings, steps_per_epoch=100, device=device)
    if is_released:
        training.forward = with_second_query(training)
    batch = batch_of(settings, device)
    stage = DeviceStage(settings.plan, device=device, channels_last=True)
    return lambda: take_step(training, stage(batch))


def with_second_query(training: Training) -> Callable[[Views], dict[str, torch.Tensor]]:
    """Return a training step that embeds the query twice; the second time changes no value, and costs what it costs."""
    once = training.forward

    def forward(views: Views) -> dict[str, torch.Tensor]:
        losses = once(views)
        again_BD = training.method.embed_query(training.method.backbone(views.images[0]))
        return losses | {"loss": losses["loss"] + 0.0 * again_BD.sum()}

    return forward


def loader_wait(folder: Path) -> dict[str, dict]:
    """Return `trainer.loader_wait`, from the records of a run of pretrain after its first epoch.

    The first step of an epoch waits for the loader to start. There are thousands in an epoch of ImageNet and a handful
    in these, so it is left out.
    """
    size = SIZES["cuda" if torch.cuda.is_available() else "cpu"]
    beton, _ = write_beton(folder, size.num_images)
    length = [f"epochs={NUM_EPOCHS}", "schedule.warmup_epochs=0"]
    overrides = [*size.overrides, *length, PROBABILITY, "log_steps=1"]
    pretrain(
        RunRequest(method="moco", background="swaps", recipe=size.recipes["moco"], overrides=overrides),
        StoreSource(store=beton), out=folder / "run",
    )  # fmt: skip
    records = list(_after_first_epoch(read_metrics(folder / "run")))
    batch_size = read_settings(folder / "run").batch_size
    waited = sum(record["waited_s"] for record in records)
    taken = sum(batch_size / record["images_per_s"] for record in records)
    what = f"share of a step spent waiting for a batch, MoCo with BG_Swaps, {size.what}, {len(records)} steps"
    return {"trainer.loader_wait": row(waited / taken, "ratio", what=what)}


def _after_first_epoch(records: list[dict]) -> Iterator[dict]:
    """Records of later epochs, but the first of each."""
    for before, now in itertools.pairwise(records):
        if now["epoch"] == before["epoch"] > 0:
            yield now
