"""Images with boxes, prepared for a detector as detectron2 prepares them, and the order in which it meets them.

Shorter side to a size drawn from a list, longer side at most so long (PIL, bilinear), mirrored or not. Batches hold
images of one orientation, wide or tall, in a shuffled order without end.

Legend: N objects, C H W channels, rows, columns. Boxes here are (left, top, right, bottom) in pixels from the image's
corner, as in `_detection_model`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as rle
from torch import Tensor

from backdrop.errors import ImageError, UserError
from backdrop.pipeline.views import random_streams
from backdrop.pipeline.views.row_order import row_order
from backdrop.settings import at_least, check_settings
from backdrop.stores.images.image_codec import decode_rgb

# Draw numbers of a training image's size, beside those of random_streams.
SHORT_SIDE = 3_000
_LEAST_SIDE_PX = 1e-5  # of a box after resizing; an object below it is left out


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """One image of a detection data set.

    key: names it. height, width: in pixels, as its annotation says. box_N4: float64. class_N: int64, 0 .. K - 1.
    outlines: of each object, polygons (flat lists of x, y) or a COCO RLE; () where the data set has none.
    """

    key: str
    path: Path
    height: int
    width: int
    box_N4: np.ndarray
    class_N: np.ndarray
    outlines: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the images a detector sees, in pixels."""

    train_short_px: Annotated[tuple[int, ...], at_least(1), "Shorter sides to draw from in training"]
    test_short_px: Annotated[int, at_least(1), "Shorter side in testing (MoCo's and VirTex's configurations)"] = 800
    max_long_px: Annotated[int, at_least(1), "The longer side is at most this (detectron2's default)"] = 1333

    def __post_init__(self) -> None:
        check_settings(self, "sizes")
        if not self.train_short_px:
            raise UserError("sizes.train_short_px is empty; give one side or more, e.g. sizes.train_short_px=480,800")

    @property
    def name(self) -> str:
        """What is done to the pixels, for the records."""
        shorter = ", ".join(map(str, self.train_short_px))
        return f"shorter side {self.test_short_px} (training: {shorter}), longer at most {self.max_long_px}, bilinear"


@dataclass(frozen=True)
class Visit:
    """One image's turn: its row, and the number of times all were seen before."""

    epoch: int
    row: int


def resized_size(height: int, width: int, short_px: int, max_long_px: int) -> tuple[int, int]:
    """Height and width with the shorter side at short_px, or with the longer one at max_long_px where that is less."""
    scale = min(short_px / min(height, width), max_long_px / max(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)


def read_pixels(image: LabelledImage) -> np.ndarray:
    """Return uint8 RGB (H, W, 3).

    Raises: ImageError: the file is missing, cannot be decoded, or has not the size that its annotation says.
    """
    try:
        pixels = decode_rgb(image.path.read_bytes())
    except FileNotFoundError as error:
        raise ImageError("is missing") from error
    if pixels.shape[:2] != (image.height, image.width):
        height, width = pixels.shape[:2]
        raise ImageError(f"is {width} x {height} px where its annotation says {image.width} x {image.height}")
    return pixels


def resized(pixels_HWC: np.ndarray, height: int, width: int) -> Tensor:
    """Resize uint8 RGB (H, W, 3) bilinearly, with PIL: uint8 (3, height, width)."""
    image = Image.fromarray(pixels_HWC).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def training_example(
    image: LabelledImage, visit: Visit, sizes: Sizes, *, seed: int, has_masks: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Read and augment one image.

    Args: visit: decides, with the seed, what is drawn. has_masks: whether masks are wanted too.
    Returns: image, uint8 (3, H, W); target as `Detector.forward` wants it, labels from 1.
    Raises: ImageError.
    """
    key = (seed, visit.epoch, visit.row, 0)
    choice = random_streams.integer(*key, SHORT_SIDE, len(sizes.train_short_px))
    height, width = resized_size(image.height, image.width, sizes.train_short_px[choice], sizes.max_long_px)
    is_mirrored = random_streams.uniform(*key, random_streams.FLIP) < 0.5
    pixels = resized(read_pixels(image), height, width)
    box_N4 = image.box_N4 * np.tile([width / image.width, height / image.height], 2)
    box_N4 = box_N4.clip(0, np.tile([width, height], 2))
    is_kept_N = ((box_N4[:, 2:] - box_N4[:, :2]) > _LEAST_SIDE_PX).all(axis=1)
    masks = outlines_as_masks(image, height, width)[is_kept_N] if has_masks else None
    if is_mirrored:
        pixels = pixels.flip(2)
        box_N4[:, [0, 2]] = width - box_N4[:, [2, 0]]
    target = {
        "boxes": torch.from_numpy(box_N4[is_kept_N].astype(np.float32)),
        "labels": torch.from_numpy(image.class_N[is_kept_N]) + 1,
    }
    if masks is not None:
        target["masks"] = torch.from_numpy(masks[:, :, ::-1].copy() if is_mirrored else masks)
    return pixels, target


def outlines_as_masks(image: LabelledImage, height: int, width: int) -> np.ndarray:
    """Draw the objects of an image at another size: uint8 (N, height, width) in {0, 1}, 1 = object."""
    masks = [_as_mask(outline, image, height, width) for outline in image.outlines]
    return np.stack(masks) if masks else np.zeros((0, height, width), np.uint8)


def _as_mask(outline: Any, image: LabelledImage, height: int, width: int) -> np.ndarray:
    if isinstance(outline, list):
        scale = np.array([width / image.width, height / image.height])
        scaled = [(np.reshape(polygon, (-1, 2)) * scale).ravel().tolist() for polygon in outline]
        return rle.decode(rle.merge(rle.frPyObjects(scaled, height, width)))
    packed = outline if isinstance(outline["counts"], str | bytes) else rle.frPyObjects(outline, *outline["size"])
    drawn = Image.fromarray(rle.decode(packed))
    return np.asarray(drawn.resize((width, height), Image.Resampling.NEAREST))


def batches_of_visits(images: Sequence[LabelledImage], batch_size: int, seed: int) -> Iterator[list[Visit]]:
    """Yield batches without end: shuffled anew each epoch, all wide or all tall (or square) ones in a batch."""
    waiting: dict[bool, list[Visit]] = {True: [], False: []}
    epoch = 0
    while True:
        for row in row_order(seed, epoch, len(images)).tolist():
            group = waiting[images[row].width > images[row].height]
            group.append(Visit(epoch, row))
            if len(group) == batch_size:
                yield group.copy()
                group.clear()
        epoch += 1
