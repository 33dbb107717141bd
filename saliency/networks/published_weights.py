"""Self-supervised weights as they were published: one table of what stands before a network's names, and their ViTs
and ResNets.

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

Shapes: D width, M rows and columns of the positional embedding's grid.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from backdrop.errors import UserError
from backdrop.saliency.networks.resnet import DilatedResNet50
from backdrop.saliency.networks.vit import PositionRule, VisionTransformer, VitShape
from backdrop.tensor_files import named_below, read_published, weights_sha256

# The first that fits counts: of an encoder and its momentum encoder the one that gradients train, as published scores.
PREFIXES = (
    "module.base_encoder.", "module.encoder_q.", "module.online_network.encoder.", "module.backbone.",
    "module.encoder.", "module.", "encoder_q.", "online_network.encoder.", "backbone.vit.", "backbone.", "encoder.", "",
)  # fmt: skip
_FIRST, _FIRST_BLOCK = "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"
# What release files hold beside the encoder: projectors, classifiers, a decoder, what masked patches are replaced by.
_NOT_ENCODER = ("head.", "fc.", "decoder_", "mask_token", "fc_norm.", "head_norm.", "norm_pre.")
# Layers by their places in a Sequential of a ResNet's children, as lightly's examples build their backbone.
_NUMBERED_LAYERS = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
MOCO_V3_SMALL_HEADS = 12
HEAD_WIDTH = 64


@dataclass(frozen=True, kw_only=True)
class PublishedVit:
    """A ViT of a file, and what was made of the file.

    network: in evaluation mode, on the CPU. recognised: for people. left_out: names in the file that were not taken.
    """

    network: VisionTransformer
    recognised: str
    left_out: tuple[str, ...]
    weights_sha256: str


def prefix_of(names: Iterable[str], first: str) -> str | None:
    """Return what stands before a network's names in a file, None = no name of it is there.

    Args: names: the file's. first: a name that the network has, such as conv1.weight.
    """
    there = set(names)
    return next((prefix for prefix in PREFIXES if f"{prefix}{first}" in there), None)


def load_vit(path: Path) -> PublishedVit:
    """Read a ViT of DINO, DINOv2, MoCo-v3, MAE or timm from the file that was published.

    Args: path: safetensors, or .pt, .pth and .pth.tar, of which tensors alone are read.
    Raises: UserError: no such file, it holds more than tensors, or no such network; what does not fit is named.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}: give one of published weights, such as dino_deitsmall8_pretrain.pth")
    tensors, container = read_published(path)
    return vit_of(tensors, container, str(path))


def load_resnet50(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Read a ResNet-50 of MoCo-v2 or v3, SwAV, DINO, Barlow Twins, VICReg, SimSiam, BYOL, solo-learn or lightly.

    Args: path: as `load_vit` takes it.
    Returns: its 318 tensors under torchvision's names, without `fc`; names in the file that were not taken.
    Raises: UserError: there is no such file, it holds more than tensors, or no ResNet-50; what does not fit is named.
    """
    if not path.is_file():
        raise UserError(
            f"there is no file {path}: give one of published weights, such as moco_v2_800ep_pretrain.pth.tar"
        )
    tensors, _ = read_published(path)
    prefix = prefix_of(tensors, "conv1.weight")
    if prefix is None:
        numbered = prefix_of(tensors, f"{_NUMBERED_LAYERS['layer1']}.0.conv1.weight")
        prefix, layers = numbered, _NUMBERED_LAYERS
    else:
        layers = {layer: layer for layer in _NUMBERED_LAYERS}
    if prefix is None:
        raise UserError(
            f"{path} holds no weights of a ResNet: no name ends in conv1.weight (there are, e.g., "
            f"{', '.join(sorted(tensors)[:3])}). Allowed: torchvision's names, also after a release's prefix"
        )
    own = {
        f"{layer}.{rest}": tensor
        for layer, theirs in layers.items()
        for rest, tensor in named_below(tensors, f"{prefix}{theirs}.").items()
    }
    taken = {f"{prefix}{theirs}." for theirs in layers.values()}
    return _whole_resnet50(own, str(path)), tuple(sorted(name for name in tensors if not name.startswith(tuple(taken))))


def _whole_resnet50(own: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    """Check that all is there; counts of batches, which some files leave out, are 0 then."""
    with torch.device("meta"):
        wanted = DilatedResNet50().state_dict()
    counts = {name: torch.zeros((), dtype=torch.long) for name in wanted if name.endswith("num_batches_tracked")}
    whole = {**counts, **own}
    missing, foreign = sorted(wanted.keys() - whole.keys()), sorted(whole.keys() - wanted.keys())
    other = [name for name in sorted(wanted.keys() & whole.keys()) if wanted[name].shape != whole[name].shape]
    said = [f"it lacks {missing[0]}"] if missing else []
    said += [f"{foreign[0]} is no part of one"] if foreign else []
    said += [f"{other[0]} is {tuple(whole[other[0]].shape)}, not {tuple(wanted[other[0]].shape)}"] if other else []
    if said:
        raise UserError(f"the weights in {what} are no ResNet-50: {' and '.join(said)}")
    return {name: whole[name].to(wanted[name].dtype) for name in wanted}


def vit_of(tensors: dict[str, Tensor], container: str, what: str) -> PublishedVit:
    """Build the ViT whose weights these are.

    Args: tensors: by the file's names. container: the entry of the file that they lay in. what: whose, for messages.
    Raises: UserError: no such names, or tensors that do not fit them.
    """
    prefix = prefix_of(tensors, _FIRST)
    if prefix is None or f"{prefix}{_FIRST_BLOCK}" not in tensors:
        raise UserError(
            f"{what} holds no weights of a vision transformer: no name ends in {_FIRST} or {_FIRST_BLOCK} (there are, "
            f"e.g., {', '.join(sorted(tensors)[:3])}). Allowed: those of DINO, DINOv2, MoCo-v3, MAE, timm"
        )
    own = _under_dinos_names({name: t.float() for name, t in named_below(tensors, prefix).items()}, what)
    taken = {name: tensor for name, tensor in own.items() if not name.startswith(_NOT_ENCODER)}
    shape, family = _shape_and_family(taken, prefix, container, what)
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten; no one else's draws may move
        network = VisionTransformer(shape)
    _fit(network, taken, what)
    left_out = [name for name in tensors if not name.startswith(prefix)]
    left_out += [prefix + name for name in own if name not in taken]
    recognised = (
        f"{family}: width {shape.width}, {shape.num_heads} heads, {shape.num_blocks} blocks, patch {shape.patch_px}"
    )
    return PublishedVit(
        network=network.eval(),
        recognised=recognised,
        left_out=tuple(sorted(left_out)),
        weights_sha256=weights_sha256(network.state_dict()),
    )


def _under_dinos_names(own: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    """Rename timm's registers; their CLS token has its position added, and the embedding has none for it."""
    if "rope_embed.periods" in own or "storage_tokens" in own:
        raise UserError(f"{what} is of DINOv3, whose rotary positions are not supported: give one of DINO or DINOv2")
    if "blocks.0.mlp.w12.weight" in own:
        raise UserError(f"{what} has the gated layers of a giant ViT, which are not supported: give S, B or L")
    if "pos_embed" not in own or "cls_token" not in own:
        raise UserError(f"{what} has no pos_embed or no cls_token: give one of DINO, DINOv2, MoCo-v3, MAE or timm")
    if "reg_token" not in own:
        return own
    position_1TD = own["pos_embed"]
    if math.isqrt(position_1TD.shape[1]) ** 2 == position_1TD.shape[1]:
        position_1TD = torch.cat([torch.zeros_like(position_1TD[:, :1]), position_1TD], dim=1)
    renamed = {**own, "register_tokens": own["reg_token"], "pos_embed": position_1TD}
    del renamed["reg_token"]
    return renamed


def _shape_and_family(own: dict[str, Tensor], prefix: str, container: str, what: str) -> tuple[VitShape, str]:
    width, _, patch_px, _ = own[_FIRST].shape
    side = math.isqrt(max(own["pos_embed"].shape[1] - 1, 0))
    blocks = {int(found[1]) for name in own if (found := re.match(r"blocks\.(\d+)\.", name))}
    if own["pos_embed"].shape != (1, 1 + side**2, width) or width % HEAD_WIDTH:
        raise UserError(
            f"{what} does not fit: its pos_embed is {tuple(own['pos_embed'].shape)}, not (1, 1 + M x M, {width}) with "
            f"a width in multiples of {HEAD_WIDTH}"
        )
    shape = VitShape(
        width=width, num_heads=width // HEAD_WIDTH, num_blocks=len(blocks), patch_px=patch_px, position_side=side,
        num_registers=own["register_tokens"].shape[1] if "register_tokens" in own else 0,
        has_layer_scale="blocks.0.ls1.gamma" in own,
    )  # fmt: skip
    return _of_family(shape, _family(own, shape, prefix, container))


def _family(own: dict[str, Tensor], shape: VitShape, prefix: str, container: str) -> str:
    """Whose it is: positions that are no learnt ones have zeros for CLS, and MAE published no network this narrow."""
    if shape.num_registers:
        return "DINOv2 with registers"
    if shape.has_layer_scale:
        return "DINOv2"
    has_fixed_positions = not own["pos_embed"][:, 0].any()
    if prefix == "module.base_encoder." or (has_fixed_positions and shape.width == 384):
        return "MoCo-v3"
    return "MAE" if has_fixed_positions or container == "model" else "DINO"


def _of_family(shape: VitShape, family: str) -> tuple[VitShape, str]:
    rules: dict[str, PositionRule] = {"DINOv2 with registers": "antialias", "MoCo-v3": "size", "MAE": "size"}
    shape = replace(shape, position_rule=rules.get(family, "offset"))
    if family == "MoCo-v3" and shape.width == 384:
        # Nothing in the file says so; six heads would load as well and attend to something else.
        shape = replace(shape, num_heads=MOCO_V3_SMALL_HEADS)
    return shape, family


def _fit(network: VisionTransformer, taken: dict[str, Tensor], what: str) -> None:
    wanted = network.state_dict()
    missing, foreign = sorted(wanted.keys() - taken.keys()), sorted(taken.keys() - wanted.keys())
    if missing or foreign:
        said = [f"it lacks {missing[0]}"] if missing else []
        said += [f"{foreign[0]} is no part of such a network"] if foreign else []
        raise UserError(f"the weights in {what} are no whole vision transformer: {' and '.join(said)}")
    try:
        network.load_state_dict(taken)
    except RuntimeError as error:
        raise UserError(f"the weights in {what} do not fit: {error}") from error
