"""The names that self-supervised weights were published under, and whose network's own names stand behind them.

One table for everything that reads a file: detectors on features, `saliency train --backbone-weights`, `pretrain
--start-weights`, `evaluate --weights`.

| files of                                              | entry        | before the names                        |
|-------------------------------------------------------|--------------|-----------------------------------------|
| DINO, DINOv2 (registers too), timm, torchvision       | -            | -                                       |
| Barlow Twins, VICReg (backbone)                       | -            | -                                       |
| MAE                                                   | `model`      | -                                       |
| MoCo-v3                                               | `state_dict` | `module.base_encoder.`                  |
| MoCo-v2, SimSiam after it, CAST                       | `state_dict` | `module.encoder_q.`, `module.encoder.`  |
| SwAV, DeepCluster-v2                                  | -            | `module.`                               |
| BYOL (PyTorch, yaox12)                                | -            | `module.online_network.encoder.`        |
| Barlow Twins, VICReg (full), DINO's teacher           | `model`, ... | `module.backbone.`, `backbone.`         |
| solo-learn, lightly                                   | `state_dict` | `backbone.`, lightly's ViT `backbone.vit.` |

Behind them ResNets have torchvision's names, in lightly's examples numbers in place of the layers; ViTs have DINO's,
which timm shares.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from backdrop.tensor_files import named_below

# The first that fits counts: of an encoder and its momentum encoder the one that gradients train, as published scores.
PREFIXES = (
    "module.base_encoder.", "module.encoder_q.", "module.online_network.encoder.", "module.backbone.",
    "module.encoder.", "module.", "encoder_q.", "online_network.encoder.", "backbone.vit.", "backbone.", "encoder.", "",
)  # fmt: skip
# Layers of a ResNet, with their places in a Sequential of its children, as lightly's examples build their backbone.
RESNET_LAYERS = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
PATCHES, FIRST_BLOCK = "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"
# What files hold beside a ViT's encoder: projectors, classifiers, a decoder, what masked patches are replaced by.
_NOT_ENCODER = ("head.", "fc.", "decoder_", "mask_token", "fc_norm.", "head_norm.", "norm_pre.")


@dataclass(frozen=True, kw_only=True)
class NamedWeights:
    """A network's weights as they lay in a file.

    tensors: by the network's own names. beside: what lay behind the same prefix and is no part of the encoder, such as
    a classifier `fc`, by its name there. prefix: of the file's names. left_out: the file's names that are in neither.
    """

    tensors: dict[str, Tensor]
    beside: dict[str, Tensor]
    prefix: str
    left_out: tuple[str, ...]

    @property
    def not_taken(self) -> tuple[str, ...]:
        """The file's names of all that is not the encoder's."""
        return tuple(sorted([*self.left_out, *(self.prefix + name for name in self.beside)]))


def prefix_of(names: Iterable[str], first: str) -> str | None:
    """Return what stands before a network's names in a file, None = no name of it is there.

    Args: names: the file's. first: a name that the network has, such as conv1.weight.
    """
    there = set(names)
    return next((prefix for prefix in PREFIXES if f"{prefix}{first}" in there), None)


def resnet_weights(tensors: Mapping[str, Tensor]) -> NamedWeights | None:
    """Find a ResNet, of any depth, in a file. Returns: under torchvision's names; None = there is none."""
    prefix = prefix_of(tensors, "conv1.weight")
    layers = {layer: layer for layer in RESNET_LAYERS}
    if prefix is None:
        prefix = prefix_of(tensors, f"{RESNET_LAYERS['layer1']}.0.conv1.weight")
        layers = {place: layer for layer, place in RESNET_LAYERS.items()}
    if prefix is None:
        return None
    own: dict[str, Tensor] = {}
    beside: dict[str, Tensor] = {}
    for name, tensor in named_below(tensors, prefix).items():
        theirs, dot, rest = name.partition(".")
        if theirs in layers:
            own[f"{layers[theirs]}{dot}{rest}"] = tensor
        else:
            beside[name] = tensor
    return NamedWeights(tensors=own, beside=beside, prefix=prefix, left_out=_outside(tensors, prefix))


def vit_weights(tensors: Mapping[str, Tensor]) -> NamedWeights | None:
    """Find a vision transformer in a file. Returns: under DINO's names, or timm's; None = there is none."""
    prefix = prefix_of(tensors, PATCHES)
    if prefix is None or f"{prefix}{FIRST_BLOCK}" not in tensors:
        return None
    below = named_below(tensors, prefix)
    beside = {name: tensor for name, tensor in below.items() if name.startswith(_NOT_ENCODER)}
    own = {name: tensor for name, tensor in below.items() if name not in beside}
    return NamedWeights(tensors=own, beside=beside, prefix=prefix, left_out=_outside(tensors, prefix))


def some_of(names: Iterable[str]) -> str:
    """Return the first names of a file, for a message that says what is there instead."""
    return ", ".join(sorted(names)[:3]) or "none"


def said_of(recognised: str, not_taken: Sequence[str]) -> str:
    """Return what is said of a file that was read. Args: recognised: the network. not_taken: the file's other names."""
    left = f"; {len(not_taken)} other tensors left, such as {not_taken[0]}" if not_taken else ""
    return recognised + left


def _outside(tensors: Mapping[str, Tensor], prefix: str) -> tuple[str, ...]:
    return tuple(sorted(name for name in tensors if not name.startswith(prefix)))
