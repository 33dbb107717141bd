"""What `pretrain --start-weights` begins with: a backbone of another run, or one that was published."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backdrop.errors import UserError
from backdrop.saliency.networks.weight_names import prefix_of, said_of, some_of
from backdrop.tensor_files import named_below, read_published, weights_sha256
from backdrop.trainer.backbones import build_backbone
from backdrop.trainer.parts import checkpoint_files
from backdrop.trainer.run import checkpoint, run_folder
from backdrop.trainer.run.published_network import published_network, recognised
from backdrop.trainer.run.run_folder import StartWeights
from backdrop.trainer.settings import RunSettings


def start_weights(given: Path | None, settings: RunSettings, out: Path) -> StartWeights | None:
    """Read the weights that a run starts from; those of a run that has a checkpoint are not read again.

    Args: given: a run's folder or a file, None = none was named. settings: of the run. out: its folder, perhaps of one
        to go on with.
    Returns: None = it starts from random ones, or goes on from its checkpoint.
    Raises: UserError: they are not there, do not fit the run's backbone, or are others than the run began with.
    """
    if given is not None and getattr(settings.algorithm, "start_from", None):
        raise UserError(
            f"algorithm.start_from={settings.algorithm.start_from} already says what the run begins with; leave out "
            "that or --start-weights"
        )
    before = _recorded(out)
    if before is not None and given is not None and str(given.absolute()) != before["file"]:
        raise UserError(
            f"the run in {out} {_began(before)}; give the same to go on with it, or name another --out than for {given}"
        )
    if checkpoint_files.latest(out) is not None:
        return None
    path = given or (Path(before["file"]) if before and before["file"] else None)
    if path is None:
        return None
    found = _read(path, settings)
    if before is not None and found.record["sha256"] != before["sha256"]:
        raise UserError(f"{path} holds other weights than the run in {out} began with; name another --out")
    return found


def _recorded(out: Path) -> dict[str, Any] | None:
    """What the run in a folder began with; None = there is none yet."""
    if not (out / "settings.json").exists():
        return None
    return run_folder.read_run(out).get("start_weights") or {"file": "", "sha256": ""}


def _began(record: dict[str, Any]) -> str:
    return f"began with {record['file']}" if record["file"] else "began with random weights"


def _read(path: Path, settings: RunSettings) -> StartWeights:
    """The weights of a run's folder or of a file, which must be of the run's backbone."""
    if not path.exists():
        raise UserError(f"there is nothing at {path}; give --start-weights a file of weights, or a run's folder")
    not_taken: tuple[str, ...] = ()
    name, cifar_stem = checkpoint.name_of_backbone(path)
    if name:
        own, kind = checkpoint.load_backbone(path).state_dict(), f"{name} of a run"
    else:
        tensors, _ = read_published(path)
        if recognised(tensors, str(path)) is None:
            return _by_own_names(path, tensors, settings)
        found = published_network(tensors, str(path))
        name, cifar_stem, kind, not_taken = found.name, found.cifar_stem, found.recognised, found.not_taken
        own = found.backbone.state_dict()
    if (name, cifar_stem) != (settings.backbone, settings.cifar_stem):
        stem = f" --set cifar_stem={str(cifar_stem).lower()}" if cifar_stem != settings.cifar_stem else ""
        raise UserError(
            f"{path} holds a {name}, the run's backbone is {settings.backbone}: add --backbone {name}{stem}, or give "
            f"weights of a {settings.backbone}"
        )
    return _noted(path, own, kind, not_taken)


def _by_own_names(path: Path, tensors: dict[str, Tensor], settings: RunSettings) -> StartWeights:
    """Weights that no family recognises but that have the names of the run's backbone, as timm's networks do."""
    with torch.random.fork_rng():
        wanted = build_backbone(settings.backbone, cifar_stem=settings.cifar_stem).state_dict()
    prefix = prefix_of(tensors, next(iter(wanted))) or ""
    below = named_below(tensors, prefix)
    missing = [name for name in wanted if name not in below]
    other = [name for name in wanted if name in below and below[name].shape != wanted[name].shape]
    if missing or other:
        why = f"there is no {missing[0]}" if missing else f"{other[0]} is {tuple(below[other[0]].shape)}"
        raise UserError(
            f"{path} holds no weights of a {settings.backbone}, the run's backbone: {why} (there are, e.g., "
            f"{some_of(tensors)}). Allowed: the names of torchvision, DINO and timm, also after a release's prefix"
        )
    own = {name: below[name].to(value.dtype) for name, value in wanted.items()}
    not_taken = tuple(sorted(name for name in tensors if name.removeprefix(prefix) not in wanted))
    return _noted(path, own, settings.backbone, not_taken)


def _noted(path: Path, own: dict[str, Tensor], kind: str, not_taken: tuple[str, ...]) -> StartWeights:
    record = {
        "file": str(path.absolute()),
        "sha256": weights_sha256(own),
        "recognised": kind,
        "num_left": len(not_taken),
    }
    return StartWeights(tensors=own, record=record, said=f"{path.name}: {said_of(kind, not_taken)}")
