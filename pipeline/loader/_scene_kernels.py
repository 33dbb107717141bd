"""The fused decoder of one row: check and decode its blobs once, draw all views, cut, resize and flip every one."""

from typing import NamedTuple

import numpy as np

from backdrop.kernels import follow_sources, kernel
from backdrop.pipeline.beton import plane_kernels
from backdrop.pipeline.beton import scene_kernels as blob_kernels
from backdrop.pipeline.beton.plane_kernels import (
    DecodeMemory,
    copy_row,
    decode_upper_planes,
    has_size,
    is_rgb,
    is_stored,
    make_decode_memory,
    planes_of_rgb,
    stored_planes,
    to_420,
)
from backdrop.pipeline.beton.scene_kernels import checksum, expand_runs, is_within, will_need
from backdrop.pipeline.loader import _mask_kernels, _resize_kernels, _stage_clock, _vector_kernels
from backdrop.pipeline.loader._mask_kernels import MaskMemory, Window, crop_mask, edges_of, make_mask_memory
from backdrop.pipeline.loader._resize_kernels import (
    CHANNELS,
    Cut,
    ResizeMemory,
    crop_planes,
    make_resize_memory,
)
from backdrop.pipeline.loader._stage_clock import (
    BOXES,
    CHECKS,
    DECODE,
    DONORS,
    MASKS,
    RESIZE,
    end_stage,
    make_clock,
    start_clock,
)
from backdrop.pipeline.views import crop_kernels as _crop_kernels
from backdrop.pipeline.views import placement_kernels, random_streams, view_plan
from backdrop.pipeline.views.crop_kernels import BBOX, CENTROID, draw_row, measure

# What can be wrong with a row; 0 = nothing. The donor codes speak of the background of the row's donor.
OK, BAD_RECORD, IMAGE_CHANGED, MASK_CHANGED, IMAGE_BROKEN, MASK_BROKEN = range(6)
DONOR_CHANGED, DONOR_BROKEN = 6, 7
PROBLEMS = {
    BAD_RECORD: "its record points outside the file",
    IMAGE_CHANGED: "the bytes of its image are not those that were written",
    MASK_CHANGED: "the bytes of its mask are not those that were written",
    IMAGE_BROKEN: "its image cannot be decoded",
    MASK_BROKEN: "its mask does not fit its image",
    DONOR_CHANGED: "the bytes of its background are not those that were written",
    DONOR_BROKEN: "its background cannot be decoded",
}


class Scratch(NamedTuple):
    """Memory of one thread, bounded by the largest image of the file."""

    decoding: DecodeMemory
    resizing: ResizeMemory
    masks: MaskMemory
    words: np.ndarray  # uint64 flat, mask
    clock: np.ndarray  # see `_stage_clock`


class Slot(NamedTuple):
    """Where a batch goes: one flat buffer, section after section, each contiguous over the batch.

    Starts are in bytes per row of the batch. With whole images `image` and `mask` have one entry.
    """

    flat: np.ndarray  # uint8
    batch_size: int
    image: np.ndarray  # int64 (V,), start of the section
    mask: np.ndarray  # int64 (V,)
    donor: np.ndarray  # int64 (V,), -1 = none
    side: np.ndarray  # int64 (V,), of the view in pixels
    may_shrink: bool  # whether images may be decoded smaller where no view needs all their pixels
    is_whole: bool  # whether images are handed over whole, to be cropped on the device
    height: int  # of the place that each whole image gets, in pixels
    width: int
    mask_row_bytes: int
    donor_height: int
    donor_width: int


def make_scratch(height: int, width: int, sides: np.ndarray, reaches_out: bool = False) -> Scratch:
    """Allocate for images up to height x width pixels and views of the given sides; free its `decoding` at the end.

    reaches_out: whether boxes may reach beyond the image: then a pixel may draw on all rows or columns there are.
    """
    return Scratch(
        decoding=make_decode_memory(height, width),
        resizing=make_resize_memory(max(height, width), sides, reaches_out),
        masks=make_mask_memory(height, width, int(sides.max())),
        words=np.empty(height * ((width + 63) // 64), np.uint64),
        clock=make_clock(),
    )


@kernel
def _blob(file_bytes: np.ndarray, start: np.uint64, size: np.uint32) -> np.ndarray:
    return file_bytes[np.int64(start) : np.int64(start) + np.int64(size)]


@kernel
def _is_inside(file_bytes: np.ndarray, start: np.uint64, size: np.uint32, alignment: int = 8) -> bool:
    return np.int64(start) % alignment == 0 and 0 <= np.int64(start) <= file_bytes.size - np.int64(size)


@kernel
def _shrink_for(box, side):
    """How many times smaller an image may be decoded so that a box keeps the pixels that its view has: 1, 2, 4 or 8."""
    for shrink in (8, 4, 2):
        if min(box[2], box[3]) >= shrink * side:
            return shrink
    return 1


@kernel
def _box(record):
    return (
        np.int64(record["top"]), np.int64(record["left"]), np.int64(record["height"]), np.int64(record["width"])
    )  # fmt: skip


@kernel
def _donor_box(record):
    return (
        np.int64(record["donor_top"]), np.int64(record["donor_left"]),
        np.int64(record["donor_height"]), np.int64(record["donor_width"]),
    )  # fmt: skip


@kernel
def _crop(planes, cut, slot, start, side, position, scratch):
    """Cut out of planes into row `position` of the section that starts at `start` bytes per row."""
    num_bytes = CHANNELS * side * side
    begin = slot.batch_size * start + position * num_bytes
    crop_planes(planes, cut, slot.flat[begin : begin + num_bytes].reshape(side, CHANNELS * side), scratch.resizing)


@kernel
def _crop_mask(mask, record, slot, view, position, memory):
    side = slot.side[view]
    num_bytes = (side + 7) // 8
    begin = slot.batch_size * slot.mask[view] + position * side * num_bytes
    out = slot.flat[begin : begin + side * num_bytes].reshape(side, num_bytes)
    box = _box(record)
    crop_mask(mask, Window(box[0], box[1], box[2], box[3], record["is_flipped"] != 0), out, memory)


@kernel
def _read_row(scene, file_bytes, record_V, draws, scratch):
    """Check a row's blobs, expand its mask into scratch.words and draw its views; returns a problem or OK."""
    has_checksum = scene["image_checksum"] != 0  # FFCV's own files have none, and their images lie at any place
    if not _is_inside(file_bytes, scene["image_ptr"], scene["image_bytes"], 8 if has_checksum else 1):
        return BAD_RECORD
    if not _is_inside(file_bytes, scene["mask_ptr"], scene["mask_bytes"]):
        return BAD_RECORD
    height, width = np.int64(scene["height"]), np.int64(scene["width"])
    runs = _blob(file_bytes, scene["mask_ptr"], scene["mask_bytes"])
    image = _blob(file_bytes, scene["image_ptr"], scene["image_bytes"])
    if has_checksum and checksum(image) != scene["image_checksum"]:
        return IMAGE_CHANGED
    if runs.size > 0 and checksum(runs) != scene["mask_checksum"]:
        return MASK_CHANGED
    if not has_size(image, height, width):
        return IMAGE_BROKEN
    end_stage(scratch.clock, CHECKS)
    words = _words(scene, scratch)
    if runs.size % 8 != 0 or not expand_runs(runs.view(np.uint32), words.reshape(-1)):
        return MASK_BROKEN
    if not is_within(words, width):
        return MASK_BROKEN
    end_stage(scratch.clock, MASKS)
    is_located = draws.plan.proposal == CENTROID or draws.plan.fallback == BBOX
    foreground = measure(words, height, width, is_located)
    draw_row(record_V, np.int64(scene["row"]), foreground, draws)
    end_stage(scratch.clock, BOXES)
    return OK


@kernel
def _words(scene, scratch):
    """The mask of a row in its thread's memory, uint64 (H, ceil(W / 64))."""
    height, num_words = np.int64(scene["height"]), (np.int64(scene["width"]) + 63) // 64
    return scratch.words[: height * num_words].reshape(height, num_words)


@kernel
def _planes(scratch, data, size, shrink, end_row):
    """The planes of an image: those that are stored, or a JPEG's or of RGB pixels, made in the thread's memory.

    size: (height, width) of the image. end_row: behind the last of its rows that is wanted.
    Returns: (0, how many times smaller they are, planes), or -1 at first. Stored ones have the size that they have.
    """
    height, width = size
    if is_stored(data, height, width):
        return 0, 1, stored_planes(data, height, width)
    if is_rgb(data, height, width):
        return 0, 1, planes_of_rgb(data, height, width, scratch.decoding.pixels)
    status, planes = decode_upper_planes(scratch.decoding, data, height, width, shrink, end_row)
    return status, shrink, planes


@kernel
def _ask_for_donors(record_V, scenes, file_bytes):
    """Have the backgrounds of a row's donors read while its image is decoded."""
    for view in range(record_V.size):
        if record_V[view]["has_background"] and record_V[view]["donor_row"] >= 0:
            donor = scenes[record_V[view]["donor_row"]]
            if _is_inside(file_bytes, donor["background_ptr"], donor["background_bytes"]):
                will_need(file_bytes, np.int64(donor["background_ptr"]), np.int64(donor["background_bytes"]))


@kernel
def _fill_crops(position, scene, file_bytes, record_V, slot, scratch):
    """Decode a row's image, then cut every view out of it and its mask; returns a problem or OK."""
    height, width = np.int64(scene["height"]), np.int64(scene["width"])
    image = _blob(file_bytes, scene["image_ptr"], scene["image_bytes"])
    # Bytes without a checksum are decoded to their end, where damage is noticed.
    shrink, end_row = 8 if slot.may_shrink else 1, 0 if scene["image_checksum"] != 0 else height
    for view in range(record_V.size):
        box = _box(record_V[view])
        shrink, end_row = min(shrink, _shrink_for(box, slot.side[view])), max(end_row, box[0] + box[2])
    status, shrink, planes = _planes(scratch, image, (height, width), shrink, end_row)
    if status != 0:
        return IMAGE_BROKEN
    end_stage(scratch.clock, DECODE)
    runs = _blob(file_bytes, scene["mask_ptr"], scene["mask_bytes"]).view(np.uint32)
    mask = edges_of(runs, height, width, scratch.masks.first)
    for view in range(record_V.size):
        record = record_V[view]
        is_flipped = record["is_flipped"] != 0
        begin, side = slot.image[view], slot.side[view]
        _crop(planes, Cut(_box(record), shrink, is_flipped), slot, begin, side, position, scratch)
        end_stage(scratch.clock, RESIZE)
        _crop_mask(mask, record, slot, view, position, scratch.masks)
        end_stage(scratch.clock, MASKS)
    return OK


@kernel
def _donor_blob(scene, file_bytes):
    """The background that a scene lends, checked: (problem or OK, its bytes)."""
    start, size = scene["background_ptr"], scene["background_bytes"]
    if not _is_inside(file_bytes, start, size):
        return BAD_RECORD, file_bytes[:0]
    background = _blob(file_bytes, start, size)
    if checksum(background) != scene["background_checksum"]:
        return DONOR_CHANGED, background
    is_its_size = has_size(background, np.int64(scene["background_height"]), np.int64(scene["background_width"]))
    return OK if is_its_size else DONOR_BROKEN, background


@kernel
def _fill_donor(position, view, record, scenes, file_bytes, slot, scratch):
    """Decode the background of a view's donor and cut it; returns a problem or OK."""
    scene = scenes[record["donor_row"]]
    problem, background = _donor_blob(scene, file_bytes)
    if problem != OK:
        return problem
    height, width = np.int64(scene["background_height"]), np.int64(scene["background_width"])
    box, side = _donor_box(record), slot.side[view]
    shrink = _shrink_for(box, side) if slot.may_shrink else 1
    status, shrink, planes = _planes(scratch, background, (height, width), shrink, box[0] + box[2])
    if status != 0:
        return DONOR_BROKEN
    is_flipped = record["donor_is_flipped"] != 0
    _crop(planes, Cut(box, shrink, is_flipped), slot, slot.donor[view], side, position, scratch)
    return OK


@kernel
def pack_words(words, out):
    """Write mask words as bytes, leftmost pixel highest; words: uint64 (H, N), out: uint8 (>= H, >= 8 N)."""
    for y in range(words.shape[0]):
        for w in range(words.shape[1]):
            for k in range(8):
                out[y, 8 * w + k] = (words[y, w] >> np.uint64(56 - 8 * k)) & np.uint64(0xFF)


@kernel
def _hand_over(planes, slot, start, position, height, width):
    """Write planes, 4:2:0, at the top left of their places: luma's section, then that of both colour differences.

    start: of the first section in bytes per row. height, width: of the place in pixels.
    """
    begin = slot.batch_size * start + position * height * width
    luma = slot.flat[begin : begin + height * width].reshape(height, width)
    for y in range(planes.height):
        at = planes.starts[0] + y * planes.strides[0]
        copy_row(planes.data[at : at + planes.width], luma[y])
    rows, columns = (height + 1) // 2, (width + 1) // 2
    begin = slot.batch_size * (start + height * width) + position * 2 * rows * columns
    for number in (1, 2):
        to_420(planes, number, slot.flat[begin : begin + rows * columns].reshape(rows, columns))
        begin += rows * columns


@kernel
def _fill_whole(position, scene, file_bytes, slot, scratch):
    """Decode a row's image and unfold its mask at the top left of their place in the batch; returns a problem or OK."""
    height, width = np.int64(scene["height"]), np.int64(scene["width"])
    image = _blob(file_bytes, scene["image_ptr"], scene["image_bytes"])
    status, _, planes = _planes(scratch, image, (height, width), 1, height)
    if status != 0:
        return IMAGE_BROKEN
    _hand_over(planes, slot, slot.image[0], position, slot.height, slot.width)
    end_stage(scratch.clock, DECODE)
    begin = slot.batch_size * slot.mask[0] + position * slot.height * slot.mask_row_bytes
    mask = slot.flat[begin : begin + slot.height * slot.mask_row_bytes].reshape(slot.height, slot.mask_row_bytes)
    pack_words(_words(scene, scratch), mask)
    end_stage(scratch.clock, MASKS)
    return OK


@kernel
def _fill_whole_donor(position, view, record, scenes, file_bytes, slot, scratch):
    """Decode the background of a view's donor at the top left of its place in the batch; returns a problem or OK."""
    scene = scenes[record["donor_row"]]
    problem, background = _donor_blob(scene, file_bytes)
    if problem != OK:
        return problem
    height, width = np.int64(scene["background_height"]), np.int64(scene["background_width"])
    status, _, planes = _planes(scratch, background, (height, width), 1, height)
    if status != 0:
        return DONOR_BROKEN
    _hand_over(planes, slot, slot.donor[view], position, slot.donor_height, slot.donor_width)
    return OK


@kernel
def _fill_row(position, row, scenes, file_bytes, record_V, slot, scratch):
    """Fill one row of a batch after its views were drawn; (0, -1), or the problem and the row it is about."""
    _ask_for_donors(record_V, scenes, file_bytes)
    if slot.is_whole:
        problem = _fill_whole(position, scenes[row], file_bytes, slot, scratch)
    else:
        problem = _fill_crops(position, scenes[row], file_bytes, record_V, slot, scratch)
    if problem != OK:
        return problem, row
    for view in range(record_V.size):
        record = record_V[view]
        if not record["has_background"] or record["donor_row"] < 0:
            continue
        if slot.is_whole:
            problem = _fill_whole_donor(position, view, record, scenes, file_bytes, slot, scratch)
        else:
            problem = _fill_donor(position, view, record, scenes, file_bytes, slot, scratch)
        end_stage(scratch.clock, DONORS)
        if problem != OK:
            return problem, np.int64(record["donor_row"])
    return OK, np.int64(-1)


class BatchRows(NamedTuple):
    """The rows of a batch: where they come from and where they go."""

    rows: np.ndarray  # int64 (B,), row of each position
    scenes: np.ndarray  # (N,) of SCENE_DTYPE
    file_bytes: np.ndarray  # uint8, the mapped file
    record_BV: np.ndarray  # (B, V) of VIEW_DTYPE, written
    slot: Slot  # where pixels and masks go


@kernel(says="compiling the loader's kernels, once on this machine (some 20 s)")
def fill_rows(first, last, batch, draws, scratch):
    """Fill positions first .. last - 1 of a batch.

    batch: `BatchRows`. draws: as of `draw_row`. scratch: `Scratch` of this thread.
    Returns: (0, -1, last), or the first problem, the row it is about (for the donor codes the donor's) and the position
        that could not be filled.
    """
    start_clock(scratch.clock)
    for position in range(first, last):
        row, record_V = batch.rows[position], batch.record_BV[position]
        problem = _read_row(batch.scenes[row], batch.file_bytes, record_V, draws, scratch)
        about = row
        if problem == OK:
            problem, about = _fill_row(position, row, batch.scenes, batch.file_bytes, record_V, batch.slot, scratch)
        if problem != OK:
            return problem, about, position
    return OK, np.int64(-1), last


follow_sources(
    __name__,
    *(blob_kernels, plane_kernels, _mask_kernels, _resize_kernels, _vector_kernels, _stage_clock),
    *(_crop_kernels, placement_kernels, random_streams, view_plan),
)
