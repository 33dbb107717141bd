"""An image without its foreground: the background it can lend to other images.

`tile` is the Only-BG-T construction of ImageNet-9 (`stores/images/tiling.py`), with guards for the masks of a detector:
Ryali et al. 2021 (section 2.2) make their backgrounds "by filling in the foreground information using the surrounding
background" and say no more. `telea` and `ns` are OpenCV's inpaintings, kept for comparison: no repeating texture, but
they smear over large holes.

Masks are uint8 in {0, 1}, 1 = foreground. Boxes are (top, left, height, width) in pixels, half-open.
"""

import cv2
import numpy as np

from backdrop.errors import UserError
from backdrop.stores.images.image_codec import encode_jpeg
from backdrop.stores.images.tiling import Box, bounding_box, fill_box, inside, largest_strip, strips_beside

ALGORITHM_VERSION = 1

FILLS = ("tile", "telea", "ns")
# Beyond these the fill would show next to nothing of the image: such a row lends no background.
MAX_BOX_FRACTION = 0.9
MIN_STRIP_PX = 8
# Of a strip beside the largest component, where the box around all components leaves no strip.
MAX_FOREGROUND_IN_STRIP_FRACTION = 0.01
INPAINT_DILATION_PX = 3
INPAINT_RADIUS_PX = 3


def parameters(fill: str) -> dict:
    """What decides the pixels of a fill, for the identity of a store."""
    if fill == "tile":
        chosen: dict = {
            "max_box_fraction": MAX_BOX_FRACTION,
            "min_strip_px": MIN_STRIP_PX,
            "max_foreground_in_strip_fraction": MAX_FOREGROUND_IN_STRIP_FRACTION,
        }
    else:
        chosen = {"dilation_px": INPAINT_DILATION_PX, "radius_px": INPAINT_RADIUS_PX, "max_fraction": MAX_BOX_FRACTION}
    return {"fill": fill, "algorithm_version": ALGORITHM_VERSION, **chosen}


def encode_background(image_HWC: np.ndarray, mask_HW: np.ndarray, fill: str, max_side_px: int, quality: int) -> bytes:
    """The background of an image as the store keeps it.

    The image is shrunk first: inpainting costs 200 ms at 500 x 375 and a quarter of that at half the side.

    Args:
        image_HWC: uint8 RGB.
        mask_HW: uint8, 1 = foreground.
        fill: one of `FILLS`.
        max_side_px: longest side of the result; larger images are scaled down, none is scaled up.
        quality: of the JPEG.

    Returns:
        A JPEG; b"" where the row cannot lend its background.
    """
    background_HWC = fill_background(*shrink(image_HWC, mask_HW, max_side_px), fill)
    return b"" if background_HWC is None else encode_jpeg(background_HWC, quality)


def shrink(image_HWC: np.ndarray, mask_HW: np.ndarray, max_side_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale an image and its mask down to a longest side; a pixel with any foreground in it becomes foreground."""
    height, width = mask_HW.shape
    scale = max_side_px / max(height, width)
    if scale >= 1:
        return image_HWC, mask_HW
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small_HW = cv2.resize(mask_HW.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return cv2.resize(image_HWC, size, interpolation=cv2.INTER_AREA), (small_HW > 0).astype(np.uint8)


def fill_background(image_HWC: np.ndarray, mask_HW: np.ndarray, fill: str = "tile") -> np.ndarray | None:
    """Fill the foreground of an image from its background.

    Args:
        image_HWC: uint8 RGB.
        mask_HW: uint8, 1 = foreground; without any foreground the image itself is its background.
        fill: "tile", "telea" or "ns".

    Returns:
        background_HWC, uint8 RGB; None where too little background is left, or the image is too small, to lend one.

    Raises:
        UserError: an unknown fill.
    """
    assert image_HWC.shape == (*mask_HW.shape, 3), (image_HWC.shape, mask_HW.shape)
    if fill not in FILLS:
        raise UserError(f"no background fill {fill!r}; there are {', '.join(FILLS)}")
    if min(mask_HW.shape) < MIN_STRIP_PX:
        return None
    if not mask_HW.any():
        return image_HWC.copy()
    return _tile(image_HWC, mask_HW) if fill == "tile" else _inpaint(image_HWC, mask_HW, fill)


def _tile(image_HWC: np.ndarray, mask_HW: np.ndarray) -> np.ndarray | None:
    box = bounding_box(mask_HW)
    strip = _usable_strip(box, mask_HW.shape, strips_beside(box, *mask_HW.shape))
    if strip is None:
        return _tile_around_largest_component(image_HWC, mask_HW)
    filled_HWC = image_HWC.copy()
    fill_box(filled_HWC, box, image_HWC, strip)
    return filled_HWC


def _tile_around_largest_component(image_HWC: np.ndarray, mask_HW: np.ndarray) -> np.ndarray | None:
    """Tile where the box around everything is too large, because of a far speck, say.

    The strip then lies beside the largest component's box, must be free of foreground itself, and also fills the
    foreground outside that box, pixel by pixel. Our choice: ImageNet-9 admits only images with one box.
    """
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask_HW, connectivity=8)
    left, top, width, height, _ = (int(value) for value in stats[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())])
    box = (top, left, height, width)
    strips = [strip for strip in strips_beside(box, *mask_HW.shape) if _is_background(mask_HW[inside(strip)])]
    strip = _usable_strip(box, mask_HW.shape, strips)
    if strip is None:
        return None
    canvas_HWC = np.empty_like(image_HWC)
    fill_box(canvas_HWC, (0, 0, *mask_HW.shape), image_HWC, strip)
    filled_HWC = np.where(mask_HW[..., None], canvas_HWC, image_HWC)
    filled_HWC[inside(box)] = canvas_HWC[inside(box)]
    return filled_HWC


def _usable_strip(box: Box, shape: tuple[int, ...], strips: list[Box]) -> Box | None:
    """The largest of the strips beside a box; None where none is thick enough, or the box is too large."""
    if box[2] * box[3] >= MAX_BOX_FRACTION * shape[0] * shape[1]:
        return None
    return largest_strip(strips, MIN_STRIP_PX)


def _is_background(mask_HW: np.ndarray) -> bool:
    return mask_HW.size > 0 and float(mask_HW.mean()) <= MAX_FOREGROUND_IN_STRIP_FRACTION


def _inpaint(image_HWC: np.ndarray, mask_HW: np.ndarray, fill: str) -> np.ndarray | None:
    """OpenCV's inpainting; the mask is dilated first, for its rim still shows the object's colours."""
    side = 2 * INPAINT_DILATION_PX + 1
    hole_HW = cv2.dilate(mask_HW, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    if hole_HW.mean() >= MAX_BOX_FRACTION:
        return None
    method = cv2.INPAINT_TELEA if fill == "telea" else cv2.INPAINT_NS
    return cv2.inpaint(image_HWC, hole_HW, INPAINT_RADIUS_PX, method)
