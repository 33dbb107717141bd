"""Painted images and a network that reads the paint, so that every evaluation has an exact number to come out with.

Each of the 1,000 classes has a colour: its three decimal digits are the levels of red, green and blue. The oracle's
logit of a class is the share of the (cropped) image painted in its colour; black paints nothing. Another head, e.g.
one that answers 5 where 3 is painted, makes a network that errs in a known way.

    subject = oracle(tmp_path)
    write_tree(tmp_path / "set", {f"{WNIDS[3]}/a.JPEG": 3, f"{WNIDS[4]}/b.png": (5, 4)})  # b: mostly 5, some 4
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from backdrop.stores.images.imagenet_statistics import IMAGENET_MEAN, IMAGENET_STD
from backdrop.stores.indexes.imagenet_classes import WNIDS
from backdrop.trainer.evaluation.harness.subject import Subject, weights_digest
from backdrop.trainer.parts.backbones import Backbone

__all__ = ["BLACK", "FACTS", "WNIDS", "colour", "imagenet_split", "oracle", "paint", "save_image", "write_tree"]

# What every row of results must say, whatever else it says.
FACTS = {"release", "transform", "projection", "bn_mode"}
NUM_CLASSES = len(WNIDS)
BLACK = NUM_CLASSES
SIZE = (48, 64)
NUM_CELLS = 14
SHARPNESS = 2000.0  # colours differ by 22 / 255 in a channel at least: the nearest has a probability above 1 - 1e-6
_LEVELS = 27 + 22 * np.arange(10)
Painted = int | Sequence[int]


def colour(number: int) -> np.ndarray:
    """The colour of a class: uint8 RGB. Classes whose digits are equal (0, 111, ... 999) are grey. BLACK is black."""
    if number == BLACK:
        return np.zeros(3, dtype=np.uint8)
    return _LEVELS[[number // 100, number // 10 % 10, number % 10]].astype(np.uint8)


def paint(painted: Painted, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Paint an image.

    Args:
        painted: a class, or two or three with falling shares: each has half of the rows of the one before it, also in
            the standard crop (so (5, 4) answers 5 first and 4 second).
        size: (height, width).
    Returns: uint8 (height, width, 3).
    """
    classes = [painted] if isinstance(painted, int) else list(painted)
    height, width = size
    # Rows by share, from the middle outwards, of the 224 in 256 that a centre crop leaves.
    weight_K = 0.5 ** np.arange(len(classes))
    end_K = np.round(np.cumsum(weight_K) / weight_K.sum() * height / 2 * 224 / 256).astype(int)
    image_HWC = np.empty((height, width, 3), dtype=np.uint8)
    image_HWC[:] = colour(classes[-1])
    for number, end in reversed(list(zip(classes[:-1], end_K[:-1], strict=True))):
        image_HWC[height // 2 - end : height - (height // 2 - end)] = colour(number)
    return image_HWC


def save_image(path: Path, image_HWC: np.ndarray, *, mode: str = "RGB") -> Path:
    """Write an image in the format of its name. mode: "RGB", "L" or "CMYK" (JPEG), of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # By its content's format, whatever the case of the suffix.
    kind = {".png": "PNG", ".webp": "WEBP"}.get(path.suffix.lower(), "JPEG")
    Image.fromarray(image_HWC).convert(mode).save(path, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return path


def write_tree(root: Path, files: Mapping[str, Painted | str], size: tuple[int, int] = SIZE) -> Path:
    """Write many files. files: path below root to what is painted on it, or to the text in it."""
    for name, content in files.items():
        path = root / name
        if isinstance(content, str):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        else:
            save_image(path, paint(content, size))
    return root


def imagenet_split(root: Path, split: str, painted_of_class: Mapping[int, Sequence[Painted]]) -> Path:
    """Write ROOT/train or ROOT/val as ImageNet has it, numbered over the classes in turn as the validation set is.

    Args: split: "train" or "val". painted_of_class: of each class, what is painted on its images.
    Returns: the split's folder.
    """
    number = 0
    for turn in range(max(len(painted) for painted in painted_of_class.values())):
        for label, painted in painted_of_class.items():
            if turn >= len(painted):
                continue
            number += 1
            is_val = split == "val"
            name = f"ILSVRC2012_val_{number:08d}.JPEG" if is_val else f"{WNIDS[label]}_{number}.JPEG"
            save_image(root / split / WNIDS[label] / name, paint(painted[turn]))
    return root / split


class _Choice(nn.Module):
    """Cells of colours to probabilities of the classes, without black."""

    def forward(self, similarity_BChw: torch.Tensor) -> torch.Tensor:
        return similarity_BChw.softmax(dim=1)[:, :NUM_CLASSES]


def oracle_backbone() -> Backbone:
    """Images (B, 3, H, W), normalised, to shares of the classes (B, 1000); its map has 14 x 14 cells of 1,000 channels.

    The similarity to a colour k is -|x - k|^2 without the |x|^2 that all have in common, of the pixel before the
    normalisation: 2 k (std x + mean) - |k|^2.
    """
    colour_KC = np.stack([colour(number) for number in range(NUM_CLASSES + 1)]).astype(np.float64) / 255
    mean_C, std_C = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    nearest = nn.Conv2d(3, NUM_CLASSES + 1, 1)
    weight_KC = SHARPNESS * 2 * colour_KC * std_C
    bias_K = SHARPNESS * (2 * colour_KC @ mean_C - (colour_KC**2).sum(axis=1))
    nearest.weight.data = torch.from_numpy(weight_KC).float()[:, :, None, None]
    nearest.bias.data = torch.from_numpy(bias_K).float()
    # One pixel per cell: the mean over a cell with an edge in it would be the colour of a third class.
    sample = nn.Upsample(size=NUM_CELLS, mode="nearest-exact")
    return Backbone({"sample": sample, "nearest": nearest, "choose": _Choice()}, NUM_CLASSES).eval()


def oracle_head(logits_of_painted: Mapping[int, Mapping[int, float]] | None = None) -> nn.Linear:
    """Shares to logits: 10 for the class painted.

    Args: logits_of_painted: for a class painted, other logits by class (0 for those left out).
    """
    weight_CD = 10 * torch.eye(NUM_CLASSES)
    for painted, logits in (logits_of_painted or {}).items():
        weight_CD[:, painted] = 0
        for label, logit in logits.items():
            weight_CD[label, painted] = logit
    head = nn.Linear(NUM_CLASSES, NUM_CLASSES)
    head.weight.data, head.bias.data = weight_CD, torch.zeros(NUM_CLASSES)
    return head.eval()


def oracle(
    folder: Path, logits_of_painted: Mapping[int, Mapping[int, float]] | None = None, *, has_head: bool = True
) -> Subject:
    """A subject that answers what is painted.

    Args: folder: where its answers are kept. logits_of_painted: see `oracle_head`.
    """
    backbone, head = oracle_backbone(), oracle_head(logits_of_painted) if has_head else None
    return Subject(
        backbone=backbone,
        head=head,
        weights_sha256=weights_digest(backbone, head),
        bn_mode="eval",
        image_size_px=224,
        method="",
        folder=folder / "oracle.evaluation",
        run=None,
        device=torch.device("cpu"),
    )
