"""Small pictures for pages: overlays on photographs, and their encoding.

Masks are uint8 {0, 1}, 1 = foreground. Boxes are (top, left, height, width) in pixels, half-open.
"""

import base64
import html

import cv2
import numpy as np

from backdrop.stores.images.image_codec import encode_jpeg

THUMBNAIL_PX = 240
# One colour per global view, told apart also by the colour-blind (Okabe and Ito 2008); local views share the last.
VIEW_COLOURS = ((230, 159, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167))
LOCAL_COLOUR = (200, 200, 200)
_CONTOUR_COLOUR = (240, 228, 66)
_DARKENED = np.arange(256, dtype=np.uint8) // 5 * 2
_JPEG_QUALITY = 82


def thumbnail(image_HWC: np.ndarray, side_px: int = THUMBNAIL_PX) -> np.ndarray:
    """Scale an image so that its longer side is `side_px` (never up); uint8 (H, W, 3) to uint8 (h, w, 3)."""
    height, width = image_HWC.shape[:2]
    scale = min(1.0, side_px / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image_HWC, size, interpolation=cv2.INTER_AREA)


def with_boxes(
    image_HWC: np.ndarray, boxes: list[tuple[int, int, int, int]], colours: list[tuple[int, int, int]]
) -> np.ndarray:
    """Draw boxes on a thumbnail of an image.

    Args: image_HWC: uint8 RGB. boxes: in its pixels. colours: RGB, one per box.
    Returns: uint8 RGB thumbnail.
    """
    small_HWC = thumbnail(image_HWC)
    scale_y, scale_x = small_HWC.shape[0] / image_HWC.shape[0], small_HWC.shape[1] / image_HWC.shape[1]
    for (top, left, height, width), colour in zip(boxes, colours, strict=True):
        first = (round(left * scale_x), round(top * scale_y))
        last = (round((left + width) * scale_x) - 1, round((top + height) * scale_y) - 1)
        cv2.rectangle(small_HWC, first, last, (20, 20, 20), 4)
        cv2.rectangle(small_HWC, first, last, colour, 2)
    return small_HWC


def with_contour(
    image_HWC: np.ndarray, mask_HW: np.ndarray, side_px: int = THUMBNAIL_PX, line_px: int = 2
) -> np.ndarray:
    """Darken the background on a thumbnail and draw the foreground's outline; uint8 RGB.

    A small picture is enlarged first: a line of two pixels would cover the objects of a view of 32.
    """
    scale = side_px / max(image_HWC.shape[:2])
    if scale > 1:
        height, width = (round(side * scale) for side in image_HWC.shape[:2])
        image_HWC = cv2.resize(image_HWC, (width, height), interpolation=cv2.INTER_CUBIC)
    small_HWC = thumbnail(image_HWC, side_px)
    height, width = small_HWC.shape[:2]
    small_mask_HW = cv2.resize(mask_HW, (width, height), interpolation=cv2.INTER_NEAREST)
    dark_HWC = cv2.LUT(small_HWC, _DARKENED)
    small_HWC = cv2.copyTo(small_HWC, small_mask_HW, dark_HWC)
    contours, _ = cv2.findContours(small_mask_HW, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(small_HWC, contours, -1, _CONTOUR_COLOUR, line_px)
    return small_HWC


def with_heat(image_HWC: np.ndarray, map_HW: np.ndarray) -> np.ndarray:
    """Lay a map over the grey version of a picture: blue to red is low to high (OpenCV's "turbo"); uint8 RGB.

    Args: image_HWC: uint8 RGB. map_HW: float (H, W), [0, 1].
    """
    colour_HWC = cv2.applyColorMap((map_HW * 255).round().astype(np.uint8), cv2.COLORMAP_TURBO)[:, :, ::-1]
    grey_HWC = grey_to_rgb(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY))
    return (grey_HWC // 2 + colour_HWC // 2).astype(np.uint8)


def grey_to_rgb(grey_HW: np.ndarray) -> np.ndarray:
    """Return a grey picture in three channels; uint8 (H, W) to uint8 (H, W, 3)."""
    return np.repeat(grey_HW[:, :, None], 3, axis=2)


def img(image_HWC: np.ndarray, alternative: str) -> str:
    """Return an <img> element that holds its picture.

    Args: image_HWC: uint8 RGB. alternative: what it shows, for those who cannot see it.
    """
    data = base64.b64encode(encode_jpeg(np.ascontiguousarray(image_HWC), _JPEG_QUALITY)).decode("ascii")
    height, width = image_HWC.shape[:2]
    return (
        f'<img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" loading="lazy" '
        f'alt="{html.escape(alternative)}">'
    )
