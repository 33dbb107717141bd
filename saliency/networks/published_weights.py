"""Self-supervised weights as they were published: their ViTs and ResNets, filled. `weight_names` has the names.

Shapes: D width, M rows and columns of the positional embedding's grid.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from backdrop.errors import UserError
from backdrop.saliency.networks.resnet import RESNET50_S8, DilatedResNet50
from backdrop.saliency.networks.vit import MLP_RATIO, VITS, PositionRule, VisionTransformer, VitShape, name_of
from backdrop.saliency.networks.weight_names import (
    FIRST_BLOCK,
    PATCHES,
    NamedWeights,
    resnet_weights,
    said_of,
    some_of,
    vit_weights,
)
from backdrop.stores.images.imagenet_statistics import IMAGENET_STD
from backdrop.tensor_files import read_published, weights_sha256, what_does_not_fit

# What SwAV divides colours by; the other releases as ImageNet's.
SWAV_STD = (0.228, 0.224, 0.225)
# Heads are 64 wide but those of MoCo-v3's ViT-S and of MAE's ViT-H.
HEAD_WIDTH = 64
MOCO_V3_SMALL_WIDTH, MOCO_V3_SMALL_HEADS = 384, 12
HUGE_WIDTH, HUGE_HEADS = 1280, 16
# DINOv2's giant has 40.
MAX_BLOCKS = 64
_DIMENSIONS = {
    PATCHES: 4,
    "pos_embed": 3,
    "cls_token": 3,
    "register_tokens": 3,
    "reg_token": 3,
    "blocks.0.mlp.fc1.weight": 2,
}


@dataclass(frozen=True, kw_only=True)
class PublishedVit:
    """A ViT of a file, and what was made of the file.

    network: in evaluation mode, on the CPU. recognised: for people. left_out: names in the file that were not taken.
    """

    network: VisionTransformer
    recognised: str
    left_out: tuple[str, ...]
    weights_sha256: str
    std_RGB: tuple[float, float, float] = IMAGENET_STD


@dataclass(frozen=True, kw_only=True)
class PublishedResNet50:
    """A ResNet-50 of a file, made to end at 1/8 of the image's size, and what was made of the file.

    network: in evaluation mode, on the CPU. recognised: for people. left_out: names in the file that were not taken.
    std_RGB: what colours are divided by, after the mean.
    """

    network: DilatedResNet50
    recognised: str
    left_out: tuple[str, ...]
    weights_sha256: str
    std_RGB: tuple[float, float, float]


def load_vit(path: Path) -> PublishedVit:
    """Read a ViT of DINO, DINOv2, MoCo-v3, MAE or timm from the file that was published.

    Args: path: safetensors, or .pt, .pth and .pth.tar, of which tensors alone are read.
    Raises: UserError: no such file, it holds more than tensors, or no such network; what does not fit is named.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}: give one of published weights, such as dino_deitsmall8_pretrain.pth")
    tensors, _ = read_published(path)
    found = vit_weights(tensors)
    if found is None:
        raise UserError(
            f"{path} holds no weights of a vision transformer: no name ends in {PATCHES} or {FIRST_BLOCK} (there are, "
            f"e.g., {some_of(tensors)}). Allowed: those of DINO, DINOv2, MoCo-v3, MAE, timm"
        )
    return vit_of(found, str(path))


def load_network(path: Path) -> PublishedVit | PublishedResNet50:
    """Read a ViT or a ResNet-50, whichever a file holds.

    Args: path: as `load_vit` takes it.
    Raises: UserError: as the readers.
    """
    if path.is_file() and resnet_weights(read_published(path)[0]) is not None:
        return load_resnet50(path)
    return load_vit(path)


def load_published_backbone(path: Path, architecture: str) -> tuple[dict[str, Tensor], str]:
    """Read the weights of a segmenter's backbone.

    Args: path: as `load_vit` takes it. architecture: a name of `drn.PUBLISHED`.
    Returns: by the backbone's names; what was recognised and what was left, for people.
    Raises: UserError: as the readers; a ViT of another shape.
    """
    if architecture == RESNET50_S8:
        resnet = load_resnet50(path)
        said = said_of(resnet.recognised, resnet.left_out)
        if resnet.std_RGB != IMAGENET_STD:
            said += f". Its colours were divided by others: --set std_RGB={','.join(map(str, resnet.std_RGB))}"
        return resnet.network.state_dict(), said
    found = load_vit(path)
    name = name_of(found.network.shape)
    if name != architecture:
        instead = f"give --set architecture={name}" if name else f"allowed are {', '.join(VITS)}"
        raise UserError(f"{path} holds {found.recognised}, which is no {architecture}: {instead}")
    return found.network.state_dict(), said_of(found.recognised, found.left_out)


def load_resnet50(path: Path) -> PublishedResNet50:
    """Read a ResNet-50 of MoCo-v2 or v3, SwAV, DINO, Barlow Twins, VICReg, SimSiam, BYOL, solo-learn or lightly.

    Args: path: as `load_vit` takes it.
    Raises: UserError: there is no such file, it holds more than tensors, or no ResNet-50; what does not fit is named.
    """
    if not path.is_file():
        raise UserError(
            f"there is no file {path}: give one of published weights, such as moco_v2_800ep_pretrain.pth.tar"
        )
    tensors, _ = read_published(path)
    found = resnet_weights(tensors)
    if found is None:
        raise UserError(
            f"{path} holds no weights of a ResNet: no name ends in conv1.weight (there are, e.g., {some_of(tensors)}). "
            "Allowed: torchvision's names, also after a release's prefix"
        )
    tensors = _whole_resnet50(found.tensors, str(path))
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten; no one else's draws may move
        network = DilatedResNet50()
    network.load_state_dict(tensors)
    is_swav = "prototypes.weight" in found.beside
    return PublishedResNet50(
        network=network.eval(),
        recognised="a ResNet-50 of SwAV" if is_swav else "a ResNet-50",
        left_out=found.not_taken,
        weights_sha256=weights_sha256(tensors),
        std_RGB=SWAV_STD if is_swav else IMAGENET_STD,
    )


def _whole_resnet50(own: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    """Check that all is there; counts of batches, which some files leave out, are 0 then."""
    with torch.device("meta"):
        wanted = DilatedResNet50().state_dict()
    counts = {name: torch.zeros((), dtype=torch.long) for name in wanted if name.endswith("num_batches_tracked")}
    whole = {**counts, **own}
    if said := what_does_not_fit(wanted, whole):
        raise UserError(f"the weights in {what} are no ResNet-50: {said}")
    return {name: whole[name].to(wanted[name].dtype) for name in wanted}


def vit_of(found: NamedWeights, what: str) -> PublishedVit:
    """Build the ViT whose weights these are.

    Args: found: by `vit_weights`. what: whose, for messages.
    Raises: UserError: tensors that do not fit such a network.
    """
    _check_dimensions(found.tensors, what)
    own = _under_dinos_names({name: tensor.float() for name, tensor in found.tensors.items()}, what)
    shape, family = _shape_and_family(own, found.prefix, what)
    # Before it is allocated: what a file says of a width is not what it has weights for.
    with torch.device("meta"):
        wanted = VisionTransformer(shape).state_dict()
    if said := what_does_not_fit(wanted, own):
        raise UserError(f"the weights in {what} are no whole vision transformer: {said}")
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten; no one else's draws may move
        network = VisionTransformer(shape)
    network.load_state_dict(own)
    recognised = (
        f"{family}: width {shape.width}, {shape.num_heads} heads, {shape.num_blocks} blocks, patch {shape.patch_px}"
    )
    return PublishedVit(
        network=network.eval(),
        recognised=recognised,
        left_out=found.not_taken,
        weights_sha256=weights_sha256(network.state_dict()),
    )


def _check_dimensions(own: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors of other dimensions than the shape of a network is read from, and more blocks than any has."""
    for name, num in _DIMENSIONS.items():
        if name in own and own[name].ndim != num:
            raise UserError(f"{what} does not fit: its {name} is {tuple(own[name].shape)}, of a ViT it has {num} sides")
    num_blocks = len(_blocks(own))
    if num_blocks > MAX_BLOCKS:
        raise UserError(f"{what} does not fit: it has {num_blocks} blocks, a ViT at most {MAX_BLOCKS}")


def _blocks(own: Iterable[str]) -> set[str]:
    """The numbers of a ViT's blocks."""
    return {found[1] for name in own if (found := re.match(r"blocks\.(\d+)\.", name))}


def _under_dinos_names(own: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    """Rename timm's registers; their CLS token has its position added, and the embedding has none for it."""
    if own.keys() & {"rope_embed.periods", "storage_tokens", "blocks.0.gamma_1"}:
        raise UserError(f"{what} is of DINOv3, whose rotary positions are not supported: give one of DINO or DINOv2")
    hidden_DD = own.get("blocks.0.mlp.fc1.weight")
    is_gated = "blocks.0.mlp.w12.weight" in own
    if is_gated or (hidden_DD is not None and len(hidden_DD) != MLP_RATIO * hidden_DD.shape[1]):
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


def _shape_and_family(own: dict[str, Tensor], prefix: str, what: str) -> tuple[VitShape, str]:
    width, _, patch_px, _ = own[PATCHES].shape
    side = math.isqrt(max(own["pos_embed"].shape[1] - 1, 0))
    if own["pos_embed"].shape != (1, 1 + side**2, width) or width % HEAD_WIDTH:
        raise UserError(
            f"{what} does not fit: its pos_embed is {tuple(own['pos_embed'].shape)}, not (1, 1 + M x M, {width}) with "
            f"a width in multiples of {HEAD_WIDTH}"
        )
    shape = VitShape(
        width=width, num_heads=width // HEAD_WIDTH, num_blocks=len(_blocks(own)), patch_px=patch_px, position_side=side,
        num_registers=own["register_tokens"].shape[1] if "register_tokens" in own else 0,
        has_layer_scale="blocks.0.ls1.gamma" in own,
    )  # fmt: skip
    return _of_family(shape, _family(own, shape, prefix))


def _family(own: dict[str, Tensor], shape: VitShape, prefix: str) -> str:
    """Whose it is: positions that are no learnt ones have zeros for CLS, and MAE published no network this narrow."""
    if shape.num_registers:
        return "DINOv2 with registers"
    if shape.has_layer_scale:
        return "DINOv2"
    if own["pos_embed"][:, 0].any():
        return "DINO"
    return "MoCo-v3" if prefix == "module.base_encoder." or shape.width == MOCO_V3_SMALL_WIDTH else "MAE"


def _of_family(shape: VitShape, family: str) -> tuple[VitShape, str]:
    rules: dict[str, PositionRule] = {"DINOv2 with registers": "antialias", "MoCo-v3": "size", "MAE": "size"}
    shape = replace(shape, position_rule=rules.get(family, "offset"))
    # Nothing in the files says so; heads of another width would load as well, and attend to something else.
    if family == "MoCo-v3" and shape.width == MOCO_V3_SMALL_WIDTH:
        shape = replace(shape, num_heads=MOCO_V3_SMALL_HEADS)
    if shape.width == HUGE_WIDTH:
        shape = replace(shape, num_heads=HUGE_HEADS)
    return shape, family
