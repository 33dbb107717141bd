"""What a killed run needs to go on as if nothing had happened: weights, queues, momenta and the step, no pickle.

One `.safetensors` file per checkpoint, its position as JSON in the file's metadata. No random state is kept: every draw
is a function of (seed, epoch, row, view), so the position is enough; the learning rate follows from the step. Where
several processes train, the file holds what one process would have, and the first process's running statistics of
BatchNorms that are not synchronised (nothing in training reads them).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn

from backdrop.errors import UserError
from backdrop.tensor_files import named_below, read_tensors, readable, what_does_not_fit, write_tensors
from backdrop.trainer.backbones import build_backbone
from backdrop.trainer.methods import METHODS
from backdrop.trainer.parts.backbones import Backbone
from backdrop.trainer.parts.checkpoint_files import checkpoint_path, checkpoints, latest, step_of
from backdrop.trainer.parts.collectives import num_processes, rank, summed
from backdrop.trainer.parts.key_queue import load_whole_state, whole_state
from backdrop.trainer.parts.momenta import momenta, restore_momenta
from backdrop.trainer.run import run_folder

_BACKBONE = "backbone."
# Names of a classifier beside a backbone's, torchvision's.
CLASSIFIER = "fc."
# Of what torch says of layers that do not fit, which is all of them.
_MOST_CHARACTERS = 400
_GO_ON = "delete it to go on from the checkpoint before"
BACKBONE_FILE = "backbone.safetensors"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a checkpoint will hold, as it was when it was taken: training may go on while it is written.

    folder: the run's. step: steps done. tensors: copies on the CPU. state: the header's JSON. keep, keep_every_steps:
    see `snapshot`.
    """

    folder: Path
    step: int
    tensors: dict[str, torch.Tensor]
    state: str
    keep: int
    keep_every_steps: int

    def write(self) -> None:
        """Write the checkpoint, then delete those that do not stay. Raises: OSError: the disk refuses."""
        write_tensors(checkpoint_path(self.folder, self.step), self.tensors, {"state": self.state})
        for old in checkpoints(self.folder)[: -self.keep]:
            if not self.keep_every_steps or step_of(old) % self.keep_every_steps:
                old.unlink()


def save(folder: Path, method: nn.Module, optimiser: torch.optim.Optimizer, *, step: int, keep: int) -> Path:
    """Write the checkpoint of a step and wait for it; every process of a training calls it. Args: see `snapshot`."""
    taken = snapshot(folder, method, optimiser, step=step, keep=keep)
    if taken is not None:
        taken.write()
    return checkpoint_path(folder, step)


def snapshot(
    folder: Path,
    method: nn.Module,
    optimiser: torch.optim.Optimizer,
    *,
    step: int,
    keep: int,
    keep_every_steps: int = 0,
    scaler: torch.amp.GradScaler | None = None,
) -> Snapshot | None:
    """Copy what a checkpoint of a step holds; every process of a training calls it.

    Args: folder: the run's folder. step: steps done. keep: checkpoints that stay, this one included.
        keep_every_steps: checkpoints of multiples of it stay as well; 0 = none. scaler: of an fp16 run.
    Returns: the copy; None but in the first process. Raises: UserError, in every process: a value is not finite.
    """
    tensors = {f"method.{name}": tensor for name, tensor in whole_state(method).items()}
    tensors |= {f"momentum.{name}": tensor for name, tensor in momenta(method, optimiser).items()}
    _check_finite(tensors, step)
    if rank() != 0:
        return None
    state: dict[str, Any] = {"step": step, "method_class": type(method).__module__, "processes": num_processes()}
    if scaler is not None:
        state["scaler"] = scaler.state_dict()
    return Snapshot(
        folder=folder,
        step=step,
        tensors={name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()},
        state=json.dumps(state),
        keep=keep,
        keep_every_steps=keep_every_steps,
    )


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
    tensors, metadata = read_tensors(path, _GO_ON)
    state = _state(path, metadata)
    if not processes_may_change:
        _check_processes(path, state.get("processes", 1))
    try:
        load_whole_state(method, named_below(tensors, "method."))
    except RuntimeError as error:
        why = " ".join(str(error).split())[:_MOST_CHARACTERS]
        raise UserError(f"checkpoint {path} does not fit this run's settings: {why}") from error
    restore_momenta(method, optimiser, named_below(tensors, "momentum."))
    if scaler is not None and "scaler" in state:
        scaler.load_state_dict(state["scaler"])
    return int(state["step"])


@dataclass(frozen=True, kw_only=True)
class OwnClassifier:
    """The classifier that a run trained with its backbone.

    layer: pooled features to logits. dataset: of the store whose classes these are, "" where a run does not say.
    """

    layer: nn.Linear
    dataset: str


def save_backbone(
    folder: Path,
    backbone: Backbone,
    *,
    name: str,
    cifar_stem: bool,
    own: OwnClassifier | None = None,
    epochs: int | None = None,
) -> Path:
    """Write the trained backbone alone, for `load_backbone` and, under torchvision's names, for anyone else.

    Args: own: a classifier trained with it, which is `fc` there. epochs: of the run that came to its end.
    """
    path = folder / BACKBONE_FILE
    tensors, metadata = dict(backbone.state_dict()), {"backbone": name, "cifar_stem": json.dumps(cifar_stem)}
    if own is not None:
        tensors |= {f"{CLASSIFIER}{key}": value for key, value in own.layer.state_dict().items()}
        metadata["classes"] = own.dataset
    if epochs is not None:
        metadata["epochs"] = str(epochs)
    write_tensors(path, tensors, metadata)
    return path


def is_finished(run: Path, epochs: int) -> bool:
    """Return whether a run came to its end: it left a backbone, of so many epochs and not of a shorter run before.

    Args: epochs: of the run's settings, which may have grown since. Raises: UserError: the backbone is damaged.
    """
    path = run / BACKBONE_FILE
    if not path.is_file():
        return False
    with readable(path), safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    return metadata.get("epochs", str(epochs)) == str(epochs)


def load_classifier(run: Path) -> OwnClassifier | None:
    """Return the classifier of a run's latest checkpoint, on the CPU; None where its method trains none.

    Raises: UserError: there is no checkpoint, or it is damaged.
    """
    name = METHODS.load(run_folder.read_settings(run).method).DOWNSTREAM.classifier
    if not name:
        return None
    state, _ = read_tensors(_latest(run), _GO_ON)
    tensors = named_below(state, f"method.{name}.")
    return OwnClassifier(
        layer=linear_of(tensors["weight"], tensors.get("bias")), dataset=run_folder.read_run(run).get("dataset", "")
    )


def linear_of(weight_LD: torch.Tensor, bias_L: torch.Tensor | None) -> nn.Linear:
    """Return a classifier of these weights, in evaluation mode. Args: bias_L: None = 0."""
    layer = nn.Linear(weight_LD.shape[1], weight_LD.shape[0])
    layer.load_state_dict({"weight": weight_LD, "bias": torch.zeros(len(weight_LD)) if bias_L is None else bias_L})
    return layer.eval()


def name_of_backbone(run_or_weights: Path) -> tuple[str, bool]:
    """Return which backbone a run's folder or a file of `save_backbone` holds, and its cifar_stem; "" = others' files.

    Raises: UserError: a folder of no run, or a file that is damaged.
    """
    if run_or_weights.is_dir():
        settings = run_folder.read_settings(run_or_weights)
        return settings.backbone, settings.cifar_stem
    if run_or_weights.suffix != ".safetensors":
        return "", False
    with readable(run_or_weights), safetensors.safe_open(run_or_weights, framework="pt", device="cpu") as file:
        return named(file.metadata() or {})


def named(metadata: dict[str, str]) -> tuple[str, bool]:
    """Return which backbone the header of a file of `save_backbone` names, "" = none, and its cifar_stem."""
    return metadata.get("backbone", ""), metadata.get("cifar_stem") == "true"


def load_backbone(run_or_weights: Path) -> Backbone:
    """Return a trained backbone in evaluation mode, on the CPU.

    Args: run_or_weights: a run's folder (its latest checkpoint is taken) or a file written by `save_backbone`.
    Raises: UserError: nothing of the kind is there, or it is damaged.
    """
    path = Path(run_or_weights)
    if not path.exists():
        raise UserError(f"there is nothing at {path}; give the folder of a run of pretrain, or a .safetensors file")
    if path.is_file():
        tensors, metadata = read_tensors(path, _GO_ON)
        name, cifar_stem = named(metadata)
        if not name:
            raise UserError(f"{path} does not say which backbone it holds; give a run's {BACKBONE_FILE} or its folder")
        tensors = {key: value for key, value in tensors.items() if not key.startswith(CLASSIFIER)}
    else:
        settings = run_folder.read_settings(path)
        state, _ = read_tensors(_latest(path), _GO_ON)
        tensors = named_below(state, f"method.{_BACKBONE}")
        name, cifar_stem = settings.backbone, settings.cifar_stem
    return _filled_backbone(path, name, cifar_stem, tensors)


def _latest(run: Path) -> Path:
    last = latest(run)
    if last is None:
        raise UserError(f"run {run} has no checkpoint yet; train it first, or go on with the same pretrain command")
    return last


def _filled_backbone(path: Path, name: str, cifar_stem: bool, tensors: dict[str, torch.Tensor]) -> Backbone:
    return filled(build_named(path, name, cifar_stem), tensors, path)


def build_named(path: Path, name: str, cifar_stem: bool) -> Backbone:
    """Build the untrained backbone that a file says it is of; nobody else's draws move.

    Args: path: of the file, for messages. Raises: UserError: there is none of that name.
    """
    try:
        with torch.random.fork_rng():
            return build_backbone(name, cifar_stem=cifar_stem)
    except UserError as error:
        raise UserError(f"{path} says of itself that it is of the backbone {name!r}: {error}") from error


def filled(backbone: Backbone, tensors: dict[str, torch.Tensor], path: Path) -> Backbone:
    """Return a backbone with the weights of a file, in evaluation mode. Raises: UserError: they are another's."""
    if said := what_does_not_fit(backbone.state_dict(), tensors):
        raise UserError(f"the weights at {path} are no {backbone.name}: {said}")
    backbone.load_state_dict(tensors)
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
    # Where a value is not finite no sum with it is: one look at each value, at three times the speed of `isfinite`.
    may_be_broken_N = torch.stack([~tensor.sum().isfinite() for tensor in tensors.values()])
    if not summed(may_be_broken_N.float()).any():
        return
    is_broken_N = torch.stack([~tensor.isfinite().all() for tensor in tensors.values()])
    if summed(is_broken_N.float()).any():
        broken = [name for name, is_broken in zip(tensors, is_broken_N.tolist(), strict=True) if is_broken]
        raise UserError(
            f"after step {step} the run has diverged: {broken[0] if broken else 'another process'} is not finite; "
            "start anew in another --out with a lower optimiser.lr or a longer schedule.warmup_epochs. (No checkpoint "
            "was written of that step; the one before is kept)"
        )
