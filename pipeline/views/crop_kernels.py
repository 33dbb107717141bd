"""Numba kernels of the crop sampler; `crops.py` is the interface, checks and documents.

Masks are rows of 64-bit words, leftmost pixel in the highest bit, each row padded with zeros to whole words: the
foreground inside a box is a few population counts per row. Every draw comes from `random_streams`.
"""

import math
from typing import NamedTuple

import numpy as np

from backdrop.kernels import follow_sources, kernel
from backdrop.pipeline.views import placement_kernels as placement
from backdrop.pipeline.views import random_streams as streams
from backdrop.pipeline.views import view_plan
from backdrop.pipeline.views.view_plan import (
    BACKGROUND_VIEWS,
    CENTRE_CROP_SHARE,
    CROP_FALLBACKS,
    CROP_PROPOSALS,
    MAX_CROP_TRIES,
    PAIR_DRAWS,
)

CENTROID = CROP_PROPOSALS.index("centroid")
CENTER, BBOX, BEST = (CROP_FALLBACKS.index(name) for name in ("center", "bbox", "best"))
GLOBAL_VIEWS, QUERY_VIEW, KEY_VIEW, ALL_VIEWS = (
    BACKGROUND_VIEWS.index(name) for name in ("global", "query", "key", "all")
)
INDEPENDENT, COUPLED, SAME = (PAIR_DRAWS.index(name) for name in ("independent", "coupled", "same"))
NUM_JITTER_ORDERS = 24
DRAWS_PER_TRY = 4

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_M1 = np.uint64(0x5555555555555555)
_M2 = np.uint64(0x3333333333333333)
_M4 = np.uint64(0x0F0F0F0F0F0F0F0F)
_SUM = np.uint64(0x0101010101010101)


class Stream(NamedTuple):
    """The key of everything drawn for one view."""

    seed: int
    epoch: int
    row: int
    view_number: int  # numba keeps the name `view` of a field for itself


class Box(NamedTuple):
    """Half-open pixels; height 0 = no box."""

    top: int
    left: int
    height: int
    width: int


class Foreground(NamedTuple):
    """A mask and what is known of it; box and centroid are filled where the plan needs them."""

    words: np.ndarray  # uint64 (H, ceil(W / 64))
    height: int
    width: int
    count: int  # type: ignore[assignment]  # tuple has a method of that name
    box: Box
    centre_y: float
    centre_x: float


class Donors(NamedTuple):
    """The rows that lend a background: sorted row numbers, and the sizes of their backgrounds in pixels."""

    row: np.ndarray  # int32 (N,)
    height: np.ndarray  # uint16 (N,)
    width: np.ndarray  # uint16 (N,)
    fraction: np.ndarray  # float64 (N,), share of the image that its foreground covers; (0,) where no plan asks for it


class Canvas(NamedTuple):
    """Where boxes are drawn: on the image itself, or on another background with the image's foreground on it."""

    is_moved: bool
    own: Box  # of the foreground in the image
    placed: Box  # of the foreground on the background
    image_height: int
    image_width: int


class PlanCode(NamedTuple):
    """What a `ViewPlan` says of all its views, as numbers; the probabilities are those of the epoch."""

    proposal: int
    fallback: int
    pair_constraint: bool
    has_background: bool
    needs_donor: bool
    has_negative: bool
    background_probability: float
    negative_probability: float
    applies_to: int
    pair_draw: int
    is_negative_coupled: bool
    is_before: bool
    mask_rotation_degrees: float
    mask_shear_degrees: float
    mask_shift_fraction: float
    mask_flip_probability: float
    moves_foreground: bool
    object_size: int
    object_size_jitter: float
    keeps_place: bool
    object_bates: int
    edge_sigma_low: float
    edge_sigma_high: float


@kernel
def _uniform(stream: Stream, draw: int) -> float:
    """The uniform number in [0, 1) of one draw."""
    return streams.uniform(stream.seed, stream.epoch, stream.row, stream.view_number, draw)


@kernel
def popcount(word: np.uint64) -> int:
    """Number of set bits (the compiler turns this pattern into one instruction)."""
    word = word - ((word >> np.uint64(1)) & _M1)
    word = (word & _M2) + ((word >> np.uint64(2)) & _M2)
    word = (word + (word >> np.uint64(4))) & _M4
    return np.int64((word * _SUM) >> np.uint64(56))


@kernel
def count_box(words: np.ndarray, top: int, left: int, height: int, width: int) -> int:
    """Foreground pixels inside a box that lies inside the mask."""
    if height <= 0 or width <= 0:
        return 0
    first, last = left >> 6, (left + width - 1) >> 6
    head = _ALL >> np.uint64(left & 63)
    tail = _ALL << np.uint64(63 - ((left + width - 1) & 63))
    total = 0
    for y in range(top, top + height):
        if first == last:
            total += popcount(words[y, first] & head & tail)
        else:
            total += popcount(words[y, first] & head) + popcount(words[y, last] & tail)
            for w in range(first + 1, last):
                total += popcount(words[y, w])
    return total


@kernel
def _sum_of_columns(word: np.uint64) -> int:
    """Sum over the set bits of a word of their columns 0 .. 63, leftmost = 0."""
    total = 0
    for x in range(64):
        if (word >> np.uint64(63 - x)) & _ONE:
            total += x
    return total


@kernel
def measure(words: np.ndarray, height: int, width: int, is_located: bool) -> Foreground:
    """Count the foreground and, where wanted, find its box and centroid (centre of the image when it is empty)."""
    count = count_box(words, 0, 0, height, width)
    if not is_located or count == 0:
        return Foreground(words, height, width, count, Box(0, 0, 0, 0), 0.5 * (height - 1), 0.5 * (width - 1))
    top, bottom, left, right = height, -1, width, -1
    sum_y, sum_x = 0, 0
    for y in range(height):
        for w in range(words.shape[1]):
            word = words[y, w]
            if word == _ZERO:
                continue
            num = popcount(word)
            top, bottom = min(top, y), y
            sum_y += num * y
            sum_x += num * (w << 6) + _sum_of_columns(word)
            first = 0
            while not (word >> np.uint64(63 - first)) & _ONE:
                first += 1
            last = 63
            while not (word >> np.uint64(63 - last)) & _ONE:
                last -= 1
            left, right = min(left, (w << 6) + first), max(right, (w << 6) + last)
    box = Box(top, left, bottom - top + 1, right - left + 1)
    return Foreground(words, height, width, count, box, sum_y / count, sum_x / count)


@kernel
def normal_cdf(z: float) -> float:
    """Distribution function of the standard normal."""
    return 0.5 * math.erfc(-z * math.sqrt(0.5))


@kernel
def truncated_normal(u: float, mean: float, sigma: float, low: float, high: float) -> float:
    """Inverse distribution function at u of a normal truncated to [low, high], by Newton's method.

    The interval spans at most one sigma on either side of the mean here, where the function is nearly straight, so
    six steps from the straight line reach rounding error.
    """
    z_low, z_high = (low - mean) / sigma, (high - mean) / sigma
    p_low, p_high = normal_cdf(z_low), normal_cdf(z_high)
    target = p_low + u * (p_high - p_low)
    z = z_low + u * (z_high - z_low)
    for _ in range(6):
        density = math.exp(-0.5 * z * z) * 0.3989422804014327
        z = min(max(z - (normal_cdf(z) - target) / density, z_low), z_high)
    return mean + sigma * z


@kernel
def _position(u: float, side: int, box_side: int, centre: float, proposal: int) -> int:
    """First row (or column) of a box: uniform, or its centre normal around the centroid with sigma = image side."""
    if proposal == CENTROID:
        low, high = 0.5 * box_side, side - 0.5 * box_side
        middle = truncated_normal(u, centre + 0.5, float(side), low, high)
        return min(max(math.floor(middle - 0.5 * box_side + 0.5), 0), side - box_side)
    return int(u * (side - box_side + 1))


@kernel
def propose(stream: Stream, draw: int, foreground: Foreground, spec: np.void, proposal: int) -> Box:
    """One proposal: area, then aspect ratio, then position; height 0 where it does not fit into the image."""
    height, width = foreground.height, foreground.width
    u_area = _uniform(stream, draw)
    u_aspect = _uniform(stream, draw + 1)
    area = height * width * (spec["scale_low"] + u_area * (spec["scale_high"] - spec["scale_low"]))
    log_low, log_high = math.log(spec["aspect_low"]), math.log(spec["aspect_high"])
    aspect = math.exp(log_low + u_aspect * (log_high - log_low))
    box_width = math.floor(math.sqrt(area * aspect) + 0.5)
    box_height = math.floor(math.sqrt(area / aspect) + 0.5)
    if not (0 < box_width <= width and 0 < box_height <= height):
        return Box(0, 0, 0, 0)
    u_top = _uniform(stream, draw + 2)
    u_left = _uniform(stream, draw + 3)
    top = _position(u_top, height, box_height, foreground.centre_y, proposal)
    left = _position(u_left, width, box_width, foreground.centre_x, proposal)
    return Box(top, left, box_height, box_width)


@kernel
def center_box(height: int, width: int, aspect_low: float, aspect_high: float) -> Box:
    """The whole image, its longer side cut around the centre until the aspect ratio is in range (torchvision)."""
    box_height, box_width = height, width
    if width / height < aspect_low:
        box_height = min(max(math.floor(width / aspect_low + 0.5), 1), height)
    elif width / height > aspect_high:
        box_width = min(max(math.floor(height * aspect_high + 0.5), 1), width)
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


@kernel
def centre_square(height: int, width: int) -> Box:
    """The central square of CENTRE_CROP_SHARE of the short side."""
    side = max(math.floor(CENTRE_CROP_SHARE * min(height, width) + 0.5), 1)
    return Box((height - side) // 2, (width - side) // 2, side, side)


@kernel
def sampled_box(stream: Stream, attempt: int, foreground: Foreground, spec: np.void, proposal: int) -> Box:
    """One crop as torchvision draws it: proposed again until it fits, ten times at most; then the centre."""
    box = propose(stream, streams.CROP + DRAWS_PER_TRY * attempt, foreground, spec, proposal)
    for again in range(MAX_CROP_TRIES - 1):
        if box.height > 0:
            return box
        draw = streams.CROP_AGAIN + DRAWS_PER_TRY * (MAX_CROP_TRIES * attempt + again)
        box = propose(stream, draw, foreground, spec, proposal)
    if box.height > 0:
        return box
    return center_box(foreground.height, foreground.width, spec["aspect_low"], spec["aspect_high"])


@kernel
def _trim(start: int, length: int, new_length: int, object_start: int, object_length: int) -> int:
    """Start of an interval of new_length inside the given one, its middle as near to the object's as can be."""
    wanted = object_start + (object_length - new_length) // 2
    return min(max(wanted, start), start + length - new_length)


@kernel
def grown_box(stream: Stream, draw: int, foreground: Foreground, spec: np.void) -> Box:
    """CAST's fallback: the object's box grown by a random margin to each side, the longer side trimmed to the aspect.

    The release trims without saying around what; we keep the object in the middle as far as the grown box allows.
    """
    inner = foreground.box
    room_below = foreground.height - inner.top - inner.height
    room_right = foreground.width - inner.left - inner.width
    top = inner.top - int(_uniform(stream, draw) * (inner.top + 1))
    left = inner.left - int(_uniform(stream, draw + 1) * (inner.left + 1))
    bottom = inner.top + inner.height + int(_uniform(stream, draw + 2) * (room_below + 1))
    right = inner.left + inner.width + int(_uniform(stream, draw + 3) * (room_right + 1))
    height, width = bottom - top, right - left
    if width / height < spec["aspect_low"]:
        trimmed = min(max(math.floor(width / spec["aspect_low"] + 0.5), 1), height)
        top, height = _trim(top, height, trimmed, inner.top, inner.height), trimmed
    elif width / height > spec["aspect_high"]:
        trimmed = min(max(math.floor(height * spec["aspect_high"] + 0.5), 1), width)
        left, width = _trim(left, width, trimmed, inner.left, inner.width), trimmed
    return Box(top, left, height, width)


@kernel
def intersection(a: Box, b: Box) -> Box:
    """The part two boxes share; height 0 where there is none."""
    top, left = max(a.top, b.top), max(a.left, b.left)
    height = min(a.top + a.height, b.top + b.height) - top
    width = min(a.left + a.width, b.left + b.width) - left
    if height <= 0 or width <= 0:
        return Box(0, 0, 0, 0)
    return Box(top, left, height, width)


@kernel
def _wanted_fraction(foreground: Foreground, spec: np.void, proposal: int, canvas: Canvas) -> float:
    """The constraint; as CAST was released it is relaxed where no crop of the smallest area could meet it."""
    if proposal != CENTROID:
        return spec["min_foreground"]
    covered = float(foreground.count)
    if canvas.is_moved:
        covered *= canvas.placed.height * canvas.placed.width / (canvas.own.height * canvas.own.width)
    smallest = spec["scale_low"] * foreground.height * foreground.width / covered
    return min(spec["min_foreground"], smallest)


@kernel
def box_in_image(canvas: Canvas, box: Box) -> Box:
    """What a box of the canvas shows of the image, to the pixel; it may reach beyond the image."""
    if not canvas.is_moved:
        return box
    own, placed = canvas.own, canvas.placed
    top = placement.place_in_image(box.top, placed.top, placed.height, own.top, own.height)
    left = placement.place_in_image(box.left, placed.left, placed.width, own.left, own.width)
    bottom = placement.place_in_image(box.top + box.height, placed.top, placed.height, own.top, own.height)
    right = placement.place_in_image(box.left + box.width, placed.left, placed.width, own.left, own.width)
    return Box(top, left, max(bottom - top, 1), max(right - left, 1))


@kernel
def _count_inside(words: np.ndarray, box: Box, canvas: Canvas) -> int:
    """Foreground pixels inside a box that may reach beyond the image."""
    inner = intersection(box, Box(0, 0, canvas.image_height, canvas.image_width))
    return count_box(words, inner.top, inner.left, inner.height, inner.width)


@kernel
def draw_box(stream: Stream, foreground: Foreground, spec: np.void, proposal: int, fallback: int, pair: Box):
    """Draw one constrained box of an image.

    pair: box of the first view for the second constraint, height 0 for none.
    Returns: (box, tries, is_fallback, foreground pixels inside).
    """
    nowhere = Box(0, 0, 0, 0)
    canvas = Canvas(False, nowhere, nowhere, foreground.height, foreground.width)
    return draw_box_on(canvas, stream, foreground, spec, proposal, fallback, pair)


@kernel
def draw_box_on(
    canvas: Canvas, stream: Stream, foreground: Foreground, spec: np.void, proposal: int, fallback: int, pair: Box
):
    """Draw one constrained box of a canvas.

    foreground: its words are the image's, its size is the canvas's, its box and centroid are on the canvas and its
    count what can be seen there. pair: as of `draw_box`, in the image. Returns: likewise, the box on the canvas.
    """
    words, total = foreground.words, foreground.count
    if spec["is_centre_crop"]:
        box = centre_square(foreground.height, foreground.width)
        return box, 1, False, count_box(words, box.top, box.left, box.height, box.width)
    is_bound = total > 0 and spec["min_foreground"] > 0.0
    wanted = _wanted_fraction(foreground, spec, proposal, canvas) if is_bound else 0.0
    pair_total = _count_inside(words, pair, canvas) if is_bound else 0
    best, best_count = Box(0, 0, 0, 0), -1
    for attempt in range(MAX_CROP_TRIES):
        box = sampled_box(stream, attempt, foreground, spec, proposal)
        shown = box_in_image(canvas, box)
        count = _count_inside(words, shown, canvas)
        is_met = not is_bound or count >= wanted * total
        if is_met and pair_total > 0:
            is_met = _count_inside(words, intersection(shown, pair), canvas) >= wanted * pair_total
        if is_met:
            return box, attempt + 1, False, count
        if count > best_count:
            best, best_count = box, count
    if fallback == BEST:
        box = best
    elif fallback == BBOX and total > 0:
        box = grown_box(stream, streams.CROP + DRAWS_PER_TRY * MAX_CROP_TRIES, foreground, spec)
    else:
        box = center_box(foreground.height, foreground.width, spec["aspect_low"], spec["aspect_high"])
    return box, MAX_CROP_TRIES, True, _count_inside(words, box_in_image(canvas, box), canvas)


@kernel
def _is_drawn(stream: Stream, draw: int, probability: float) -> bool:
    return _uniform(stream, draw) < probability


@kernel
def _between(stream: Stream, draw: int, low: float, high: float) -> float:
    return low + (high - low) * _uniform(stream, draw)


@kernel
def draw_photometrics(record: np.void, stream: Stream, spec: np.void) -> None:
    """Draw jitter, greyscale, blur and solarisation; what is not applied gets its neutral value."""
    is_jittered = _is_drawn(stream, streams.JITTER, spec["jitter_probability"])
    record["is_jittered"] = is_jittered
    record["jitter_order"] = 0
    record["brightness"] = 1.0
    record["contrast"] = 1.0
    record["saturation"] = 1.0
    record["hue"] = 0.0
    if is_jittered:
        record["jitter_order"] = int(_uniform(stream, streams.JITTER_ORDER) * NUM_JITTER_ORDERS)
        b, c, s, h = spec["jitter_brightness"], spec["jitter_contrast"], spec["jitter_saturation"], spec["jitter_hue"]
        record["brightness"] = _between(stream, streams.JITTER_BRIGHTNESS, max(0.0, 1.0 - b), 1.0 + b)
        record["contrast"] = _between(stream, streams.JITTER_CONTRAST, max(0.0, 1.0 - c), 1.0 + c)
        record["saturation"] = _between(stream, streams.JITTER_SATURATION, max(0.0, 1.0 - s), 1.0 + s)
        record["hue"] = _between(stream, streams.JITTER_HUE, -h, h)
    record["is_grey"] = _is_drawn(stream, streams.GREYSCALE, spec["greyscale_probability"])
    record["blur_sigma_px"] = 0.0
    if _is_drawn(stream, streams.BLUR, spec["blur_probability"]):
        record["blur_sigma_px"] = _between(stream, streams.BLUR_SIGMA, spec["blur_sigma_low"], spec["blur_sigma_high"])
    record["is_solarised"] = _is_drawn(stream, streams.SOLARISE, spec["solarise_probability"])


@kernel
def _pair_stream(stream: Stream, plan: PlanCode, pair_draw: int) -> Stream:
    """The stream of the query where the plan makes query and key draw together at least as tightly as `pair_draw`."""
    if plan.pair_draw >= pair_draw and stream.view_number < 2:
        return Stream(stream.seed, stream.epoch, stream.row, 0)
    return stream


@kernel
def choose_donor(stream: Stream, donors: Donors) -> int:
    """Draw the place in `donors` of another row than the own one; -1 where there is none."""
    own = np.searchsorted(donors.row, stream.row)
    is_own = own < donors.row.size and donors.row[own] == stream.row
    num_others = donors.row.size - (1 if is_own else 0)
    if num_others == 0:
        return -1
    chosen = int(_uniform(stream, streams.DONOR) * num_others)
    return chosen + 1 if is_own and chosen >= own else chosen


@kernel
def donor_box(stream: Stream, height: int, width: int, spec: np.void, no_words: np.ndarray) -> Box:
    """Draw an unconstrained box of a background."""
    whole = Foreground(no_words, height, width, 0, Box(0, 0, 0, 0), 0.0, 0.0)
    for attempt in range(MAX_CROP_TRIES):
        proposed = propose(stream, streams.DONOR_CROP + DRAWS_PER_TRY * attempt, whole, spec, 0)
        if proposed.height > 0:
            return proposed
    return center_box(height, width, spec["aspect_low"], spec["aspect_high"])


@kernel
def _stretched(start: int, length: int, side: int, new_side: int):
    """An interval of an image that is resized from `side` to `new_side` pixels: (start, length of 1 or more)."""
    first = min(start * new_side // side, new_side - 1)
    return first, max((start + length) * new_side // side - first, 1)


@kernel
def stretched_box(record: np.void, height: int, width: int, foreground: Foreground) -> Box:
    """The view's box in a background that is resized to stand behind the whole image, as C.5's order wants."""
    top, box_height = _stretched(np.int64(record["top"]), np.int64(record["height"]), foreground.height, height)
    left, box_width = _stretched(np.int64(record["left"]), np.int64(record["width"]), foreground.width, width)
    return Box(top, left, box_height, box_width)


@kernel
def _bates(stream: Stream, draw: int, num: int) -> float:
    """The mean of |num| uniform numbers, 1/2 of none; below 0 turned round, so that the ends come before the middle."""
    if num == 0:
        return 0.5
    total = 0.0
    for k in range(abs(num)):
        total += _uniform(stream, draw + k)
    z = total / abs(num)
    return z + 0.5 - math.floor(z + 0.5) if num < 0 else z


@kernel
def _placed_object(
    stream: Stream, foreground: Foreground, plan: PlanCode, donors_fraction: float, height: int, width: int
) -> Box:
    """Draw the box that a foreground, its box known, gets on a background of some size."""
    own = foreground.box
    share = foreground.count / (foreground.height * foreground.width)
    u = _uniform(stream, streams.OBJECT_AREA)
    fraction = placement.wanted_fraction(share, donors_fraction, plan.object_size, plan.object_size_jitter, u)
    box_area = fraction * height * width * own.height * own.width / foreground.count
    new_height = placement.placed_length(box_area, own.height, own.width)
    new_width = placement.placed_length(box_area, own.width, own.height)
    if plan.keeps_place:
        top = placement.kept_start(own.top, own.height, foreground.height, new_height, height)
        left = placement.kept_start(own.left, own.width, foreground.width, new_width, width)
    else:
        top = placement.placed_start(_bates(stream, streams.OBJECT_ROW, plan.object_bates), new_height, height)
        left = placement.placed_start(_bates(stream, streams.OBJECT_COLUMN, plan.object_bates), new_width, width)
    return Box(top, left, new_height, new_width)


@kernel
def _on_canvas(foreground: Foreground, canvas: Canvas, height: int, width: int) -> Foreground:
    """A foreground as it lies on another background, for the crop sampler."""
    own, placed = canvas.own, canvas.placed
    whole = Box(0, 0, height, width)
    visible = _count_inside(foreground.words, box_in_image(canvas, whole), canvas)
    centre_y = placed.top + (foreground.centre_y + 0.5 - own.top) * placed.height / own.height - 0.5
    centre_x = placed.left + (foreground.centre_x + 0.5 - own.left) * placed.width / own.width - 0.5
    centre_y, centre_x = min(max(centre_y, 0.0), height - 1.0), min(max(centre_x, 0.0), width - 1.0)
    return Foreground(foreground.words, height, width, visible, intersection(placed, whole), centre_y, centre_x)


class Seen(NamedTuple):
    """What a view is drawn from: the image's foreground, and the box of the view it is paired with, height 0 = none."""

    foreground: Foreground
    pair: Box


@kernel
def draw_recombined_box(
    record: np.void, stream: Stream, spec: np.void, plan: PlanCode, donors: Donors, chosen: int, seen: Seen
) -> Box:
    """Put the foreground on a donor's background and draw the view's box there; returns it, in the background.

    The box of the view that was drawn before, in the image, gives way to what this one shows of the image.
    """
    foreground, height, width = seen.foreground, np.int64(donors.height[chosen]), np.int64(donors.width[chosen])
    if foreground.box.height == 0:  # most rows do not need it
        foreground = measure(foreground.words, foreground.height, foreground.width, True)
    common = _pair_stream(stream, plan, SAME)
    placed = _placed_object(common, foreground, plan, donors.fraction[chosen], height, width)
    canvas = Canvas(True, foreground.box, placed, foreground.height, foreground.width)
    on_canvas = _on_canvas(foreground, canvas, height, width)
    box, tries, is_fallback, count = draw_box_on(
        canvas, stream, on_canvas, spec, plan.proposal, plan.fallback, seen.pair
    )
    shown = box_in_image(canvas, box)
    _record_box(record, shown, tries, is_fallback, count / foreground.count)
    share = _between(common, streams.OBJECT_EDGE, plan.edge_sigma_low, plan.edge_sigma_high)
    sigma_px = share * max(height, width) * spec["size_px"] / math.sqrt(box.height * box.width)
    record["edge_sigma_px"] = _edge_sigma_px(sigma_px, shown, spec, plan)
    return box


@kernel
def _edge_sigma_px(sigma_px: float, shown: Box, spec: np.void, plan: PlanCode) -> float:
    """Make a soft edge as soft at least as the mask is coarse in the view: an enlarged one has stairs for an edge."""
    pixel_px = spec["size_px"] / math.sqrt(shown.height * shown.width)  # side in the view of a pixel of the mask
    if pixel_px > 1.0:
        sigma_px = max(sigma_px, 0.5 * pixel_px)
    return min(sigma_px, placement.largest_edge_sigma_px(plan.edge_sigma_high, spec["size_px"], spec["scale_low"]))


@kernel
def _record_box(record: np.void, box: Box, tries: int, is_fallback: bool, fraction: float) -> None:
    """Write down what of an image a view shows. fraction: of the image's foreground."""
    record["top"] = box.top
    record["left"] = box.left
    record["height"] = box.height
    record["width"] = box.width
    record["tries"] = tries
    record["is_fallback"] = is_fallback
    record["foreground_fraction"] = fraction


@kernel
def draw_donor(record: np.void, stream: Stream, spec: np.void, plan: PlanCode, donors: Donors, seen: Seen) -> bool:
    """Draw another row with a background, and a box and flip of it; False where there is none."""
    chosen = choose_donor(_pair_stream(stream, plan, SAME), donors)
    if chosen < 0:
        return False
    foreground = seen.foreground
    height, width = np.int64(donors.height[chosen]), np.int64(donors.width[chosen])
    if plan.moves_foreground:
        box = draw_recombined_box(record, stream, spec, plan, donors, chosen, seen)
        record["donor_is_flipped"] = record["is_flipped"]
    elif plan.is_before:
        box = stretched_box(record, height, width, foreground)
        record["donor_is_flipped"] = record["is_flipped"]
    else:
        box = donor_box(stream, height, width, spec, foreground.words)
        record["donor_is_flipped"] = _is_drawn(stream, streams.DONOR_FLIP, spec["flip_probability"])
    record["donor_row"] = donors.row[chosen]
    record["donor_top"] = box.top
    record["donor_left"] = box.left
    record["donor_height"] = box.height
    record["donor_width"] = box.width
    return True


@kernel
def _applies(plan: PlanCode, view_number: int, is_global: int) -> bool:
    """Whether a view may get another background."""
    if plan.applies_to == QUERY_VIEW or plan.applies_to == KEY_VIEW:
        return view_number == (0 if plan.applies_to == QUERY_VIEW else 1)
    return plan.applies_to == ALL_VIEWS or is_global != 0


@kernel
def draw_perturbation(record: np.void, stream: Stream, plan: PlanCode) -> None:
    """Draw how the mask is perturbed; strengths of 0 leave it as it is."""
    shear, shift = plan.mask_shear_degrees, plan.mask_shift_fraction
    rotation = plan.mask_rotation_degrees
    record["mask_rotation_degrees"] = _between(stream, streams.MASK_ROTATION, -rotation, rotation)
    record["mask_row_shear_degrees"] = _between(stream, streams.MASK_ROW_SHEAR, -shear, shear)
    record["mask_column_shear_degrees"] = _between(stream, streams.MASK_COLUMN_SHEAR, -shear, shear)
    record["mask_shift_rows"] = _between(stream, streams.MASK_SHIFT_ROWS, -shift, shift)
    record["mask_shift_columns"] = _between(stream, streams.MASK_SHIFT_COLUMNS, -shift, shift)
    record["mask_is_flipped"] = _is_drawn(stream, streams.MASK_FLIP, plan.mask_flip_probability)


@kernel
def clear_background(record: np.void) -> None:
    """Give everything about backgrounds its neutral value."""
    record["has_background"] = 0
    record["background_grey"] = 0.0
    record["is_negative_matched"] = 0
    record["negative_source"] = 0.0
    record["donor_row"] = -1
    record["donor_top"] = 0
    record["donor_left"] = 0
    record["donor_height"] = 0
    record["donor_width"] = 0
    record["donor_is_flipped"] = 0
    record["mask_rotation_degrees"] = 0.0
    record["mask_row_shear_degrees"] = 0.0
    record["mask_column_shear_degrees"] = 0.0
    record["mask_shift_rows"] = 0.0
    record["mask_shift_columns"] = 0.0
    record["mask_is_flipped"] = 0
    record["edge_sigma_px"] = 0.0


@kernel
def draw_background(record: np.void, stream: Stream, spec: np.void, plan: PlanCode, donors: Donors, seen: Seen) -> None:
    """Draw whether and with what the background is replaced; only where there is both foreground and background."""
    clear_background(record)
    if not plan.has_background:
        return
    foreground = seen.foreground
    is_divided = 0 < foreground.count < foreground.height * foreground.width
    if is_divided:
        draw_perturbation(record, stream, plan)
    has_negative = plan.has_negative and spec["is_global"]
    if has_negative:
        is_matched = is_divided and _is_drawn(stream, streams.NEGATIVE, plan.negative_probability)
        record["is_negative_matched"] = is_matched and not plan.is_negative_coupled
        record["negative_source"] = _below_one(_between(stream, streams.NEGATIVE_SOURCE, 0.0, 1.0))
    if not (is_divided and _applies(plan, stream.view_number, spec["is_global"])):
        return
    if not _is_drawn(_pair_stream(stream, plan, COUPLED), streams.BACKGROUND, plan.background_probability):
        return
    record["background_grey"] = _between(_pair_stream(stream, plan, SAME), streams.BACKGROUND_GREY, 0.0, 1.0)
    has_background = not plan.needs_donor or draw_donor(record, stream, spec, plan, donors, seen)
    record["has_background"] = has_background
    if has_negative and plan.is_negative_coupled:
        record["is_negative_matched"] = has_background


@kernel
def _below_one(value: float) -> float:
    """Keep a number of [0, 1) below 1 when it is rounded to float32."""
    return min(value, 1.0 - 5.960464477539063e-08)


@kernel
def draw_view(
    record: np.void,
    stream: Stream,
    foreground: Foreground,
    spec: np.void,
    plan: PlanCode,
    pair: Box,
    donors: Donors,
) -> Box:
    """Draw everything about one view into its record; returns its box."""
    box, tries, is_fallback, count = draw_box(stream, foreground, spec, plan.proposal, plan.fallback, pair)
    record["padding"][:] = 0
    _record_box(record, box, tries, is_fallback, count / foreground.count if foreground.count > 0 else 1.0)
    record["is_flipped"] = _is_drawn(stream, streams.FLIP, spec["flip_probability"])
    draw_photometrics(record, stream, spec)
    draw_background(record, stream, spec, plan, donors, Seen(foreground, pair))
    return Box(np.int64(record["top"]), np.int64(record["left"]), np.int64(record["height"]), np.int64(record["width"]))


class Draws(NamedTuple):
    """What decides all draws of an epoch, row by row."""

    seed: int
    epoch: int
    spec_V: np.ndarray  # (V,) of VIEW_SPEC_DTYPE
    plan: PlanCode
    donors: Donors


@kernel
def draw_row(record_V: np.ndarray, row: int, foreground: Foreground, draws: Draws) -> None:
    """Draw all views of one row in the plan's order."""
    spec_V, plan, donors = draws.spec_V, draws.plan, draws.donors
    first = Box(0, 0, 0, 0)
    nothing = Box(0, 0, 0, 0)
    for view in range(record_V.size):
        pair = first if plan.pair_constraint and view == 1 else nothing
        stream = Stream(draws.seed, draws.epoch, row, view)
        box = draw_view(record_V[view], stream, foreground, spec_V[view], plan, pair, donors)
        if view == 0:
            first = box


follow_sources(__name__, placement, streams, view_plan)
