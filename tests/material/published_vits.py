"""Files of weights as their authors published them: the names and shapes written out, random values, tiny or whole."""

from pathlib import Path

import torch
from torch import Tensor


def dino_tensors(
    *, width: int = 384, patch_px: int = 16, side: int = 14, num_blocks: int = 12, seed: int = 0
) -> dict[str, Tensor]:
    """The tensors of dino_deitsmall16_pretrain.pth and its like, of values that keep activations of order one.

    Args: side: rows and columns of patches that the positional embedding is for.
    """
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + side * side, width),
        "patch_embed.proj.weight": (width, 3, patch_px, patch_px),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for block in range(num_blocks):
        layers = {
            "norm1": (width,), "norm2": (width,),
            "attn.qkv": (3 * width, width), "attn.proj": (width, width),
            "mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width),
        }  # fmt: skip
        for name, shape in layers.items():
            shapes[f"blocks.{block}.{name}.weight"] = shape
            shapes[f"blocks.{block}.{name}.bias"] = shape[:1]
    return random_tensors(shapes, seed)


def dinov2_tensors(
    *, width: int = 384, side: int = 37, num_blocks: int = 12, num_registers: int = 0
) -> dict[str, Tensor]:
    """The tensors of dinov2_vits14_pretrain.pth, or of dinov2_vits14_reg4_pretrain.pth."""
    more: dict[str, tuple[int, ...]] = {"mask_token": (1, width)}
    if num_registers:
        more["register_tokens"] = (1, num_registers, width)
    for block in range(num_blocks):
        more |= {f"blocks.{block}.ls1.gamma": (width,), f"blocks.{block}.ls2.gamma": (width,)}
    own = dino_tensors(width=width, patch_px=14, side=side, num_blocks=num_blocks)
    return own | random_tensors(more, 1)


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Normal values: of deviation one over the root of the inputs, norms' weights about one, vectors small."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if len(shape) in (2, 4):
            values = values / values[0].numel() ** 0.5
        elif "norm" in name and name.endswith("weight"):
            values = 1 + 0.1 * values
        elif len(shape) == 1:
            values = 0.1 * values
        tensors[name] = values
    return tensors


def tiny_dino(path: Path, *, patch_px: int = 8, seed: int = 0) -> Path:
    """Write a file under DINO's names of a network of one head and two blocks."""
    torch.save(dino_tensors(width=64, patch_px=patch_px, side=4, num_blocks=2, seed=seed), path)
    return path
