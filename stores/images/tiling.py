"""Filling a box with the image's own background: the Only-BG-T construction of ImageNet-9.

Xiao et al. 2021, "Noise or Signal" (arXiv:2006.09994), appendix A: the largest strip beside the foreground's bounding
box, horizontal or vertical, tiles the whole image; the box is filled with what the tiled image shows there. Left open
there, and chosen here: largest = by area; ties go to the first of top, bottom, left, right; the tiling begins at the
image's top-left corner; no flips.

Masks are uint8 in {0, 1}, 1 = foreground. Boxes are (top, left, height, width) in pixels, half-open.
"""

import numpy as np

Box = tuple[int, int, int, int]


def bounding_box(mask_HW: np.ndarray) -> Box:
    """The smallest box around the foreground of mask_HW (uint8, 1 = foreground), which must have some."""
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    assert rows.size, "a mask without foreground has no box"
    top, left = int(rows[0]), int(columns[0])
    return top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left


def inside(box: Box) -> tuple[slice, slice]:
    """The rows and columns of a box, to index arrays with."""
    top, left, height, width = box
    return slice(top, top + height), slice(left, left + width)


def strips_beside(box: Box, height: int, width: int) -> list[Box]:
    """The four strips beside a box, each across the whole image of `height` x `width` px: above, below, left, right."""
    top, left, box_height, box_width = box
    bottom, right = top + box_height, left + box_width
    return [
        (0, 0, top, width),
        (bottom, 0, height - bottom, width),
        (0, 0, height, left),
        (0, right, height, width - right),
    ]


def largest_strip(strips: list[Box], min_thickness_px: int) -> Box | None:
    """The strip of largest area, the first of equals, among those thick enough; None where there is none."""
    thick = [strip for strip in strips if min(strip[2], strip[3]) >= min_thickness_px]
    return max(thick, key=lambda strip: strip[2] * strip[3], default=None)


def fill_box(target_HWC: np.ndarray, box: Box, image_HWC: np.ndarray, strip: Box) -> None:
    """Overwrite `box` of the target by what the image tiled with `strip` from its top-left corner shows there.

    Args:
        target_HWC: uint8, changed in place.
        box: where to write.
        image_HWC: uint8, of the target's shape; a different array.
        strip: the box of the image that is repeated.
    """
    tile_HWC = image_HWC[inside(strip)]
    bottom, right = box[0] + box[2], box[1] + box[3]
    # Tile by tile: copying rows of pixels is 50 times faster than gathering single ones.
    for top in _tile_edges(box[0], bottom, strip[2]):
        rows = min(strip[2] - top % strip[2], bottom - top)
        for left in _tile_edges(box[1], right, strip[3]):
            columns = min(strip[3] - left % strip[3], right - left)
            phase = inside((top % strip[2], left % strip[3], rows, columns))
            target_HWC[top : top + rows, left : left + columns] = tile_HWC[phase]


def _tile_edges(begin: int, end: int, period: int) -> list[int]:
    """`begin`, and every multiple of `period` after it and before `end`."""
    return [begin, *range((begin // period + 1) * period, end, period)]
