"""The training loop: batches to views to losses to steps, with checkpoints that lose nothing."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.loader.batch import Batch, WholeBatch
from pipeline.views.device_stage import DeviceStage, Views
from stores.errors import UserError
from trainer.parts.backbones import Backbone, build_backbone
from trainer.run import checkpoint, run_folder
from trainer.run.crop_fallbacks import FallbackWatch
from trainer.run.optimisers import build_optimiser, peak_lr, set_lr
from trainer.run.recorder import Recorder, crop_statistics
from trainer.run.run_folder import Origin
from trainer.run.schedules import lr_fraction
from trainer.run.settings import RunSettings, method_module


class BatchSource(Protocol):
    """What is needed of a loader."""

    @property
    def store_id(self) -> str:
        """Identity of the store."""
        ...

    @property
    def num_rows(self) -> int:
        """Rows that are trained on."""
        ...

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""
        ...

    def epoch(self, epoch: int, *, first_batch: int = 0) -> Iterator[Batch | WholeBatch]:
        """Yield an epoch's batches from `first_batch` on."""
        ...


@dataclass
class Training:
    """A run in memory."""

    settings: RunSettings
    method: Any
    optimiser: torch.optim.Optimizer
    steps_per_epoch: int
    device: torch.device
    # Steps done.
    step: int = 0

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.settings.epochs


def start(settings: RunSettings, *, steps_per_epoch: int, device: torch.device) -> Training:
    """Build a run's networks and optimiser at step 0; the weights follow from the seed alone.

    On a GPU the convolutions run in bfloat16; heads and losses stay in float32.
    """
    module = method_module(settings.method)
    # The one generator of torch that layers draw from is seeded for this block and left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(settings.seed)
        backbone = build_backbone(settings.backbone, cifar_stem=settings.cifar_stem)
        backbone.autocast_dtype = torch.bfloat16 if device.type == "cuda" else None
        method = module.Method(backbone, settings.algorithm, seed=settings.seed, cast=settings.cast)
    # Channels last is what convolutions are fastest with, on a CPU (1.4 times at 64 px) as on a GPU.
    method.to(device=device, memory_format=torch.channels_last)
    optimiser = build_optimiser(method.optimised_parameters(), settings.optimiser)
    return Training(settings, method.train(), optimiser, steps_per_epoch, device)


def take_step(training: Training, views: Views) -> tuple[dict[str, Tensor], float]:
    """Do one optimiser step.

    Returns: the step's losses, still on the device, and its learning rate.
    """
    settings, optimiser = training.settings, training.optimiser
    fraction = lr_fraction(settings.schedule, training.step, training.steps_per_epoch, settings.epochs)
    lr = fraction * peak_lr(settings.optimiser, settings.batch_size)
    set_lr(optimiser, lr)
    losses = training.method.training_step(views)
    optimiser.zero_grad(set_to_none=True)
    losses["loss"].backward()
    if settings.optimiser.clip_norm:
        parameters = [parameter for _, parameter in training.method.optimised_parameters()]
        torch.nn.utils.clip_grad_norm_(parameters, settings.optimiser.clip_norm)
    optimiser.step()
    training.method.after_step(training.step, training.num_steps)
    training.step += 1
    return losses, lr


def train(
    settings: RunSettings,
    loader: BatchSource,
    out: Path,
    *,
    origin: Origin,
    resume: bool,
    device: torch.device,
) -> dict[str, Any]:
    """Train from the run's latest checkpoint, or from the start, to the end.

    Args: loader: batches of settings.plan. out: the run's folder. origin: for the records.
    Returns: a summary for the command line.
    Raises: UserError: the folder cannot take this run; the store is too small; a loss is not finite.
    """
    if loader.num_batches < 1:
        raise UserError(
            f"batch_size={settings.batch_size} is more than the store's {loader.num_rows} rows; "
            f"set batch_size to {loader.num_rows} or less"
        )
    run_folder.open_folder(out, settings, origin=origin, store_id=loader.store_id, resume=resume)
    last = checkpoint.latest(out)
    num_steps = loader.num_batches * settings.epochs
    if last is not None and checkpoint.step_of(last) >= num_steps:
        _export_backbone(out, checkpoint.load_backbone(out), settings)
        return _summary(out, num_steps, "already finished")
    training = start(settings, steps_per_epoch=loader.num_batches, device=device)
    if last is not None:
        training.step = checkpoint.load(last, training.method, training.optimiser)
    run_folder.drop_metrics_from(out, training.step)
    with _progress(training, out) as (bar, recorder):
        _run(training, loader, out, bar, recorder)
    _export_backbone(out, training.method.backbone, settings)
    return _summary(out, num_steps, "finished")


def _export_backbone(out: Path, backbone: Backbone, settings: RunSettings) -> None:
    checkpoint.save_backbone(out, backbone, name=settings.backbone, cifar_stem=settings.cifar_stem)


@contextmanager
def _progress(training: Training, out: Path) -> Iterator[tuple[tqdm, Recorder]]:
    settings = training.settings
    with tqdm(total=training.num_steps, initial=training.step, desc=settings.method, unit="step") as bar:
        recorder = Recorder(
            out,
            log_steps=settings.log_steps,
            batch_size=settings.batch_size,
            bar=bar,
            first_step=training.step,
        )
        try:
            yield bar, recorder
        finally:
            recorder.close()


def _run(training: Training, loader: BatchSource, out: Path, bar: tqdm, recorder: Recorder) -> None:
    stage = DeviceStage(training.settings.plan, device=training.device)
    fallbacks = FallbackWatch(training.settings.plan)
    while training.step < training.num_steps:
        epoch, first_batch = divmod(training.step, training.steps_per_epoch)
        wait_from = time.perf_counter()
        for batch in loader.epoch(epoch, first_batch=first_batch):
            waited_s = time.perf_counter() - wait_from
            record = {"step": training.step, "epoch": epoch, "waited_s": round(waited_s, 5)}
            losses, lr = take_step(training, _channels_last(stage(batch)))
            recorder.add(record | {"lr": lr} | crop_statistics(batch), losses)
            _warn(fallbacks.add(batch.records))
            _save_when_due(training, out, recorder)
            bar.update()
            wait_from = time.perf_counter()
        assert training.step == (epoch + 1) * training.steps_per_epoch, "the loader gave another number of batches"
    _warn(fallbacks.warning())


def _warn(message: str | None) -> None:
    if message is not None:
        tqdm.write(message, file=sys.stderr)


def _channels_last(views: Views) -> Views:
    """Give images the memory format of the networks."""
    return replace(views, images=[image.contiguous(memory_format=torch.channels_last) for image in views.images])


def _save_when_due(training: Training, out: Path, recorder: Recorder) -> None:
    settings = training.settings
    is_epoch_end = training.step % training.steps_per_epoch == 0
    if is_epoch_end or training.step % settings.checkpoint_steps == 0:
        # First the numbers: a loss that is not finite stops the run before its weights are kept.
        recorder.flush()
        checkpoint.save(out, training.method, training.optimiser, step=training.step, keep=settings.keep_checkpoints)


def _summary(out: Path, num_steps: int, state: str) -> dict[str, Any]:
    metrics = run_folder.read_metrics(out)
    return {
        "run": str(out),
        "state": state,
        "steps": num_steps,
        "loss": metrics[-1]["loss"] if metrics else None,
        "images_per_s": metrics[-1]["images_per_s"] if metrics else None,
        "backbone": str(out / checkpoint.BACKBONE_FILE),
    }
