"""The training loop: batches to views to losses to steps, with checkpoints that lose nothing."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from backdrop.errors import UserError
from backdrop.pipeline.views.batch import Batch, WholeBatch
from backdrop.pipeline.views.device_stage import DeviceStage, Views
from backdrop.progress import note, stage_bar, warn
from backdrop.ranks import Ranks
from backdrop.trainer import cast
from backdrop.trainer.backbones import build_backbone
from backdrop.trainer.loggers import open_loggers
from backdrop.trainer.methods import METHODS
from backdrop.trainer.optimisation.optimisers import build_optimiser, peak_lr, set_lr
from backdrop.trainer.optimisation.schedules import lr_fraction
from backdrop.trainer.parts import checkpoint_files
from backdrop.trainer.parts.backbones import Backbone
from backdrop.trainer.parts.pretraining_method import PretrainingMethod
from backdrop.trainer.run import checkpoint, distributed, metrics_log, run_folder
from backdrop.trainer.run.checkpoint_writer import CheckpointWriter, checkpoint_writer
from backdrop.trainer.run.crop_fallbacks import FallbackWatch
from backdrop.trainer.run.expected_curve import expected_curve
from backdrop.trainer.run.micro_batches import parts_of
from backdrop.trainer.run.recorder import Recorder, crop_statistics
from backdrop.trainer.run.run_folder import Origin
from backdrop.trainer.run.run_history import run_history
from backdrop.trainer.run.store_of_table import say_departures
from backdrop.trainer.settings import RunSettings, by_path

# A backbone and where it computes, to scores by name; the backbone stays as it was.
Probe = Callable[[Backbone, torch.device], dict[str, float]]


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
    method: PretrainingMethod
    optimiser: torch.optim.Optimizer
    steps_per_epoch: int
    device: torch.device
    # Of all processes of the training, which one this is.
    ranks: Ranks
    # The method's training step, over all processes.
    forward: Callable[[Views], dict[str, Tensor]]
    # Keeps gradients within fp16's range; off for every other format.
    scaler: torch.amp.GradScaler
    # Steps done.
    step: int = 0

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.settings.epochs


def start(
    settings: RunSettings,
    *,
    steps_per_epoch: int,
    device: torch.device,
    ranks: Ranks | None = None,
    backbone_weights: Mapping[str, Tensor] | None = None,
) -> Training:
    """Build a run's networks and optimiser at step 0; the weights follow from the seed, and from those given.

    Convolutions run in settings.precision; heads and losses stay in float32.

    Args: ranks: this process among those of the training, None = it is alone. backbone_weights: of the backbone, by its
        names, None = drawn.
    """
    module, ranks = METHODS.load(settings.method), ranks or Ranks(device=str(device))
    dtype = _autocast_dtype(settings.precision, device)
    # The one generator of torch that layers draw from is seeded for this block and left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(settings.seed)
        backbone = build_backbone(settings.backbone, cifar_stem=settings.cifar_stem)
        backbone.autocast_dtype = dtype
        if backbone_weights:
            backbone.load_state_dict(backbone_weights)  # before the method copies it
        method = module.Method(backbone, settings.algorithm, seed=settings.seed, cast=cast.in_use(settings.cast))
    if not isinstance(method, PretrainingMethod):
        raise UserError(
            f"the Method of {settings.method!r} is a {type(method).__name__}: derive it from PretrainingMethod, or "
            "from QueryKeyMethod where it compares a query with a key (backdrop.trainer.parts.pretraining_method)"
        )
    if backbone_weights:
        # What a method does to an untrained backbone (zeros in the last BatchNorms of blocks) is undone.
        method.backbone.load_state_dict(backbone_weights)
    distributed.synchronise(method, settings, ranks)
    # Channels last is what convolutions are fastest with, on a CPU (1.4 times at 64 px) as on a GPU.
    method.to(device=device).to(memory_format=torch.channels_last)
    if settings.is_compiled:
        _compile_backbones(method)
    optimiser = build_optimiser(method.parameter_groups(), settings.optimiser)
    forward = distributed.wrapped_step(method.train(), ranks)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    return Training(settings, method, optimiser, steps_per_epoch, device, ranks, forward, scaler)


def _autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    automatic = torch.bfloat16 if device.type == "cuda" else None
    return {"auto": automatic, "fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _compile_backbones(method: torch.nn.Module) -> None:
    """Compile the layers of every backbone in place; heads, queues and losses have too little to gain."""
    for module in method.modules():
        if isinstance(module, Backbone):
            module.compile_layers()


def take_step(training: Training, views: Views) -> tuple[dict[str, Tensor], float]:
    """Do one optimiser step.

    Returns: the step's losses over this process's images, still on the device, and its learning rate.
    """
    settings, optimiser, scaler = training.settings, training.optimiser, training.scaler
    fraction = lr_fraction(settings.schedule, training.step, training.steps_per_epoch, settings.epochs)
    peak = peak_lr(settings.optimiser, settings.batch_size)
    set_lr(optimiser, peak, fraction)
    optimiser.zero_grad(set_to_none=True)
    losses = _add_gradients(training, views)
    if settings.optimiser.clip_norm:
        scaler.unscale_(optimiser)
        parameters = [parameter for _, parameter in training.method.optimised_parameters()]
        torch.nn.utils.clip_grad_norm_(parameters, settings.optimiser.clip_norm)
    scaler.step(optimiser)
    scaler.update()
    training.method.after_step(training.step, training.num_steps)
    training.step += 1
    return losses, fraction * peak


def _add_gradients(training: Training, views: Views) -> dict[str, Tensor]:
    """Fill the gradients, part by part of the batch; return the losses, averaged over the parts."""
    num_parts = training.settings.accumulation_steps
    total: dict[str, Tensor] = {}
    for number, part in enumerate(parts_of(views, num_parts), 1):
        is_last = number == num_parts
        with nullcontext() if is_last else distributed.without_averaging(training.forward):
            losses = training.forward(part)
            training.scaler.scale(losses["loss"] / num_parts).backward()
        shares = {name: value.detach() / num_parts for name, value in losses.items()}
        total = {name: total[name] + share for name, share in shares.items()} if total else shares
    return total


def train(
    settings: RunSettings,
    loader: BatchSource,
    out: Path,
    *,
    origin: Origin,
    resume: bool,
    ranks: Ranks,
    probe: Probe | None = None,
) -> dict[str, Any] | None:
    """Train from the run's latest checkpoint, or from the start, to the end, or until a scheduler asks to stop.

    Args: loader: batches of settings.plan, this process's share. out: the run's folder. origin: for the records.
        ranks: this process among those of the training, and its device. probe: scores the backbone every
        settings.probe.every_epochs epochs, in the first process; what it finds is recorded.
    Returns: a summary for the command line; None but in the first process.
    Raises: UserError: the folder cannot take this run; the store is too small; a loss is not finite; another process
        is gone.
    """
    if loader.num_batches < 1:
        raise UserError(
            f"batch_size={settings.batch_size} is more than the store's {loader.num_rows} rows; "
            f"set batch_size to {loader.num_rows} or less"
        )
    with run_history() as history, distributed.clear_loss_of_peers(ranks), distributed.stop_request() as request:
        if origin.store is not None and ranks.is_first:
            say_departures(origin.recipe, settings, origin.store)
        ranks.by_first(
            lambda: run_folder.open_folder(out, settings, origin=origin, store_id=loader.store_id, resume=resume),
        )
        last = checkpoint_files.latest(out)
        step, num_steps = 0 if last is None else checkpoint_files.step_of(last), loader.num_batches * settings.epochs
        distributed.check_same(ranks, step, "the step of the latest checkpoint")
        if last is not None and step >= num_steps:
            return _finished(out, settings, checkpoint.load_backbone(out), num_steps, "already finished", ranks)
        begins_with = origin.start_weights if last is None else None
        training = _begun(settings, loader.num_batches, last, origin, ranks)
        ranks.by_first(lambda: metrics_log.drop_metrics_from(out, training.step))
        history.start(out if ranks.is_first else None, num_processes=ranks.size, first_step=training.step)
        with _records(training, out) as records:
            if training.ranks.is_first:
                if begins_with:
                    note(begins_with.said)
                note(f"what to expect: {expected_curve(settings)}")
            _run(training, loader, out, records, request, probe)
        state = "finished" if training.step == num_steps else STOPPED
        history.end(state, training.step)
    return _finished(out, settings, training.method.backbone, training.step, state, ranks)


def _begun(settings: RunSettings, steps_per_epoch: int, last: Path | None, origin: Origin, ranks: Ranks) -> Training:
    """Build the run as it was at its latest checkpoint. Args: last: that checkpoint, None = from the start."""
    weights = origin.start_weights.tensors if origin.start_weights and last is None else None
    device = torch.device(ranks.device)
    training = start(settings, steps_per_epoch=steps_per_epoch, device=device, ranks=ranks, backbone_weights=weights)
    if last is not None:
        training.step = checkpoint.load(
            last,
            training.method,
            training.optimiser,
            scaler=training.scaler,
            processes_may_change=settings.processes_may_change,
        )
    return training


STOPPED = "stopped on request; the same command goes on"


def _finished(
    out: Path, settings: RunSettings, backbone: Backbone, num_steps: int, state: str, ranks: Ranks
) -> dict[str, Any] | None:
    """Write the backbone of a run that came to its end, and sum up; both in the first process only."""
    if not ranks.is_first:
        return None
    if state != STOPPED:
        _export_backbone(out, backbone, settings)
    return _summary(out, num_steps, state)


def _export_backbone(out: Path, backbone: Backbone, settings: RunSettings) -> None:
    own = checkpoint.load_classifier(out)
    checkpoint.save_backbone(
        out, backbone, name=settings.backbone, cifar_stem=settings.cifar_stem, own=own, epochs=settings.epochs
    )


@dataclass(frozen=True, kw_only=True)
class _Records:
    """Where a run's steps are told of: the bar, the log, the checkpoints."""

    bar: tqdm
    log: Recorder
    checkpoints: CheckpointWriter


@contextmanager
def _records(training: Training, out: Path) -> Iterator[_Records]:
    """Open them; at the end, however it comes, the log is closed and the latest checkpoint on disk."""
    settings = training.settings
    is_first = training.ranks.is_first
    with stage_bar(
        total=training.num_steps,
        initial=training.step,
        stage=f"pretrain {settings.method}",
        unit="step",
        shown_after_s=0.0 if is_first else None,
    ) as bar:
        recorder = Recorder(
            out if is_first else None,
            log_steps=settings.log_steps,
            batch_size=settings.batch_size,
            bar=bar,
            loggers=open_loggers(settings.log, out, by_path(settings), training.step) if is_first else (),
        )
        try:
            with checkpoint_writer() as writer:
                yield _Records(bar=bar, log=recorder, checkpoints=writer)
        finally:
            recorder.close()


def _run(
    training: Training,
    loader: BatchSource,
    out: Path,
    records: _Records,
    request: distributed.StopRequest,
    probe: Probe | None,
) -> None:
    """Step until the end, or until every process knows that one was asked to stop."""
    settings = training.settings
    stage = DeviceStage(settings.plan, device=training.device, form=settings.device_form, channels_last=True)
    fallbacks = FallbackWatch(training.settings.plan)
    while training.step < training.num_steps:
        epoch, first_batch = divmod(training.step, training.steps_per_epoch)
        wait_from = time.perf_counter()
        for batch in loader.epoch(epoch, first_batch=first_batch):
            waited_s = time.perf_counter() - wait_from
            record = {"step": training.step, "epoch": epoch, "waited_s": round(waited_s, 5)}
            request.ask(training.ranks)
            losses, lr = take_step(training, stage(batch))
            scores = _scores_when_due(training, records.log, probe)
            records.log.add(record | {"lr": lr} | crop_statistics(batch) | scores, losses)
            _warn(fallbacks.add(batch.records), training.ranks)
            for message in batch.skipped:
                warn(message)  # of whichever process: each has rows of its own
            is_stopping = request.is_agreed(training.ranks)
            records.checkpoints.check()
            _save_when_due(training, out, records, is_stopping)
            records.bar.update()
            if is_stopping:
                return
            wait_from = time.perf_counter()
        assert training.step == (epoch + 1) * training.steps_per_epoch, "the loader gave another number of batches"
    _warn(fallbacks.warning(), training.ranks)


def _warn(message: str | None, ranks: Ranks) -> None:
    if message is not None and ranks.is_first:
        warn(message)


def _scores_when_due(training: Training, recorder: Recorder, probe: Probe | None) -> dict[str, float]:
    """Score the backbone where an epoch ends that is to be scored, in the first process while the others wait."""
    epoch, step_of_epoch = divmod(training.step, training.steps_per_epoch)
    every = training.settings.probe.every_epochs
    if probe is None or not every or step_of_epoch or epoch % every:
        return {}
    scores: dict[str, float] = {}
    begun = time.perf_counter()
    training.ranks.by_first(lambda: scores.update(probe(training.method.backbone, training.device)))
    recorder.leave_out(time.perf_counter() - begun)
    return scores


def _save_when_due(training: Training, out: Path, records: _Records, is_stopping: bool) -> None:
    is_epoch_end = training.step % training.steps_per_epoch == 0
    if is_stopping or is_epoch_end or training.step % training.settings.checkpoint_steps == 0:
        # First the numbers: a loss that is not finite stops the run before its weights are kept.
        records.log.flush()
        records.checkpoints.start(lambda: _snapshot(training, out))


def _snapshot(training: Training, out: Path) -> checkpoint.Snapshot | None:
    settings = training.settings
    return checkpoint.snapshot(
        out,
        training.method,
        training.optimiser,
        step=training.step,
        keep=settings.keep_checkpoints,
        keep_every_steps=settings.keep_every_epochs * training.steps_per_epoch,
        scaler=training.scaler if training.scaler.is_enabled() else None,
    )


def _summary(out: Path, num_steps: int, state: str) -> dict[str, Any]:
    last = metrics_log.last_metrics(out)
    return {
        "run": str(out),
        "state": state,
        "steps": num_steps,
        "loss": last and last["loss"],
        "images_per_s": last and last["images_per_s"],
        "backbone": str(out / checkpoint.BACKBONE_FILE),
    }
