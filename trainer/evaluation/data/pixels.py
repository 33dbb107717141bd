"""Where a probe's images come from, files or arrays, and how the pixels of a row are cut for a network.

Legend: N images, H W C rows, columns, channels.
"""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from backdrop.errors import ImageError, UserError
from backdrop.pipeline.views import crops, random_streams
from backdrop.pipeline.views.view_plan import View, ViewPlan
from backdrop.stores.images.image_codec import decode_rgb, sha256
from backdrop.stores.images.imagenet_statistics import IMAGENET_MEAN, IMAGENET_STD
from backdrop.trainer.evaluation.data.images import PreparedBatch, Transform, prepared_batches


class Pixels(Protocol):
    """Images by row. keys: what each is called. identity: hex digest of which images these are."""

    @property
    def keys(self) -> Sequence[str]:
        """What each image is called."""

    @property
    def identity(self) -> str:
        """Hex digest of which images these are."""

    def __len__(self) -> int: ...

    def pixels(self, row: int) -> np.ndarray:
        """Return uint8 RGB (H, W, 3). Raises: ImageError, FileNotFoundError: there are none."""


@dataclass(frozen=True)
class FilePixels:
    """Images in files: `root` and `keys` below it."""

    root: Path
    keys: Sequence[str]

    def __len__(self) -> int:
        return len(self.keys)

    @functools.cached_property
    def identity(self) -> str:
        """Digest of names and sizes."""
        paths = (self.root / key for key in self.keys)
        told = [
            [key, path.stat().st_size if path.is_file() else -1] for key, path in zip(self.keys, paths, strict=True)
        ]
        return sha256(json.dumps(told).encode("utf-8", "surrogateescape")).hex()

    def pixels(self, row: int) -> np.ndarray:
        """Return uint8 RGB (H, W, 3). Raises: ImageError, FileNotFoundError: there are none."""
        return decode_rgb((self.root / self.keys[row]).read_bytes())


@dataclass(frozen=True)
class ArrayPixels:
    """Images in memory. image_NHWC: uint8 RGB (N, H, W, 3)."""

    image_NHWC: np.ndarray

    def __len__(self) -> int:
        return len(self.image_NHWC)

    @functools.cached_property
    def keys(self) -> Sequence[str]:
        """Their numbers."""
        return [str(row) for row in range(len(self))]

    @functools.cached_property
    def identity(self) -> str:
        """Digest of all pixels."""
        return sha256(np.ascontiguousarray(self.image_NHWC).tobytes()).hex()

    def pixels(self, row: int) -> np.ndarray:
        """Return uint8 RGB (H, W, 3)."""
        return self.image_NHWC[row]


@dataclass(frozen=True)
class Cut:
    """How pixels become a network's input.

    name: says how. apply: (uint8 RGB (H, W, 3), row) to (size_px, size_px, 3). mean, std: of the normalisation.
    """

    name: str
    size_px: int
    apply: Callable[[np.ndarray, int], np.ndarray]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @property
    def identity(self) -> str:
        """All that decides the input."""
        return f"{self.name}, mean {self.mean}, std {self.std}"


def fixed(transform: Transform) -> Cut:
    """The same for every row."""
    return Cut(
        transform.name,
        transform.size_px,
        lambda image_HWC, row: transform.apply(image_HWC),
        transform.mean,
        transform.std,
    )


def resized_to_square(size_px: int, *, is_flipped: bool = False) -> Cut:
    """Resize both sides, whatever the aspect ratio (bilinear, antialias). Raises: UserError: no side is left."""
    if size_px < 1:
        raise UserError(f"size_px={size_px} must be 1 or more")

    def apply(image_HWC: np.ndarray, row: int) -> np.ndarray:
        image = Image.fromarray(image_HWC).resize((size_px, size_px), Image.Resampling.BILINEAR)
        return np.asarray(image)[:, ::-1] if is_flipped else np.asarray(image)

    return Cut(f"resize to {size_px} x {size_px}{', flipped' if is_flipped else ''}", size_px, apply)


def random_resized_crop(size_px: int, *, seed: int, epoch: int) -> Cut:
    """torchvision's RandomResizedCrop (area 0.08 to 1) and horizontal flip, as A.3 of Ryali et al. 2021 trains with.

    Every draw is a function of (seed, epoch, row).
    """
    plan = ViewPlan(views=(View(size_px=size_px, scale=(0.08, 1.0)),))

    def apply(image_HWC: np.ndarray, row: int) -> np.ndarray:
        height, width = image_HWC.shape[:2]
        # Nothing is asked of the foreground, so any mask will do.
        whole = crops.foreground(np.full((height, (width + 7) // 8), 255, np.uint8), width, is_located=False)
        (top, left, box_height, box_width), *_ = crops.draw_box(plan, 0, whole, seed=seed, epoch=epoch, row=row)
        box = (left, top, left + box_width, top + box_height)
        cut = Image.fromarray(image_HWC).crop(box).resize((size_px, size_px), Image.Resampling.BILINEAR)
        is_flipped = random_streams.uniform(seed, epoch, row, 0, random_streams.FLIP) < 0.5
        return np.asarray(cut)[:, ::-1] if is_flipped else np.asarray(cut)

    return Cut(f"random resized crop {size_px} and flip, seed {seed}, epoch {epoch}", size_px, apply)


def cut_batches(
    pixels: Pixels, cut: Cut, batches: Sequence[np.ndarray], *, device: torch.device, title: str
) -> Iterator[PreparedBatch]:
    """Yield batches of rows, decoded, cut and normalised; see `_images.prepared_batches`."""

    def prepared(row: int) -> np.ndarray | None:
        try:
            return cut.apply(pixels.pixels(row), row)
        except (ImageError, FileNotFoundError):
            return None

    return prepared_batches(
        batches, prepared, size_px=cut.size_px, device=device, title=title, mean=cut.mean, std=cut.std
    )
