"""The eight foreground-background variants of ImageNet-9, made from images and their true masks.

Xiao et al. 2021, "Noise or Signal" (arXiv:2006.09994), section 2 and appendix A. There the foregrounds come from
GrabCut; here masks are given. Masks are uint8 in {0, 1}, 1 = foreground.
"""

from collections.abc import Callable

import numpy as np

from backdrop.stores.images.tiling import bounding_box, fill_box, inside, largest_strip, strips_beside

NAMES = ("original", "only_fg", "no_fg", "mixed_same", "mixed_rand", "mixed_next", "only_bg_b", "only_bg_t")


def make_variant(name: str, image_HWC: np.ndarray, mask_HW: np.ndarray, donor: Callable[[], np.ndarray]) -> np.ndarray:
    """One variant of one image.

    Args:
        name: one of `NAMES`.
        image_HWC: uint8 RGB.
        mask_HW: uint8, 1 = foreground, with some foreground and some background beside its box.
        donor: gives the tiled background (uint8 HWC, as `tiled_background` makes it, same shape) of another image: of
            the same class for mixed_same, of any for mixed_rand, of the next class for mixed_next. Not called for the
            others.

    Returns:
        uint8 RGB, of the image's shape.
    """
    foreground_HW1 = mask_HW[..., None].astype(bool)
    match name:
        case "original":
            return image_HWC
        case "only_fg":
            return np.where(foreground_HW1, image_HWC, 0).astype(np.uint8)
        case "no_fg":
            return np.where(foreground_HW1, 0, image_HWC).astype(np.uint8)
        case "mixed_same" | "mixed_rand" | "mixed_next":
            return np.where(foreground_HW1, image_HWC, donor())
        case "only_bg_b":
            blacked_HWC = image_HWC.copy()
            blacked_HWC[inside(bounding_box(mask_HW))] = 0
            return blacked_HWC
        case "only_bg_t":
            return tiled_background(image_HWC, mask_HW)
    raise AssertionError(name)


def tiled_background(image_HWC: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """Only-BG-T: the image with the box of its foreground filled from the largest strip beside it; uint8 RGB."""
    box = bounding_box(mask_HW)
    strip = largest_strip(strips_beside(box, *mask_HW.shape), 1)
    assert strip is not None, "the foreground's box covers the whole image"
    filled_HWC = image_HWC.copy()
    fill_box(filled_HWC, box, image_HWC, strip)
    return filled_HWC


def can_be_tiled(mask_HW: np.ndarray) -> bool:
    """Whether a mask has foreground, and background beside its box to fill it from: all variants can be made."""
    return bool(mask_HW.any()) and largest_strip(strips_beside(bounding_box(mask_HW), *mask_HW.shape), 1) is not None


def choose_donor(rng: np.random.Generator, variant: str, row: int, class_N: np.ndarray, num_classes: int) -> int | None:
    """Choose the image whose background a mixed variant takes.

    Args:
        rng: where the choice comes from.
        variant: one of `NAMES`; mixed_same stays in the image's class, mixed_next takes the one after it, every other
            draws a class.
        row: the image's.
        class_N: int, class of every image, 0 .. num_classes - 1.
        num_classes: some may have no image.

    Returns:
        another row; None where the class has no other.
    """
    own = int(class_N[row])
    drawn = int(rng.integers(num_classes))
    chosen = {"mixed_same": own, "mixed_next": (own + 1) % num_classes}.get(variant, drawn)
    rows = np.flatnonzero(class_N == chosen)
    others = rows[rows != row]
    return int(rng.choice(others)) if others.size else None
