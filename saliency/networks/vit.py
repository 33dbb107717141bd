"""Vision transformers as DINO, DINOv2, MoCo-v3 and MAE train them, under DINO's names.

Dosovitskiy et al. 2021, with the normalisation before each branch; Caron et al. 2021 ("DINO"); Darcet et al. 2024
(registers). Shapes: B images, C channels, H W rows and columns of pixels, h w of patches, N = h * w patches,
T = 1 + registers + N tokens, D width, A heads.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_EPSILON = 1e-6
MLP_RATIO = 4
INIT_STD = 0.02
PositionRule = Literal["offset", "size", "antialias"]


@dataclass(frozen=True, kw_only=True)
class VitShape:
    """What tells networks apart.

    position_rule: how the positional embedding is brought to another size, see `resized_positions`.
    """

    width: int
    num_heads: int
    num_blocks: int
    patch_px: int
    position_side: int
    # rows and columns of patches that the positional embedding was trained for
    num_registers: int = 0
    has_layer_scale: bool = False
    position_rule: PositionRule = "offset"


def _shape(width: int, patch_px: int, num_blocks: int = 12, **more: Any) -> VitShape:
    """A published shape: of images of 224 px, heads of 64."""
    usual = {"num_heads": width // 64, "position_side": 224 // patch_px}
    return VitShape(**{"width": width, "patch_px": patch_px, "num_blocks": num_blocks, **usual, **more})


_FIXED: dict[str, Any] = {"position_rule": "size"}
_DINOV2: dict[str, Any] = {"position_side": 37, "has_layer_scale": True}
_REGISTERS: dict[str, Any] = {**_DINOV2, "num_registers": 4, "position_rule": "antialias"}
# Networks that can be asked for by name: those that weights were published for, and a tiny one.
VITS = {
    "vit_ti16": _shape(192, 16),
    # DINO's
    "vit_s16": _shape(384, 16),
    "vit_s8": _shape(384, 8),
    "vit_b16": _shape(768, 16),
    "vit_b8": _shape(768, 8),
    # MoCo-v3's and MAE's, whose positions are no learnt ones; MoCo-v3's ViT-B is of MAE's shape
    "vit_s16_moco_v3": _shape(384, 16, num_heads=12, **_FIXED),
    "vit_b16_mae": _shape(768, 16, **_FIXED),
    "vit_l16_mae": _shape(1024, 16, 24, **_FIXED),
    "vit_h14_mae": _shape(1280, 14, 32, num_heads=16, **_FIXED),
    # DINOv2's
    "vit_s14": _shape(384, 14, **_DINOV2),
    "vit_b14": _shape(768, 14, **_DINOV2),
    "vit_l14": _shape(1024, 14, 24, **_DINOV2),
    "vit_s14_reg4": _shape(384, 14, **_REGISTERS),
    "vit_b14_reg4": _shape(768, 14, **_REGISTERS),
    "vit_l14_reg4": _shape(1024, 14, 24, **_REGISTERS),
}


def name_of(shape: VitShape) -> str | None:
    """Return the name of a shape in VITS, None = it has none."""
    return next((name for name, known in VITS.items() if known == shape), None)


class Block(nn.Module):
    """One layer: attention and a two-layer perceptron of four times the width, each on normalised tokens."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        width = shape.width
        self.num_heads = shape.num_heads
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, MLP_RATIO * width), "fc2": nn.Linear(MLP_RATIO * width, width)}
        )
        self.ls1, self.ls2 = (LayerScale(width) if shape.has_layer_scale else nn.Identity() for _ in range(2))

    def queries_keys_values(self, tokens_BTD: Tensor) -> Tensor:
        """Return what attention compares and mixes, (3, B, A, T, D / A): q, k and v."""
        qkv_BTD = self.attn["qkv"](self.norm1(tokens_BTD))
        return qkv_BTD.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """One layer: (B, T, D) -> (B, T, D)."""
        mixed = functional.scaled_dot_product_attention(*self.queries_keys_values(tokens_BTD))
        tokens_BTD = tokens_BTD + self.ls1(self.attn["proj"](mixed.transpose(1, 2).flatten(2)))
        hidden = functional.gelu(self.mlp["fc1"](self.norm2(tokens_BTD)))
        return tokens_BTD + self.ls2(self.mlp["fc2"](hidden))


class LayerScale(nn.Module):
    """A learnt factor per channel (Touvron et al. 2021), as DINOv2 has behind each branch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """Scale: (B, T, D) -> (B, T, D)."""
        return tokens_BTD * self.gamma


class VisionTransformer(nn.Module):
    """A ViT for images of any size in multiples of its patch.

    Args: shape: of the network. Weights are torch's initial ones and positions 0, to be loaded or drawn.
    """

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.shape = shape
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + shape.position_side**2, shape.width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, shape.width, shape.patch_px, shape.patch_px)})
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.num_blocks))
        self.norm = nn.LayerNorm(shape.width, eps=NORM_EPSILON)
        if shape.num_registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, shape.num_registers, shape.width))

    @torch.no_grad()
    def draw_weights(self) -> None:
        """Draw every parameter anew from torch's current generator: normal, cut off at two deviations, as DINO does."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, LayerScale):
                nn.init.ones_(module.gamma)
        for name, value in self.named_parameters(recurse=False):
            assert name in ("cls_token", "pos_embed", "register_tokens")
            nn.init.trunc_normal_(value, std=INIT_STD)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Tokens (B, T, D) of normalised images, see `tokens`."""
        return self.tokens(images_BCHW)

    def tokens(self, images_BCHW: Tensor) -> Tensor:
        """Tokens (B, T, D) after the last norm of normalised images; CLS first, then registers, then patches by row."""
        tokens_BTD = self._embedded(images_BCHW)
        for block in self.blocks:
            tokens_BTD = block(tokens_BTD)
        return self.norm(tokens_BTD)

    def forward_map(self, images_BCHW: Tensor) -> Tensor:
        """The patches' tokens after the last norm on their grid, (B, D, h, w); no CLS, no registers.

        Args: images_BCHW: float (B, 3, H, W), normalised, H and W multiples of the patch.
        """
        size = tuple(length // self.shape.patch_px for length in images_BCHW.shape[2:])
        return self.tokens(images_BCHW)[:, 1 + self.shape.num_registers :].transpose(1, 2).unflatten(2, size)

    def last_queries_keys(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys of the last layer, each (B, A, T, D / A); what comes after them is not computed.

        Args: images_BCHW: float (B, 3, H, W), normalised, H and W multiples of the patch.
        """
        tokens_BTD = self._embedded(images_BCHW)
        for block in self.blocks[:-1]:
            tokens_BTD = block(tokens_BTD)
        last = self.blocks[-1]
        assert isinstance(last, Block)
        queries, keys, _ = last.queries_keys_values(tokens_BTD)
        return queries, keys

    def _embedded(self, images_BCHW: Tensor) -> Tensor:
        patches_BDhw = self.patch_embed["proj"](images_BCHW)
        num_images, _, height, width = patches_BDhw.shape
        position_1TD = resized_positions(self.pos_embed, (height, width), self.shape.position_rule)
        cls_BTD = self.cls_token.expand(num_images, -1, -1)
        tokens_BTD = torch.cat([cls_BTD, patches_BDhw.flatten(2).transpose(1, 2)], dim=1) + position_1TD
        if not self.shape.num_registers:
            return tokens_BTD
        registers_BRD = self.register_tokens.expand(num_images, -1, -1)  # they have no position
        return torch.cat([tokens_BTD[:, :1], registers_BRD, tokens_BTD[:, 1:]], dim=1)


class VitFeatureMap(VisionTransformer):
    """Backbone: image -> its patches' tokens as a map of `out_channels` at 1 / `stride_px` of its size; random weights.

    Args: name: of VITS.
    """

    def __init__(self, name: str) -> None:
        super().__init__(VITS[name])
        self.out_channels, self.stride_px = self.shape.width, self.shape.patch_px
        self.draw_weights()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Features (B, out_channels, H / stride_px, W / stride_px) of normalised images (B, 3, H, W)."""
        return self.forward_map(images_BCHW)


def resized_positions(position_1TD: Tensor, size: tuple[int, int], rule: PositionRule) -> Tensor:
    """Bring a positional embedding to another number of patches, as its authors do; bicubic, edges repeated.

    Args:
        position_1TD: float (1, 1 + M * M, D): CLS, which stays as it is, and an M x M grid by row.
        size: rows and columns of patches wanted.
        rule: offset = DINO's, and DINOv2's without registers: scales (h + .1) / M, so that every sample is shifted a
            little; size = MAE's and DeiT's: scales h / M; antialias = DINOv2's with registers, timm's: likewise, with
            the cubic a = -.5 instead of -.75.

    Returns: (1, 1 + h * w, D).
    """
    side = math.isqrt(position_1TD.shape[1] - 1)
    if size == (side, side):
        return position_1TD
    grid_1DMM = position_1TD[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    if rule == "offset":
        scales = tuple((length + 0.1) / side for length in size)
        resized = functional.interpolate(grid_1DMM, scale_factor=scales, mode="bicubic")
    else:
        resized = functional.interpolate(grid_1DMM, size=size, mode="bicubic", antialias=rule == "antialias")
    assert resized.shape[2:] == size
    return torch.cat([position_1TD[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)
