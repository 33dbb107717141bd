"""Numba kernels that go through a table of records once, in the order of the file: nothing of it is copied."""

import numpy as np

from backdrop.kernels import follow_sources, kernel

# What can be wrong with a record, in the order in which it is looked for; `WRONG` says it in words.
OK, OTHER_ROW, UNKNOWN_STATUS, IMAGE_AND_STATUS, NO_PIXELS, MUCH_FOREGROUND, LARGE = range(7)
EMPTY_BACKGROUND, LARGE_BACKGROUND = 7, 8
WRONG = {
    OTHER_ROW: "is of another row",
    UNKNOWN_STATUS: "has an unknown status",
    IMAGE_AND_STATUS: "has an image where its status says none, or none",
    NO_PIXELS: "has a mask without pixels",
    MUCH_FOREGROUND: "has more foreground than pixels",
    LARGE: "has a side of more than {max_side_px} px",
    EMPTY_BACKGROUND: "has a background without pixels",
    LARGE_BACKGROUND: "has a background with a side of more than {max_side_px} px",
}


@kernel
def _wrong_with(record, row, has_mask_S, max_side_px):
    """What is wrong with a record, see `survey`."""
    height, width = np.int64(record["height"]), np.int64(record["width"])
    background_height, background_width = np.int64(record["background_height"]), np.int64(record["background_width"])
    has_background = background_height > 0 and background_width > 0
    status = np.int64(record["status"])
    if record["row"] != row:
        return OTHER_ROW
    if status >= has_mask_S.size:
        return UNKNOWN_STATUS
    if has_mask_S[status] != (record["image_bytes"] > 0):
        return IMAGE_AND_STATUS
    if has_mask_S[status] and (height == 0 or width == 0):
        return NO_PIXELS
    if np.int64(record["foreground_pixels"]) > height * width:
        return MUCH_FOREGROUND
    if max(height, width) > max_side_px:
        return LARGE
    if has_background != (record["background_bytes"] > 0):
        return EMPTY_BACKGROUND
    if max(background_height, background_width) > max_side_px:
        return LARGE_BACKGROUND
    return OK


@kernel
def first_wrong(records, first_row, has_mask_S, max_side_px):
    """The first record that no export writes.

    records: (N,) of SCENE_DTYPE. first_row: row of the first. has_mask_S: bool, by status. max_side_px: of images and
    backgrounds.
    Returns: (what is wrong with it, its place), (0, -1) where there is none.
    """
    for at in range(records.size):
        wrong = _wrong_with(records[at], first_row + at, has_mask_S, max_side_px)
        if wrong != OK:
            return wrong, at
    return OK, -1


@kernel
def rows_with_mask(records, has_mask_S, rows):
    """Write the rows that have a mask, ascending; rows: int32 (>= N,). Returns their number."""
    num = 0
    for row in range(records.size):
        status = np.int64(records[row]["status"])
        if status < has_mask_S.size and has_mask_S[status]:
            rows[num] = row
            num += 1
    return num


@kernel
def largest_sides(records):
    """Height and width that hold every image, then every background, of a table; each 1 at least."""
    height, width, background_height, background_width = 1, 1, 1, 1
    for row in range(records.size):
        record = records[row]
        height, width = max(height, np.int64(record["height"])), max(width, np.int64(record["width"]))
        background_height = max(background_height, np.int64(record["background_height"]))
        background_width = max(background_width, np.int64(record["background_width"]))
    return height, width, background_height, background_width


@kernel
def rows_that_lend(records, rows):
    """Write the rows that have a background, ascending; rows: int32 (>= N,). Returns their number."""
    num = 0
    for row in range(records.size):
        if records[row]["background_bytes"] > 0:
            rows[num] = row
            num += 1
    return num


follow_sources(__name__)
