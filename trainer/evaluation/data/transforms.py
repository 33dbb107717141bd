"""How the pixels of an image become a network's input, as the evaluations of the papers prepare them.

Legend: H W C rows, columns, channels.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from backdrop.pipeline.views import crops, random_streams
from backdrop.pipeline.views.view_plan import View, ViewPlan
from backdrop.stores.images.imagenet_statistics import IMAGENET_MEAN, IMAGENET_STD

# The shorter side before the crop, per pixel of the crop: 256 for 224.
_RESIZE_RATIO = 256 / 224


@dataclass(frozen=True)
class Transform:
    """Pixels as a network wants them.

    name: recorded beside each score; another name where anything else differs.
    apply: (uint8 RGB (H, W, 3), row) to (size_px, size_px, 3); only what is drawn at random looks at the row.
    mean, std: of the normalisation, of values in 0 .. 1.
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


def standard(size_px: int = 224) -> Transform:
    """The papers' evaluation transform: shorter side to 256/224 of the crop, centre crop (Ryali A.3)."""
    name = f"resize {round(size_px * _RESIZE_RATIO)}, centre crop {size_px}"
    return Transform(name, size_px, _same_for_every_row(functools.partial(resize_and_crop, size_px=size_px)))


def as_published(size_px: int = 224) -> Transform:
    """For images that are published cut: left as they are where they have the size, else the standard transform."""
    name = f"as published at {size_px}, others resized and cropped"
    return Transform(
        name, size_px, _same_for_every_row(functools.partial(resize_and_crop, size_px=size_px, is_cut=True))
    )


def centre_cut(size_px: int = 224) -> Transform:
    """For images that are published resized: the centre crop alone (ImageNet-C's reference script)."""
    return Transform(
        f"centre crop {size_px}", size_px, _same_for_every_row(functools.partial(crop_centre, size_px=size_px))
    )


def framed(border_px: int, size_px: int = 224) -> Transform:
    """For images within a frame: that is cut off, the shorter side resized to the crop's, and the centre cut."""

    def apply(image_HWC: np.ndarray, row: int) -> np.ndarray:
        height, width = image_HWC.shape[:2]
        inner_HWC = image_HWC[border_px : height - border_px, border_px : width - border_px]
        return resize_and_crop(np.ascontiguousarray(inner_HWC), size_px, shorter_px=size_px)

    return Transform(f"frame of {border_px} px cut, resize {size_px}, centre crop {size_px}", size_px, apply)


def resized_to_square(size_px: int, *, is_flipped: bool = False) -> Transform:
    """Resize both sides, whatever the aspect ratio (bilinear, antialias)."""

    def apply(image_HWC: np.ndarray, row: int) -> np.ndarray:
        image = Image.fromarray(image_HWC).resize((size_px, size_px), Image.Resampling.BILINEAR)
        return np.asarray(image)[:, ::-1] if is_flipped else np.asarray(image)

    return Transform(f"resize to {size_px} x {size_px}{', flipped' if is_flipped else ''}", size_px, apply)


def random_resized_crop(size_px: int, *, seed: int, epoch: int) -> Transform:
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

    return Transform(f"random resized crop {size_px} and flip, seed {seed}, epoch {epoch}", size_px, apply)


def _same_for_every_row(apply: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray, int], np.ndarray]:
    return lambda image_HWC, row: apply(image_HWC)


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
