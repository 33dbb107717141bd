"""Numba kernels: how large and where a foreground is put on another background, and what a view of that shows of it.

ForNet pastes the cut-out foreground onto the whole background and crops then. Neither is made here: a box of the
composite is a box of the background and, by shift and scale, a box of the image that the foreground comes from, which
may reach beyond that image. Both are cut as all views are; the mask says which of the two a pixel shows.

An object is the bounding box of a foreground, an interval (start, length) along each axis, in whole pixels.
"""

import math

from backdrop.kernels import follow_sources, kernel
from backdrop.pipeline.views import view_plan
from backdrop.pipeline.views.view_plan import OBJECT_SIZES

MEAN, MAX, MIN, KEEP = (OBJECT_SIZES.index(name) for name in ("mean", "max", "min", "keep"))  # the other is "range"


@kernel
def wanted_fraction(own: float, donors: float, rule: int, jitter: float, u: float) -> float:
    """Return the share of the background that a foreground is to cover.

    A donor that had no object (ForNet's all have one) says nothing of sizes: the foreground's own share counts alone.

    own, donors: shares that the foreground covers of its image and the donor's object of its. rule: place in
    OBJECT_SIZES. jitter: of both ends, in [0, 1). u: uniform number.
    """
    smaller, larger = min(own, donors), max(own, donors)
    if rule == KEEP or donors <= 0.0:
        smaller, larger = own, own
    low, high = smaller, larger
    if rule == MEAN:
        low, high = 0.5 * (smaller + larger), 0.5 * (smaller + larger)
    elif rule == MAX:
        low = larger
    elif rule == MIN:
        high = smaller
    low, high = low * (1.0 - jitter), high * (1.0 + jitter)
    return low + (high - low) * u


@kernel
def placed_length(box_area: float, length: int, other_length: int) -> int:
    """Return how long an object becomes along one axis so that its box has an area, its aspect kept; 1 at least.

    box_area: wanted, in pixels of the background. length, other_length: of the object along this axis and the other.
    """
    return max(math.floor(math.sqrt(box_area * length / other_length) + 0.5), 1)


@kernel
def placed_start(z: float, length: int, side: int) -> int:
    """Return where an object begins: z of the way from one end of the background to the other, wholly inside.

    One that is longer than the background covers all of it; z then says which part is seen. z: in [0, 1].
    """
    return math.floor(z * (side - length) + 0.5)


@kernel
def kept_start(start: int, length: int, side: int, new_length: int, new_side: int) -> int:
    """Return where an object begins whose middle stays where it was, as a share of the side, then moved inside."""
    wanted = math.floor((start + 0.5 * length) / side * new_side - 0.5 * new_length + 0.5)
    room = new_side - new_length
    return min(max(wanted, min(room, 0)), max(room, 0))


@kernel
def place_in_image(at: int, start: int, length: int, own_start: int, own_length: int) -> int:
    """Return the row (or column) of the image that a place on the background shows, to the nearest; any integer.

    at: on the background. start, length: of the object there. own_start, own_length: of the object in its image.
    """
    return own_start + (2 * (at - start) * own_length + length) // (2 * length)


@kernel
def largest_edge_sigma_px(share: float, size_px: int, scale_low: float) -> float:
    """Return the largest sigma of a soft edge in pixels of a view: that of a square background's smallest crop.

    share: of the background's longer side. size_px: side of the view. scale_low: least share of the area in a crop.
    """
    return share * size_px / math.sqrt(scale_low)


follow_sources(__name__, view_plan)
