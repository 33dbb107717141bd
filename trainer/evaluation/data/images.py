"""Labelled image folders, prepared as every evaluation of the papers prepares them.

Legend: B batch, C channels, H W rows and columns.
"""

import functools
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backdrop.errors import ImageError, UserError
from backdrop.progress import stage_bar
from backdrop.stores.datasets import open_index
from backdrop.stores.images.image_codec import decode_rgb
from backdrop.stores.images.imagenet_statistics import IMAGENET_MEAN, IMAGENET_STD
from backdrop.stores.indexes.dataset_index import DatasetIndex
from backdrop.stores.indexes.imagenet_classes import CLASS_OF_WNID

LAYOUT = "DIR/train/<class>/*.jpg and DIR/val/<class>/*.jpg, the same class names in both"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# What archives of images carry beside their class folders; anything else there is told.
_EXPECTED_STRAYS = ("readme", "license", "copying", "manifest")
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
    """Images of an evaluation; keys: paths below root, posix. label_N: int64 (N,), class of each.

    strays: what else lies in the folders that were listed.
    """

    root: Path
    keys: tuple[str, ...]
    label_N: np.ndarray
    strays: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, row: int) -> bytes:
        """The bytes of one image's file. Raises: FileNotFoundError: it is a link to nowhere."""
        return (self.root / self.keys[row]).read_bytes()

    def stamp(self, row: int) -> tuple[int, ...]:
        """What, with its key, tells an image from another: the size of its file, -1 of a link to nowhere."""
        path = self.root / self.keys[row]
        return (path.stat().st_size if path.is_file() else -1,)

    def subset(self, rows: Sequence[int], layout: str) -> "Images":
        """Only some of the images. layout: what is expected, for the message. Raises: UserError: none is left."""
        if not len(rows):
            raise UserError(f"none of the {len(self)} images of {self.root} can be used. Expected: {layout}")
        return replace(self, keys=tuple(self.keys[row] for row in rows), label_N=self.label_N[np.asarray(rows)])


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


def strays_beside(index: DatasetIndex) -> list[str]:
    """Return the files below an index's folder that are none of its images, relative to that, sorted."""
    known = set(index.keys)
    below = (Path(folder, name).relative_to(index.root) for folder, _, names in os.walk(index.root) for name in names)
    return sorted(
        path.as_posix()
        for path in below
        if path.as_posix() not in known and not path.name.lower().startswith(_EXPECTED_STRAYS)
    )


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
    """Pixels as a network wants them.

    name: recorded beside each score; another name where anything else differs.
    apply: uint8 RGB (H, W, 3) to (size_px, size_px, 3). mean, std: of the normalisation, of values in 0 .. 1.
    """

    name: str
    size_px: int
    apply: Callable[[np.ndarray], np.ndarray]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def standard(size_px: int = 224) -> Transform:
    """The papers' evaluation transform: shorter side to 256/224 of the crop, centre crop (Ryali A.3)."""
    name = f"resize {round(size_px * _RESIZE_RATIO)}, centre crop {size_px}"
    return Transform(name, size_px, functools.partial(resize_and_crop, size_px=size_px))


def as_published(size_px: int = 224) -> Transform:
    """For images that are published cut: left as they are where they have the size, else the standard transform."""
    name = f"as published at {size_px}, others resized and cropped"
    return Transform(name, size_px, functools.partial(resize_and_crop, size_px=size_px, is_cut=True))


def centre_cut(size_px: int = 224) -> Transform:
    """For images that are published resized: the centre crop alone (ImageNet-C's reference script)."""
    return Transform(f"centre crop {size_px}", size_px, functools.partial(crop_centre, size_px=size_px))


def framed(border_px: int, size_px: int = 224) -> Transform:
    """For images within a frame: that is cut off, the shorter side resized to the crop's, and the centre cut."""

    def apply(image_HWC: np.ndarray) -> np.ndarray:
        height, width = image_HWC.shape[:2]
        inner_HWC = image_HWC[border_px : height - border_px, border_px : width - border_px]
        return resize_and_crop(np.ascontiguousarray(inner_HWC), size_px, shorter_px=size_px)

    return Transform(f"frame of {border_px} px cut, resize {size_px}, centre crop {size_px}", size_px, apply)


def wnid_folders(folder: Path, layout: str, *, suffixes: Collection[str] = IMAGE_SUFFIXES) -> Images:
    """List a folder of one folder per WordNet id; labels are ranks among all 1,000 ids, whichever folders are there.

    Args: folder: with the class folders; stray files beside them are left out. layout: what is expected, for messages.
    Raises: UserError: it is missing, or holds no class folder.
    """
    return class_folders(folder, CLASS_OF_WNID, layout, suffixes=suffixes)


def class_folders(
    folder: Path, class_of_folder: Mapping[str, int], layout: str, *, suffixes: Collection[str] = IMAGE_SUFFIXES
) -> Images:
    """List a folder of class folders whose names are known; a class never depends on which folders are there.

    Args: folder: with the class folders. class_of_folder: class of each name. layout: what is expected, for messages.
    Raises: UserError: it is missing, or no class folder in it holds an image.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}. Expected: {layout}")
    entries = sorted(folder.iterdir())
    found: list[tuple[str, int]] = []
    strays = [path.name for path in entries if not (path.is_dir() and path.name in class_of_folder)]
    for path in entries:
        if path.is_dir() and path.name in class_of_folder:
            is_image_of_name = {file.name: file.suffix.lower() in suffixes for file in sorted(path.iterdir())}
            label = class_of_folder[path.name]
            found += [(f"{path.name}/{name}", label) for name, is_image in is_image_of_name.items() if is_image]
            strays += [f"{path.name}/{name}" for name, is_image in is_image_of_name.items() if not is_image]
    if not found:
        example = f"{next(iter(class_of_folder))!r}"
        raise UserError(f"{folder} holds no image in a folder of a class, such as {example}. Expected: {layout}")
    keys, labels = zip(*found, strict=True)
    strays = [name for name in strays if not name.lower().startswith(_EXPECTED_STRAYS)]
    return Images(folder, keys, np.array(labels, dtype=np.int64), tuple(strays))


def crop_centre(image_HWC: np.ndarray, size_px: int) -> np.ndarray:
    """Cut the centre, uint8 (size_px, size_px, 3); what is smaller stands on black, as torchvision has it."""
    height, width = image_HWC.shape[:2]
    if min(height, width) < size_px:
        rows, columns = max(size_px - height, 0), max(size_px - width, 0)
        beside = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
        return crop_centre(np.pad(image_HWC, beside), size_px)
    top, left = round((height - size_px) / 2), round((width - size_px) / 2)
    return image_HWC[top : top + size_px, left : left + size_px]


def resize_and_crop(
    image_HWC: np.ndarray,
    size_px: int,
    *,
    shorter_px: int | None = None,
    is_cut: bool = False,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
) -> np.ndarray:
    """Resize the shorter side to 256/224 of the crop (bilinear, antialias) and cut the centre (Ryali A.3).

    Args:
        image_HWC: uint8 RGB, or (H, W) of a mask.
        size_px: side of the crop.
        shorter_px: length of the shorter side before the crop; None = 256/224 of the crop.
        is_cut: leave images that have exactly the crop's size as they are (ImageNet-9's are published cut).
        resample: NEAREST for masks.
    Returns: uint8 (size_px, size_px, 3), or (size_px, size_px).
    """
    height, width = image_HWC.shape[:2]
    if is_cut and (height, width) == (size_px, size_px):
        return image_HWC
    shorter_px = round(size_px * _RESIZE_RATIO) if shorter_px is None else shorter_px
    # torchvision's rule: the long side is truncated, the offset rounds half to even.
    if height <= width:
        new_height, new_width = shorter_px, int(shorter_px * width / height)
    else:
        new_height, new_width = int(shorter_px * height / width), shorter_px
    resized = Image.fromarray(image_HWC).resize((new_width, new_height), resample)
    return crop_centre(np.asarray(resized), size_px)


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

    starts = range(0, len(images), batch_size)
    rows = [np.arange(start, min(start + batch_size, len(images))) for start in starts]
    prepare_all = functools.partial(prepared_batches, size_px=transform.size_px, mean=transform.mean, std=transform.std)
    for batch in prepare_all(rows, prepared, device=device, title=title):
        yield ImageBatch(
            image_BCHW=batch.image_BCHW,
            label_B=torch.from_numpy(np.asarray(label_N, dtype=np.int64)[batch.row_B]),
            corrupt=tuple(images.keys[row] for row in batch.corrupt_rows),
        )


@dataclass(frozen=True, kw_only=True)
class PreparedBatch:
    """Images of one batch: image_BCHW float32, normalised; row_B int64; corrupt_rows: those without pixels."""

    image_BCHW: Tensor
    row_B: np.ndarray
    corrupt_rows: tuple[int, ...]


def prepared_batches(
    batches: Sequence[np.ndarray],
    prepare: Callable[[int], np.ndarray | None],
    *,
    size_px: int,
    device: torch.device,
    title: str = "",
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Iterator[PreparedBatch]:
    """Yield the batches asked for, with a progress bar; the next is prepared while one is computed on.

    Args:
        batches: rows of each batch, int64 (B,).
        prepare: the pixels of a row, uint8 (size_px, size_px, 3), None where there are none; called in threads.
        size_px: side of the images. device: where the batches are wanted. title: words before the bar.
        mean, std: of the normalisation, of values in 0 .. 1.
    """
    mean_C11 = torch.tensor(mean, device=device)[:, None, None]
    std_C11 = torch.tensor(std, device=device)[:, None, None]
    with (
        ThreadPoolExecutor() as pool,
        stage_bar(total=sum(map(len, batches)), stage=title, unit="img", is_inner=True) as bar,
    ):
        ahead = [pool.submit(prepare, int(row)) for row in batches[0]] if len(batches) else []
        for number, rows in enumerate(batches):
            now = ahead
            ahead = [pool.submit(prepare, int(row)) for row in batches[number + 1]] if number + 1 < len(batches) else []
            images = [future.result() for future in now]
            kept = [image for image in images if image is not None]
            stacked = np.stack(kept) if kept else np.empty((0, size_px, size_px, 3), np.uint8)
            image_BCHW = torch.from_numpy(stacked).to(device).permute(0, 3, 1, 2).float() / 255.0
            is_there_B = np.array([image is not None for image in images], dtype=bool)
            yield PreparedBatch(
                image_BCHW=(image_BCHW - mean_C11) / std_C11,
                row_B=np.asarray(rows, dtype=np.int64)[is_there_B],
                corrupt_rows=tuple(int(row) for row in np.asarray(rows)[~is_there_B]),
            )
            bar.update(len(rows))
