"""Labelled image folders, prepared as every evaluation of the papers prepares them.

Legend: B batch, C channels, H W rows and columns.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from pipeline.views.device_stage import IMAGENET_MEAN, IMAGENET_STD
from stores.dataset_index import DatasetIndex, open_index
from stores.errors import ImageError, UserError
from stores.image_codec import decode_rgb

LAYOUT = "DIR/train/<class>/*.jpg and DIR/val/<class>/*.jpg, the same class names in both"
# The shorter side before the crop, per pixel of the crop: 256 for 224.
_RESIZE_RATIO = 256 / 224


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    """Images of one batch: image_BCHW float32, normalised; label_B int64; corrupt: keys that could not be decoded."""

    image_BCHW: Tensor
    label_B: Tensor
    corrupt: tuple[str, ...]


def open_split(data: str | Path, split: str) -> DatasetIndex:
    """List train or val of an evaluation's data.

    Args: data: a folder that holds train/ and val/ with one folder per class, or "sample". split: "train" or "val".
    Returns: the index, labels = ranks of the class folders.
    Raises: UserError when a folder is missing or has no classes.
    """
    if str(data) == "sample":
        return open_index("sample", root=None, split=split)
    return open_class_folders(Path(data) / split)


def open_class_folders(folder: Path) -> DatasetIndex:
    """List a folder of class folders.

    Args: folder: holds one folder per class. Returns: the index, labels = ranks of the class folders.
    Raises: UserError when it is missing, empty, or holds images outside of class folders.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Expected {LAYOUT}.")
    index = open_index("folder", root=folder)
    if not index.class_names:
        stray = next((key for key in index.keys if "/" not in key), "none")
        raise UserError(f"{folder} has images outside of class folders (e.g. {stray}). Expected {LAYOUT}.")
    return index


def labels_as(index: DatasetIndex, class_names: tuple[str, ...]) -> np.ndarray:
    """Return an index's labels as ranks in another list of classes; classes are matched by name.

    Args: index: rows with labels into `index.class_names`. class_names: the classes to count in (the training set's).
    Returns: int64 (N,). Raises: UserError when a class is not among them.
    """
    used = {index.class_names[label] for label in np.unique(index.labels)}
    unknown = sorted(used - set(class_names))
    if unknown:
        raise UserError(
            f"{index.root} has classes that the training images do not have: {', '.join(unknown[:5])}"
            f"{' ...' if len(unknown) > 5 else ''}. Expected {LAYOUT}; they have: {', '.join(class_names[:20])}."
        )
    rank = {name: number for number, name in enumerate(class_names)}
    return np.array([rank[index.class_names[label]] for label in index.labels], dtype=np.int64)


def resize_and_crop(image_HWC: np.ndarray, size_px: int, *, is_cut: bool = False) -> np.ndarray:
    """Resize the shorter side to 256/224 of the crop (bilinear, antialias) and cut the centre (Ryali A.3).

    Args:
        image_HWC: uint8 RGB.
        size_px: side of the crop.
        is_cut: leave images that have exactly the crop's size as they are (ImageNet-9's are published cut).
    Returns: uint8 (size_px, size_px, 3).
    """
    height, width = image_HWC.shape[:2]
    if is_cut and (height, width) == (size_px, size_px):
        return image_HWC
    shorter_px = round(size_px * _RESIZE_RATIO)
    # torchvision's rule: the long side is truncated, the offset rounds half to even.
    if height <= width:
        new_height, new_width = shorter_px, int(shorter_px * width / height)
    else:
        new_height, new_width = int(shorter_px * height / width), shorter_px
    resized = Image.fromarray(image_HWC).resize((new_width, new_height), Image.Resampling.BILINEAR)
    top, left = round((new_height - size_px) / 2), round((new_width - size_px) / 2)
    return np.asarray(resized)[top : top + size_px, left : left + size_px]


def image_batches(
    index: DatasetIndex,
    label_N: np.ndarray,
    *,
    size_px: int,
    batch_size: int,
    device: torch.device,
    is_cut: bool = False,
    title: str = "",
) -> Iterator[ImageBatch]:
    """Yield all images of an index in order, with a progress bar.

    Args:
        index: the images. label_N: int64 (N,), their classes.
        size_px, is_cut: as for `resize_and_crop`.
        batch_size: images per batch. device: where the batches are wanted. title: words before the bar.
    Yields: batches; an image that cannot be decoded is left out of the pixels and labels and named in `corrupt`.
    """

    def prepared(row: int) -> np.ndarray | None:
        try:
            return resize_and_crop(decode_rgb(index.read(row)), size_px, is_cut=is_cut)
        except (ImageError, FileNotFoundError):
            return None

    mean = torch.tensor(IMAGENET_MEAN, device=device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, device=device)[:, None, None]
    with ThreadPoolExecutor() as pool, tqdm(total=len(index), desc=title, unit="img", leave=False) as bar:
        for start in range(0, len(index), batch_size):
            rows = range(start, min(start + batch_size, len(index)))
            images = list(pool.map(prepared, rows))
            kept = [image for image in images if image is not None]
            stacked = np.stack(kept) if kept else np.empty((0, size_px, size_px, 3), np.uint8)
            image_BCHW = torch.from_numpy(stacked).to(device).permute(0, 3, 1, 2).float() / 255.0
            label_B = [label_N[row] for row, image in zip(rows, images, strict=True) if image is not None]
            yield ImageBatch(
                image_BCHW=(image_BCHW - mean) / std,
                label_B=torch.tensor(label_B, dtype=torch.int64),
                corrupt=tuple(index.keys[row] for row, image in zip(rows, images, strict=True) if image is None),
            )
            bar.update(len(rows))
