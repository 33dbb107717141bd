"""The network that is scored: a run's, or one of a release's file, and its classifier where it has one."""

from pathlib import Path

import safetensors
from torch import Tensor, nn

from backdrop.errors import UserError
from backdrop.progress import note
from backdrop.saliency.networks.weight_names import said_of
from backdrop.tensor_files import read_published, readable
from backdrop.trainer.parts.backbones import Backbone
from backdrop.trainer.run import checkpoint
from backdrop.trainer.run.published_network import published_network

NUM_CLASSES = 1000
NUM_IN9_CLASSES = 9
# The data set whose classes are the ranks of the 1,000 WordNet ids.
IMAGENET = "imagenet"


def load_network(run_or_weights: Path, *, says: bool = True) -> tuple[Backbone, nn.Linear | None]:
    """Load a backbone, and the classifier of 1,000 classes beside it where the file has one.

    Args: run_or_weights: a run's folder, its backbone.safetensors or linear.safetensors, or a file of a ResNet or a ViT
        under the names of `saliency.networks.weight_names`. says: whether to say what was recognised in a file.
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
            return _probe_of_a_run(tensors, metadata, path)
    else:
        tensors, _ = read_published(path)
    found = published_network(tensors, str(path))
    head = _head(found.beside, found.backbone.num_features)
    if says:
        left = [name for name in found.not_taken if head is None or not name.endswith(("fc.weight", "fc.bias"))]
        note(f"{path.name}: {said_of(found.recognised, left)}")
    return found.backbone, head


def _probe_of_a_run(
    tensors: dict[str, Tensor], metadata: dict[str, str], path: Path
) -> tuple[Backbone, nn.Linear | None]:
    """Build what `evaluate linear` or a supervised run left: any backbone of ours, by its name, and `fc`."""
    untrained = checkpoint.build_named(path, *checkpoint.named(metadata))
    backbone = checkpoint.filled(
        untrained, {name: value for name, value in tensors.items() if not name.startswith(checkpoint.CLASSIFIER)}, path
    )
    head = _head(tensors, backbone.num_features)
    # What `evaluate linear` leaves names no data set: it is left of ImageNet's classes alone.
    return backbone, None if head is None else _of_imagenet(head, metadata.get("classes", IMAGENET))


def _of_imagenet(head: nn.Linear, dataset: str) -> nn.Linear | None:
    return head if dataset == IMAGENET and head.out_features in (NUM_CLASSES, NUM_IN9_CLASSES) else None


def _head(tensors: dict[str, Tensor], num_features: int) -> nn.Linear | None:
    """The classifier, where `fc` is one layer onto the 1,000 classes or ImageNet-9's: MoCo's own is a projection."""
    weight = tensors.get("fc.weight")
    if weight is None or weight.shape[1:] != (num_features,) or len(weight) not in (NUM_CLASSES, NUM_IN9_CLASSES):
        return None
    return checkpoint.linear_of(weight, tensors.get("fc.bias"))
