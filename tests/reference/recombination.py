"""ForNet's recombination restated with loops and float64: size, place, crop of the composite, soft edge.

Boxes are (top, left, height, width). The composite is never made by what is tested; here it is asked pixel by pixel.
"""

import math

import numpy as np

from backdrop.pipeline.views import random_streams as streams
from tests.reference import crops

MAX_TRIES = 10


def object_box(mask_HW):
    """The box around the foreground."""
    ys, xs = np.nonzero(mask_HW)
    return int(ys.min()), int(xs.min()), int(ys.max() - ys.min() + 1), int(xs.max() - xs.min() + 1)


def wanted_share(own, donors, rule, jitter, u):
    """U(lo (1 - j), hi (1 + j)), lo and hi by the rule; a donor without an object is not asked."""
    pair = [own, donors] if donors > 0 else [own, own]
    ends = {"range": (min(pair), max(pair)), "mean": (sum(pair) / 2,) * 2, "max": (max(pair),) * 2,
            "min": (min(pair),) * 2, "keep": (own, own)}[rule]  # fmt: skip
    low, high = ends[0] * (1 - jitter), ends[1] * (1 + jitter)
    return low + u * (high - low)


def bates(key, draw, n):
    """Mean of |n| uniform numbers; for n < 0 folded so that the middle becomes the ends."""
    if n == 0:
        return 0.5
    z = sum(streams.uniform(*key, draw + k) for k in range(abs(n))) / abs(n)
    return (z + 0.5) % 1.0 if n < 0 else z


def placed_box(mask_HW, donors_share, size, settings, key):
    """Where the foreground's box comes to lie on a background of a size. key: (seed, epoch, row, view)."""
    height, width = size
    top, left, own_height, own_width = object_box(mask_HW)
    own = mask_HW.sum() / mask_HW.size
    fill = mask_HW.sum() / (own_height * own_width)
    share = wanted_share(own, donors_share, settings.size, settings.size_jitter,
                         streams.uniform(*key, streams.OBJECT_AREA))  # fmt: skip
    box_area = share / fill * height * width
    new_height = max(1, math.floor(math.sqrt(box_area * own_height / own_width) + 0.5))
    new_width = max(1, math.floor(math.sqrt(box_area * own_width / own_height) + 0.5))
    places = []
    for start, length, side, new_length, new_side, draw in (
        (top, own_height, mask_HW.shape[0], new_height, height, streams.OBJECT_ROW),
        (left, own_width, mask_HW.shape[1], new_width, width, streams.OBJECT_COLUMN),
    ):
        room = new_side - new_length
        if settings.place == "keep":
            wanted = math.floor((start + length / 2) / side * new_side - new_length / 2 + 0.5)
            places.append(min(max(wanted, min(room, 0)), max(room, 0)))
        else:
            places.append(math.floor(bates(key, draw, settings.bates) * room + 0.5))
    return places[0], places[1], new_height, new_width


def shown_of_image(box, placed, own):
    """The box of the image whose pixels the composite has in a box of its own, to the nearest pixel."""
    ends = []
    for axis in (0, 1):
        scale = own[axis + 2] / placed[axis + 2]
        first = math.floor(own[axis] + (box[axis] - placed[axis]) * scale + 0.5)
        end = math.floor(own[axis] + (box[axis] + box[axis + 2] - placed[axis]) * scale + 0.5)
        ends.append((first, max(end - first, 1)))
    (top, height), (left, width) = ends
    return top, left, height, width


def foreground_in(mask_HW, box):
    """Foreground pixels of the image inside a box that may reach beyond it."""
    top, left, height, width = box
    return sum(
        int(mask_HW[y, x])
        for y in range(max(top, 0), min(top + height, mask_HW.shape[0]))
        for x in range(max(left, 0), min(left + width, mask_HW.shape[1]))
    )


def draw_view(mask_HW, view, settings, donors_share, size, *, key, common_key):
    """Return what is drawn of a recombined view whose proposals are uniform and whose fallback is the centre.

    settings: an `ObjectPlacement`. common_key: of what query and key may share.
    """
    own = object_box(mask_HW)
    placed = placed_box(mask_HW, donors_share, size, settings, common_key)
    visible = foreground_in(mask_HW, shown_of_image((0, 0, *size), placed, own))
    for attempt in range(MAX_TRIES):
        box = crops.sampled_box(*size, key, attempt, view.scale, view.aspect_ratio, (0.0, 0.0), "uniform")
        shown = shown_of_image(box, placed, own)
        if foreground_in(mask_HW, shown) >= view.min_foreground * visible:
            break
    else:
        box = crops.centre_crop(*size, *view.aspect_ratio)
        shown = shown_of_image(box, placed, own)
    low, high = settings.edge_sigma
    share = low + (high - low) * streams.uniform(*common_key, streams.OBJECT_EDGE)
    sigma_px = share * max(size) * view.size_px / math.sqrt(box[2] * box[3])
    pixel_px = view.size_px / math.sqrt(shown[2] * shown[3])
    sigma_px = max(sigma_px, 0.5 * pixel_px) if pixel_px > 1 else sigma_px
    sigma_px = min(sigma_px, high * view.size_px / math.sqrt(view.scale[0]))
    return {"donor_box": box, "box": shown, "edge_sigma_px": sigma_px,
            "foreground_fraction": foreground_in(mask_HW, shown) / mask_HW.sum()}  # fmt: skip


def opacity(mask_HW, sigma_px, reach):
    """max(0, 2 b - 1) inside the mask, b the mask blurred by a Gaussian of so many taps to either side, reflected."""
    if sigma_px <= 0:
        return mask_HW.astype(float)
    weights = [math.exp(-0.5 * (k / sigma_px) ** 2) for k in range(-reach, reach + 1)]
    height, width = mask_HW.shape
    result = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            total = 0.0
            for dy, weight_y in zip(range(-reach, reach + 1), weights, strict=True):
                for dx, weight_x in zip(range(-reach, reach + 1), weights, strict=True):
                    total += weight_y * weight_x * mask_HW[_reflected(y + dy, height), _reflected(x + dx, width)]
            blurred = total / sum(weights) ** 2
            result[y, x] = max(0.0, 2 * blurred - 1) if mask_HW[y, x] else 0.0
    return result


def _reflected(at, size):
    at = abs(at)
    return at if at < size else 2 * (size - 1) - at
