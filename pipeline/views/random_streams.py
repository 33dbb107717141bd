"""Counter-based random streams: every draw is a pure function of (seed, epoch, row, view, draw).

No generator carries state, so any number of threads, ranks, batches or restarts gives the same numbers. Each purpose
has its own draw number below; a purpose added later never shifts the numbers of another.

The mixing function is the finaliser of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
generators"), applied once per key component.
"""

import numpy as np

from backdrop.kernels import kernel

# Draw numbers of one view. A crop attempt t uses CROP + 4 * t .. + 3: area, aspect ratio, top, left; where that does
# not fit into the image, it is drawn again from CROP_AGAIN + 4 * (10 * t + r), r = 0 .. 8.
CROP = 0
FLIP = 1_000
JITTER = 1_010  # apply or not
JITTER_BRIGHTNESS = 1_011
JITTER_CONTRAST = 1_012
JITTER_SATURATION = 1_013
JITTER_HUE = 1_014
JITTER_ORDER = 1_015
GREYSCALE = 1_020
BLUR = 1_030  # apply or not
BLUR_SIGMA = 1_031
SOLARISE = 1_040
BACKGROUND = 1_050  # apply or not
BACKGROUND_GREY = 1_051
DONOR = 1_052
DONOR_FLIP = 1_060
NEGATIVE = 1_070  # matched or plain
NEGATIVE_SOURCE = 1_071  # whose pixels stand in the foreground
MASK_ROTATION = 1_080  # how the mask is perturbed
MASK_ROW_SHEAR = 1_081
MASK_COLUMN_SHEAR = 1_082
MASK_SHIFT_ROWS = 1_083
MASK_SHIFT_COLUMNS = 1_084
MASK_FLIP = 1_085
CROP_AGAIN = 1_200
DONOR_CROP = 1_100  # as CROP, of the donor's background
OBJECT_AREA = 1_700  # how large and where the foreground is put on another background
OBJECT_EDGE = 1_701
OBJECT_ROW = 1_720  # + k: the uniform numbers whose mean is its place
OBJECT_COLUMN = 1_740

# Draw numbers of one row or of a whole epoch, used with view = NO_VIEW.
NO_VIEW = 4_294_967_295
ROW_ORDER = 2_000
BLOCK_ORDER = 2_002  # of quasi-random order, with the block's number as the row
PROBE_ROWS = 2_001  # which rows are scored while a run goes on
REPLACEMENT = 2_100  # + try: which row takes the place of one that cannot be read

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_TO_UNIT = 1.0 / 9007199254740992.0  # 2^-53


@kernel(inline="always")
def _mix(state: np.uint64) -> np.uint64:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


@kernel
def bits(seed: int, epoch: int, row: int, view: int, draw: int) -> np.uint64:
    """Return the 64 random bits of one key.

    Args: seed, epoch, row, view, draw: non-negative integers; the key. Returns: uint64.
    """
    state = _mix(np.uint64(seed) + _GOLDEN)
    state = _mix((state ^ np.uint64(epoch)) + _GOLDEN)
    state = _mix((state ^ np.uint64(row)) + _GOLDEN)
    state = _mix((state ^ np.uint64(view)) + _GOLDEN)
    return _mix((state ^ np.uint64(draw)) + _GOLDEN)


@kernel
def uniform(seed: int, epoch: int, row: int, view: int, draw: int) -> float:
    """Return the uniform number in [0, 1) of one key (53 bits, float64)."""
    return float(bits(seed, epoch, row, view, draw) >> np.uint64(11)) * _TO_UNIT


@kernel
def integer(seed: int, epoch: int, row: int, view: int, draw: int, stop: int) -> int:
    """Return the integer in [0, stop) of one key; stop is below 2^53, the bias below stop / 2^53."""
    return int(uniform(seed, epoch, row, view, draw) * stop)
