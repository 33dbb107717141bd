"""Labelled image folders, prepared as every evaluation of the papers prepares them.

Legend: B batch, C channels, H W rows and columns.
"""

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
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
from stores.imagenet_classes import WNIDS

LAYOUT = "DIR/train/<class>/*.jpg and DIR/val/<class>/*.jpg, the same class names in both"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
CLASS_OF_WNID = {wnid: number for number, wnid in enumerate(WNIDS)}
# The shorter side before the crop, per pixel of the crop: 256 for 224.
_RESIZE_RATIO = 256 / 224


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    """Images of one batch: image_BCHW float32, normalised; label_B int64; corrupt: keys that could not be decoded."""

    image_BCHW: Tensor
    label_B: Tensor
    corrupt: tuple[str, ...]


@dataclass(frozen=True)
class Images:
    """Images of an evaluation; keys: paths below root, posix. label_N: int64 (N,), class of each."""

    root: Path
    keys: tuple[str, ...]
    label_N: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, row: int) -> bytes:
        """The bytes of one image's file."""
        return (self.root / self.keys[row]).read_bytes()

    def subset(self, rows: Sequence[int], layout: str) -> "Images":
        """Only some of the images. layout: what is expected, for the message. Raises: UserError: none is left."""
        if not len(rows):
            raise UserError(f"none of the {len(self)} images of {self.root} can be used. Expected: {layout}")
        return Images(self.root, tuple(self.keys[row] for row in rows), self.label_N[np.asarray(rows)])


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


@dataclass(frozen=True)
class Transform:
    """Pixels as a network wants them: apply turns uint8 RGB (H, W, 3) into (size_px, size_px, 3); name is recorded."""

    name: str
    size_px: int
    apply: Callable[[np.ndarray], np.ndarray]


def standard(size_px: int = 224) -> Transform:
    """The papers' evaluation transform: shorter side to 256/224 of the crop, centre crop (Ryali A.3)."""
    name = f"resize {round(size_px * _RESIZE_RATIO)}, centre crop {size_px}"
    return Transform(name, size_px, functools.partial(resize_and_crop, size_px=size_px))


def as_published(size_px: int = 224) -> Transform:
    """For images that are published cut: left as they are where they have the size, else the standard transform."""
    name = f"as published at {size_px}, others resized and cropped"
    return Transform(name, size_px, functools.partial(resize_and_crop, size_px=size_px, is_cut=True))


def wnid_folders(folder: Path, layout: str, *, suffixes: Collection[str] = IMAGE_SUFFIXES) -> Images:
    """List a folder of one folder per WordNet id; labels are ranks among all 1,000 ids, whichever folders are there.

    Args: folder: with the class folders; stray files beside them are left out. layout: what is expected, for messages.
    Raises: UserError: it is missing, or holds no class folder.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}. Expected: {layout}")
    class_folders = sorted(path for path in folder.iterdir() if path.is_dir() and path.name in CLASS_OF_WNID)
    found = [
        (f"{path.name}/{file.name}", CLASS_OF_WNID[path.name])
        for path in class_folders
        for file in sorted(path.iterdir())
        if file.suffix.lower() in suffixes
    ]
    if not found:
        raise UserError(f"{folder} holds no image in a folder named by a WordNet id of ImageNet's. Expected: {layout}")
    keys, labels = zip(*found, strict=True)
    return Images(folder, keys, np.array(labels, dtype=np.int64))


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
    images: Images | DatasetIndex,
    label_N: np.ndarray,
    *,
    transform: Transform,
    batch_size: int,
    device: torch.device,
    title: str = "",
) -> Iterator[ImageBatch]:
    """Yield all images in order, with a progress bar.

    Args:
        images: the images. label_N: int64 (N,), their classes.
        transform: what is done to each image's pixels.
        batch_size: images per batch. device: where the batches are wanted. title: words before the bar.
    Yields: batches; an image that cannot be decoded is left out of the pixels and labels and named in `corrupt`.
    """

    def prepared(row: int) -> np.ndarray | None:
        try:
            return transform.apply(decode_rgb(images.read(row)))
        except (ImageError, FileNotFoundError):
            return None

    mean = torch.tensor(IMAGENET_MEAN, device=device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, device=device)[:, None, None]
    starts = range(0, len(images), batch_size)
    with ThreadPoolExecutor() as pool, tqdm(total=len(images), desc=title, unit="img", leave=False) as bar:
        # One batch ahead: the next is decoded while this one is computed on.
        ahead = [pool.submit(prepared, row) for row in range(min(batch_size, len(images)))]
        for start in starts:
            rows, now = range(start, min(start + batch_size, len(images))), ahead
            ahead = [pool.submit(prepared, row) for row in range(rows.stop, min(rows.stop + batch_size, len(images)))]
            decoded = [future.result() for future in now]
            kept = [image for image in decoded if image is not None]
            stacked = np.stack(kept) if kept else np.empty((0, transform.size_px, transform.size_px, 3), np.uint8)
            image_BCHW = torch.from_numpy(stacked).to(device).permute(0, 3, 1, 2).float() / 255.0
            label_B = [label_N[row] for row, image in zip(rows, decoded, strict=True) if image is not None]
            yield ImageBatch(
                image_BCHW=(image_BCHW - mean) / std,
                label_B=torch.tensor(label_B, dtype=torch.int64),
                corrupt=tuple(images.keys[row] for row, image in zip(rows, decoded, strict=True) if image is None),
            )
            bar.update(len(rows))
