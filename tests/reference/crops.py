"""Constrained crops restated with loops and float64, one try after the other; boxes are (top, left, height, width)."""

import math
from itertools import count

import numpy as np

from backdrop.pipeline.views import random_streams as streams

MAX_TRIES = 10


def foreground_in(mask_HW, box):
    top, left, height, width = box
    return sum(int(mask_HW[y, x]) for y in range(top, top + height) for x in range(left, left + width))


def centre_crop(height, width, aspect_low, aspect_high):
    """torchvision's fallback."""
    box_height, box_width = height, width
    if width / height < aspect_low:
        box_height = round(width / aspect_low)
    elif width / height > aspect_high:
        box_width = round(height * aspect_high)
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def truncated_normal(u, mean, sigma, low, high):
    """By bisection of the distribution function."""

    def cdf(x):
        return 0.5 * (1.0 + math.erf((x - mean) / sigma / math.sqrt(2.0)))

    target = cdf(low) + u * (cdf(high) - cdf(low))
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if cdf(middle) < target else (low, middle)
    return 0.5 * (low + high)


def position(u, side, box_side, centroid, proposal):
    if proposal == "uniform":
        return int(u * (side - box_side + 1))
    middle = truncated_normal(u, centroid, side, box_side / 2, side - box_side / 2)
    return min(max(math.floor(middle - box_side / 2 + 0.5), 0), side - box_side)


def draw_box(mask_HW, *, key, scale, aspect_ratio, min_foreground, proposal="uniform", fallback="center", pair=None):
    """Returns (box, tries, is_fallback). key: (seed, epoch, row, view)."""
    height, width = mask_HW.shape
    total = int(mask_HW.sum())
    ys, xs = np.nonzero(mask_HW)
    centroid = (ys.mean() + 0.5, xs.mean() + 0.5) if total else (height / 2, width / 2)
    wanted = min_foreground if total else 0.0
    if total and proposal == "centroid":
        wanted = min(wanted, scale[0] * height * width / total)
    candidates = []
    for attempt in range(MAX_TRIES):
        box = sampled_box(height, width, key, attempt, scale, aspect_ratio, centroid, proposal)
        inside = foreground_in(mask_HW, box)
        is_met = inside >= wanted * total
        if pair is not None and wanted > 0 and foreground_in(mask_HW, pair) > 0:
            shared = foreground_in(mask_HW * box_mask(mask_HW.shape, box), pair)
            is_met = is_met and shared >= wanted * foreground_in(mask_HW, pair)
        if is_met:
            return box, attempt + 1, False
        candidates.append((inside, -attempt, box))
    if fallback == "best":
        return max(candidates)[2], MAX_TRIES, True
    if fallback == "bbox" and total:
        return grown_box(ys, xs, height, width, key, aspect_ratio), MAX_TRIES, True
    return centre_crop(height, width, *aspect_ratio), MAX_TRIES, True


def sampled_box(height, width, key, attempt, scale, aspect_ratio, centroid, proposal):
    """RandomResizedCrop's loop: the first of ten proposals that fits, or the centre."""
    first = [streams.CROP + 4 * attempt]
    for draw in first + [streams.CROP_AGAIN + 4 * (10 * attempt + again) for again in range(9)]:
        u = [streams.uniform(*key, draw + k) for k in range(4)]
        area = (scale[0] + u[0] * (scale[1] - scale[0])) * height * width
        aspect = math.exp(math.log(aspect_ratio[0]) + u[1] * (math.log(aspect_ratio[1]) - math.log(aspect_ratio[0])))
        w, h = math.floor(math.sqrt(area * aspect) + 0.5), math.floor(math.sqrt(area / aspect) + 0.5)
        if 0 < w <= width and 0 < h <= height:
            top = position(u[2], height, h, centroid[0], proposal)
            return top, position(u[3], width, w, centroid[1], proposal), h, w
    return centre_crop(height, width, *aspect_ratio)


def box_mask(shape, box):
    top, left, height, width = box
    inside = np.zeros(shape, dtype=np.uint8)
    inside[top : top + height, left : left + width] = 1
    return inside


def grown_box(ys, xs, height, width, key, aspect_ratio):
    """The object's box with a random margin to each side, then the longer side trimmed around the object's middle."""
    u = [streams.uniform(*key, streams.CROP + 4 * MAX_TRIES + k) for k in range(4)]
    top = ys.min() - int(u[0] * (ys.min() + 1))
    left = xs.min() - int(u[1] * (xs.min() + 1))
    bottom = ys.max() + 1 + int(u[2] * (height - ys.max()))
    right = xs.max() + 1 + int(u[3] * (width - xs.max()))
    h, w = bottom - top, right - left
    if w / h < aspect_ratio[0]:
        new = max(1, math.floor(w / aspect_ratio[0] + 0.5))
        top, h = trim(top, h, new, ys.min(), ys.max() + 1 - ys.min()), new
    elif w / h > aspect_ratio[1]:
        new = max(1, math.floor(h * aspect_ratio[1] + 0.5))
        left, w = trim(left, w, new, xs.min(), xs.max() + 1 - xs.min()), new
    return int(top), int(left), int(h), int(w)


def trim(start, length, new_length, object_start, object_length):
    """The start whose middle is nearest to the object's, found by trying all (halves towards zero position)."""
    wanted = object_start + (object_length - new_length) // 2
    return next(
        at for distance in count() for at in (wanted - distance, wanted + distance)
        if start <= at <= start + length - new_length
    )  # fmt: skip
