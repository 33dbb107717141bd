"""Only-BG-T of ImageNet-9, pixel by pixel."""

import numpy as np


def tile_fill(image_HWC: np.ndarray, box: tuple[int, int, int, int], min_strip_px: int) -> np.ndarray | None:
    """Tile the whole image with the largest strip beside `box` (top, left, height, width), show it inside the box."""
    height, width, _ = image_HWC.shape
    y0, x0, y1, x1 = box[0], box[1], box[0] + box[2], box[1] + box[3]
    candidates = [(0, y0, 0, width), (y1, height, 0, width), (0, height, 0, x0), (0, height, x1, width)]
    best, best_area = None, 0
    for a, b, c, d in candidates:
        if b - a >= min_strip_px and d - c >= min_strip_px and (b - a) * (d - c) > best_area:
            best, best_area = (a, b, c, d), (b - a) * (d - c)
    if best is None:
        return None
    a, b, c, d = best
    canvas = np.zeros_like(image_HWC)
    for y in range(height):
        for x in range(width):
            canvas[y, x] = image_HWC[a + y % (b - a), c + x % (d - c)]
    out = image_HWC.copy()
    for y in range(y0, y1):
        for x in range(x0, x1):
            out[y, x] = canvas[y, x]
    return out
