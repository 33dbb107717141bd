"""What a killed run needs to go on as if nothing had happened: weights, queues, momenta and the step, no pickle.

One `.safetensors` file per checkpoint, its position as JSON in the file's metadata. No random state is kept: every draw
is a function of (seed, epoch, row, view), so the position is enough; the learning rate follows from the step. Where
several processes train, the file holds what one process would have, and the first process's running statistics of
BatchNorms that are not synchronised (nothing in training reads them).
"""

import json
import re
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save as serialised
from torch import nn

from backdrop.durable_files import write_aside
from backdrop.errors import UserError
from backdrop.trainer.parts.backbones import Backbone, build_backbone
from backdrop.trainer.parts.collectives import num_processes, rank, summed
from backdrop.trainer.parts.key_queue import load_whole_state, whole_state
from backdrop.trainer.run import run_folder

_NAME = re.compile(r"step-(\d{8})\.safetensors")
_BACKBONE = "backbone."
BACKBONE_FILE = "backbone.safetensors"


def save(
    folder: Path,
    method: nn.Module,
    optimiser: torch.optim.Optimizer,
    *,
    step: int,
    keep: int,
    keep_every_steps: int = 0,
    scaler: torch.amp.GradScaler | None = None,
) -> Path:
    """Write the checkpoint of a step and delete all but the latest; every process of a training calls it.

    Args: folder: the run's folder. step: steps done. keep: checkpoints that stay, this one included.
        keep_every_steps: checkpoints of multiples of it stay as well; 0 = none. scaler: of an fp16 run.
    Returns: the file. Raises: UserError, in every process: a value is not finite; nothing is written or deleted.
    """
    path = folder / "checkpoints" / f"step-{step:08d}.safetensors"
    tensors = {f"method.{name}": tensor for name, tensor in whole_state(method).items()}
    tensors |= {f"momentum.{name}": tensor for name, tensor in _momenta(method, optimiser).items()}
    _check_finite(tensors, step)
    if rank() != 0:
        return path
    state: dict[str, Any] = {"step": step, "method_class": type(method).__module__, "processes": num_processes()}
    if scaler is not None:
        state["scaler"] = scaler.state_dict()
    _write(path, tensors, {"state": json.dumps(state)})
    for old in _files(folder)[:-keep]:
        if not keep_every_steps or step_of(old) % keep_every_steps:
            old.unlink()
    return path


def latest(folder: Path) -> Path | None:
    """Return the run's latest checkpoint, None before the first."""
    files = _files(folder)
    return files[-1] if files else None


def step_of(path: Path) -> int:
    """Return how many steps were done when a checkpoint was written."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def load(
    path: Path,
    method: nn.Module,
    optimiser: torch.optim.Optimizer,
    *,
    scaler: torch.amp.GradScaler | None = None,
    processes_may_change: bool = False,
) -> int:
    """Put a checkpoint's values into a method, its optimiser and an fp16 run's scaler.

    Returns: steps done. Raises: UserError: the file is damaged, is another method's, or was written by another number
    of processes and that was not allowed.
    """
    tensors, metadata = _read(path)
    parts: dict[str, dict[str, torch.Tensor]] = {"method": {}, "momentum": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    state = _state(path, metadata)
    if not processes_may_change:
        _check_processes(path, state.get("processes", 1))
    try:
        load_whole_state(method, parts["method"])
    except RuntimeError as error:
        raise UserError(f"checkpoint {path} does not fit this run's settings: {error}") from error
    weights = dict(method.named_parameters())
    for name, momentum in parts["momentum"].items():
        buffer = torch.empty_like(weights[name]).copy_(momentum)
        optimiser.state[weights[name]]["momentum_buffer"] = buffer
    if scaler is not None and "scaler" in state:
        scaler.load_state_dict(state["scaler"])
    return int(state["step"])


def save_backbone(folder: Path, backbone: Backbone, *, name: str, cifar_stem: bool) -> Path:
    """Write the trained backbone alone, for `load_backbone` and, under torchvision's names, for anyone else."""
    path = folder / BACKBONE_FILE
    _write(path, backbone.state_dict(), {"backbone": name, "cifar_stem": json.dumps(cifar_stem)})
    return path


def load_backbone(run_or_weights: Path) -> Backbone:
    """Return a trained backbone in evaluation mode, on the CPU.

    Args: run_or_weights: a run's folder (its latest checkpoint is taken) or a file written by `save_backbone`.
    Raises: UserError: nothing of the kind is there, or it is damaged.
    """
    path = Path(run_or_weights)
    if not path.exists():
        raise UserError(f"there is nothing at {path}; give the folder of a run of pretrain, or a .safetensors file")
    if path.is_file():
        tensors, metadata = _read(path)
        if "backbone" not in metadata:
            raise UserError(f"{path} does not say which backbone it holds; give a run's {BACKBONE_FILE} or its folder")
        name, cifar_stem = metadata["backbone"], json.loads(metadata["cifar_stem"])
    else:
        settings = run_folder.read_settings(path)
        checkpoint = latest(path)
        if checkpoint is None:
            raise UserError(f"run {path} has no checkpoint yet; train it first, or go on with pretrain --resume")
        state, _ = _read(checkpoint)
        prefix = f"method.{_BACKBONE}"
        tensors = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        name, cifar_stem = settings.backbone, settings.cifar_stem
    return _filled_backbone(path, name, cifar_stem, tensors)


def _filled_backbone(path: Path, name: str, cifar_stem: bool, tensors: dict[str, torch.Tensor]) -> Backbone:
    with torch.random.fork_rng():
        backbone = build_backbone(name, cifar_stem=cifar_stem)
    try:
        backbone.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"the weights at {path} are no {name}: {error}") from error
    return backbone.eval()


def _state(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    if "state" not in metadata:
        raise UserError(f"{path} is no checkpoint of a run: it does not say at which step it was written")
    return json.loads(metadata["state"])


def _check_processes(path: Path, before: int) -> None:
    if before != num_processes():
        raise UserError(
            f"{path} was written by {before} processes, now there are {num_processes()}. Start {before} of them "
            f"(torchrun --nproc-per-node), or add --set processes_may_change=true: every step keeps its images, queues "
            "are dealt anew; sums are rounded otherwise, and images are normalised in other groups where those follow "
            "the processes (algorithm.shuffle_bn_group, heads with CAST; cast.variant=released: its one cosine)"
        )


def _check_finite(tensors: dict[str, torch.Tensor], step: int) -> None:
    """A step can break the weights while its own loss, taken before, is finite."""
    is_broken_N = torch.stack([~tensor.isfinite().all() for tensor in tensors.values()])
    if summed(is_broken_N.float()).any():
        broken = [name for name, is_broken in zip(tensors, is_broken_N.tolist(), strict=True) if is_broken]
        raise UserError(
            f"after step {step} the run has diverged: {broken[0] if broken else 'another process'} is not finite; "
            "start anew in another --out with a lower optimiser.lr or a longer schedule.warmup_epochs. (No checkpoint "
            "was written of that step; the one before is kept)"
        )


def _momenta(method: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimiser's buffers by their parameter's name."""
    return {
        name: optimiser.state[parameter]["momentum_buffer"]
        for name, parameter in method.named_parameters()
        if optimiser.state.get(parameter, {}).get("momentum_buffer") is not None
    }


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "checkpoints").glob("step-*.safetensors") if _NAME.fullmatch(path.name))


def _write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a checkpoint; it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Through memory, not with `save_file`: a full disk is then an OSError like any other, which says so to the user.
    write_aside(
        path, serialised({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    )


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is no readable safetensors file ({error}); delete it to go on from the checkpoint before"
        ) from error
