"""Weights from wherever they come: runs of ours, torchvision's names, and the release files of MoCo, SwAV and others.

Only tensors are read: safetensors, or .pt and .pth files with `weights_only=True`, which runs no code.
"""

import json
from pathlib import Path

import safetensors
import torch
from torch import Tensor, nn

from backdrop.errors import UserError
from backdrop.tensor_files import read_published, readable
from backdrop.trainer.backbones import BACKBONES, build_backbone
from backdrop.trainer.parts.backbones import Backbone
from backdrop.trainer.run import checkpoint

NUM_CLASSES = 1000
NUM_IN9_CLASSES = 9
# The data set whose classes are the ranks of the 1,000 WordNet ids.
IMAGENET = "imagenet"


def load_network(run_or_weights: Path) -> tuple[Backbone, nn.Linear | None]:
    """Load a backbone, and the classifier of 1,000 classes beside it where the file has one.

    Args: run_or_weights: a run's folder, its backbone.safetensors or linear.safetensors, or a file of ResNet weights
        under torchvision's names with or without a release file's prefixes.
    Returns: backbone in evaluation mode, on the CPU, and head or None. A supervised run's head is its own, where it
        was trained on ImageNet's classes (`checkpoint.load_classifier` has any).
    Raises: UserError: no such file, a file that holds more than tensors, or names that fit no backbone.
    """
    path = Path(run_or_weights)
    if not path.exists():
        raise UserError(f"there is nothing at {path}; give the folder of a run of pretrain, or a file of weights")
    if path.is_dir():
        own = checkpoint.load_classifier(path)
        return checkpoint.load_backbone(path), None if own is None else _of_imagenet(own.layer, own.dataset)
    if path.suffix == ".safetensors":
        with readable(path), safetensors.safe_open(path, framework="pt", device="cpu") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in names}
        if "backbone" in metadata and not any(name.startswith("fc.") for name in names):
            return checkpoint.load_backbone(path), None
        if "backbone" in metadata:
            return _probe_of_a_run(tensors, metadata, str(path))
    else:
        tensors, _ = read_published(path)
    return network_of(tensors, str(path))


def _probe_of_a_run(
    tensors: dict[str, Tensor], metadata: dict[str, str], what: str
) -> tuple[Backbone, nn.Linear | None]:
    """Build what `evaluate linear` or a supervised run left: any backbone of ours, by its name, and `fc`."""
    with torch.random.fork_rng():
        backbone = build_backbone(metadata["backbone"], cifar_stem=json.loads(metadata.get("cifar_stem", "false")))
    try:
        backbone.load_state_dict({name: value for name, value in tensors.items() if not name.startswith("fc.")})
    except RuntimeError as error:
        raise UserError(f"the weights in {what} are no {metadata['backbone']}: {error}") from error
    head = _head(tensors, backbone.num_features)
    # What `evaluate linear` leaves names no data set: it is left of ImageNet's classes alone.
    return backbone.eval(), None if head is None else _of_imagenet(head, metadata.get("classes", IMAGENET))


def _of_imagenet(head: nn.Linear, dataset: str) -> nn.Linear | None:
    return head if dataset == IMAGENET and head.out_features in (NUM_CLASSES, NUM_IN9_CLASSES) else None


def network_of(tensors: dict[str, Tensor], what: str) -> tuple[Backbone, nn.Linear | None]:
    """Build the backbone whose weights these are: the family's that recognises their names.

    Args: tensors: by name. what: whose, for messages.
    Raises: UserError: no family's names, or tensors that do not fit them.
    """
    found = [each for file in map(BACKBONES.load, BACKBONES.names()) if (each := file.published(tensors, what))]
    if len(found) != 1:
        raise UserError(
            f"{what} holds no weights of a ResNet, nor of another backbone: no name ends in conv1.weight (there are, "
            f"e.g., {', '.join(sorted(tensors)[:3])}). Allowed: torchvision's names, also after a release's prefix"
            if not found
            else f"{what} could be any of {', '.join(each.name for each in found)}; give a run's folder"
        )
    with torch.random.fork_rng():
        backbone = build_backbone(found[0].name, cifar_stem=found[0].cifar_stem)
    own, wanted = found[0].tensors, set(backbone.state_dict())
    layers = {name for name, _ in backbone.named_children()}
    if foreign := sorted(name for name in set(own) - wanted if name.split(".")[0] in layers):
        raise UserError(f"the weights in {what} are no {found[0].name}: it has no {foreign[0]}")
    try:
        backbone.load_state_dict({name: value for name, value in own.items() if name in wanted})
    except RuntimeError as error:
        raise UserError(f"the weights in {what} do not fit: {error}") from error
    return backbone.eval(), _head(own, backbone.num_features)


def _head(tensors: dict[str, Tensor], num_features: int) -> nn.Linear | None:
    """The classifier, where `fc` is one layer onto the 1,000 classes or ImageNet-9's: MoCo's own is a projection."""
    weight = tensors.get("fc.weight")
    if weight is None or weight.shape[1:] != (num_features,) or len(weight) not in (NUM_CLASSES, NUM_IN9_CLASSES):
        return None
    return checkpoint.linear_of(weight, tensors.get("fc.bias"))
