"""Backbones of files that no run of ours wrote: torchvision's names, and the release files of MoCo, DINO and others.

Only tensors are read: safetensors, or .pt and .pth files with `weights_only=True`, which runs no code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from backdrop.errors import UserError
from backdrop.saliency.networks.weight_names import some_of
from backdrop.tensor_files import what_does_not_fit
from backdrop.trainer.backbones import BACKBONES, Published, build_backbone
from backdrop.trainer.parts.backbones import Backbone


@dataclass(frozen=True, kw_only=True)
class PublishedNetwork:
    """A backbone of a file.

    backbone: in evaluation mode, on the CPU. name, cifar_stem: what `build_backbone` takes for one like it. beside:
    tensors that came with it, such as a classifier `fc`. recognised: for people. not_taken: the file's other names.
    """

    backbone: Backbone
    name: str
    cifar_stem: bool
    beside: dict[str, Tensor]
    recognised: str
    not_taken: tuple[str, ...]


def published_network(tensors: dict[str, Tensor], what: str) -> PublishedNetwork:
    """Build the backbone whose weights these are: the family's that recognises their names.

    Args: tensors: by name. what: whose, for messages.
    Raises: UserError: no family's names, or tensors that do not fit them.
    """
    found = recognised(tensors, what)
    if found is None:
        raise UserError(
            f"{what} holds no weights of a ResNet, of a ViT, nor of another backbone: no name ends in conv1.weight or "
            f"patch_embed.proj.weight (there are, e.g., {some_of(tensors)}). Allowed: the names of torchvision, DINO "
            "and timm, also after a release's prefix"
        )
    with torch.random.fork_rng():
        backbone = build_backbone(found.name, cifar_stem=found.cifar_stem)
    wanted = backbone.state_dict()
    # Some releases leave out how many batches a BatchNorm has seen, which nothing here reads.
    counts = {name: torch.zeros_like(value) for name, value in wanted.items() if name.endswith("num_batches_tracked")}
    own = counts | found.tensors
    layers = {name for name, _ in backbone.named_children()}
    if foreign := sorted(name for name in own.keys() - wanted.keys() if name.split(".")[0] in layers):
        raise UserError(f"the weights in {what} are no {found.name}: it has no {foreign[0]}")
    taken = {name: value for name, value in own.items() if name in wanted}
    if said := what_does_not_fit(wanted, taken):
        raise UserError(f"the weights in {what} are no {found.name}: {said}")
    backbone.load_state_dict(taken)
    return PublishedNetwork(
        backbone=backbone.eval(),
        name=found.name,
        cifar_stem=found.cifar_stem,
        beside={name: value for name, value in own.items() if name not in wanted},
        recognised=found.recognised or found.name,
        not_taken=found.not_taken,
    )


def recognised(tensors: dict[str, Tensor], what: str) -> Published | None:
    """Return what one family of backbones makes of a file's tensors, None where none knows the names.

    Raises: UserError: two do, or one knows them and no such network.
    """
    found = [each for file in map(BACKBONES.load, BACKBONES.names()) if (each := file.published(tensors, what))]
    if len(found) > 1:
        raise UserError(f"{what} could be any of {', '.join(each.name for each in found)}; give a run's folder")
    return found[0] if found else None
