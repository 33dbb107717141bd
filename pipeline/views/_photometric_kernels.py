"""Numba kernels of the photometrics on a CPU: all that is done to one view while it lies in the cache of one core.

Torch's operations walk over the whole batch one after the other, which on a CPU is bound by memory; these do the same
arithmetic, that of `photometric.py`, sample by sample on three planes of float32. A sample is the same whatever the
number of threads.

Legend: a plane is float32 (H * W,), values in [0, 1]; planes is (3, H * W).
"""

import math
from typing import NamedTuple

import numpy as np

from backdrop.kernels import follow_sources, kernel
from backdrop.pipeline.views import view_plan

# Luma weights of ITU-R BT.601 as torchvision rounds them.
_RED, _GREEN, _BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)
_ZERO, _HALF, _ONE, _TWO = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(2.0)
_SIX, _SIXTH, _THIRD, _TWO_THIRDS = np.float32(6.0), np.float32(1 / 6), np.float32(1 / 3), np.float32(2 / 3)
_PER_LEVEL = np.float32(1 / 255)
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)


class ViewCode(NamedTuple):
    """What is the same for all rows of a view."""

    taps: int  # of the blur
    is_grey_first: bool  # before the jitter
    order: np.ndarray  # int64 (24, 4), operations of each rank of the jitter
    mean: np.ndarray  # float32 (3,)
    std: np.ndarray  # float32 (3,)


class Buffers(NamedTuple):
    """Memory of one thread, float32."""

    planes: np.ndarray  # (3, H * W)
    blurred: np.ndarray  # (3, H * W)
    column: np.ndarray  # (W,)
    line: np.ndarray  # (W + taps,), a row with its reflected ends
    weight: np.ndarray  # (taps,)


def make_buffers(height: int, width: int, taps: int) -> Buffers:
    """Allocate for views of one size."""
    return Buffers(
        planes=np.empty((3, height * width), np.float32),
        blurred=np.empty((3, height * width), np.float32),
        column=np.empty(width, np.float32),
        line=np.empty(width + taps, np.float32),
        weight=np.empty(taps, np.float32),
    )


@kernel(error_model="numpy")
def _load(image: np.ndarray, red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> None:
    """Split uint8 (3 H W,) pixels into planes."""
    for i in range(red.size):
        red[i] = np.float32(image[3 * i]) * _PER_LEVEL
        green[i] = np.float32(image[3 * i + 1]) * _PER_LEVEL
        blue[i] = np.float32(image[3 * i + 2]) * _PER_LEVEL


@kernel(error_model="numpy")
def _clamp(value: np.float32) -> np.float32:
    value = value if value > _ZERO else _ZERO
    return value if value < _ONE else _ONE


@kernel(error_model="numpy")
def _blend_with_level(plane: np.ndarray, factor: np.float32, level: np.float32) -> None:
    """Brightness and contrast: away from or towards one level."""
    for i in range(plane.size):
        plane[i] = _clamp(factor * plane[i] + level)


@kernel(error_model="numpy")
def _blend_with_grey(red: np.ndarray, green: np.ndarray, blue: np.ndarray, factor: np.float32) -> None:
    """Saturation: away from or towards the grey of each pixel; factor 0 is greyscale."""
    rest = _ONE - factor
    for i in range(red.size):
        grey = rest * (_RED * red[i] + _GREEN * green[i] + _BLUE * blue[i])
        red[i] = _clamp(factor * red[i] + grey)
        green[i] = _clamp(factor * green[i] + grey)
        blue[i] = _clamp(factor * blue[i] + grey)


@kernel(error_model="numpy")
def _add_grey(red: np.ndarray, green: np.ndarray, blue: np.ndarray, column: np.ndarray) -> None:
    for x in range(column.size):
        column[x] += _RED * red[x] + _GREEN * green[x] + _BLUE * blue[x]


@kernel(error_model="numpy")
def _mean_grey(planes: np.ndarray, column: np.ndarray) -> np.float32:
    """Mean grey of an image, summed column by column."""
    width, size = column.size, planes.shape[1]
    column[:] = _ZERO
    for start in range(0, size, width):
        end = start + width
        _add_grey(planes[0, start:end], planes[1, start:end], planes[2, start:end], column)
    total = 0.0
    for x in range(width):
        total += column[x]
    return np.float32(total / size)


@kernel(error_model="numpy")
def _channel(largest: np.float32, chroma: np.float32, angle: np.float32) -> np.float32:
    distance = angle - math.floor(angle + _HALF)
    distance = distance if distance > _ZERO else -distance
    return largest - chroma * _clamp(_TWO - _SIX * distance)


@kernel(error_model="numpy")
def _turn_hue(red: np.ndarray, green: np.ndarray, blue: np.ndarray, turns: np.float32) -> None:
    """`photometric.adjust_hue`, in the same steps."""
    for i in range(red.size):
        r, g, b = red[i], green[i], blue[i]
        largest = r if r > g else g
        largest = largest if largest > b else b
        smallest = r if r < g else g
        smallest = smallest if smallest < b else b
        chroma = largest - smallest
        per_chroma = _SIXTH / (chroma if chroma > _ZERO else _ONE)
        hue = (r - g) * per_chroma + _TWO_THIRDS
        hue = (b - r) * per_chroma + _THIRD if largest == g else hue
        hue = (g - b) * per_chroma if largest == r else hue
        hue += turns
        red[i] = _channel(largest, chroma, hue + _HALF)
        green[i] = _channel(largest, chroma, hue + _SIXTH)
        blue[i] = _channel(largest, chroma, hue - _SIXTH)


@kernel(error_model="numpy")
def _jitter(planes: np.ndarray, record: np.void, order: np.ndarray, column: np.ndarray) -> None:
    for position in range(4):
        operation = order[record["jitter_order"], position]
        if operation == _HUE:
            _turn_hue(planes[0], planes[1], planes[2], np.float32(record["hue"]))
        elif operation == _SATURATION:
            _blend_with_grey(planes[0], planes[1], planes[2], np.float32(record["saturation"]))
        else:
            is_contrast = operation == _CONTRAST
            factor = np.float32(record["contrast"]) if is_contrast else np.float32(record["brightness"])
            level = (_ONE - factor) * _mean_grey(planes, column) if is_contrast else _ZERO
            for channel in range(3):
                _blend_with_level(planes[channel], factor, level)


@kernel(error_model="numpy")
def _add_pair(a: np.ndarray, b: np.ndarray, weight: np.float32, total: np.ndarray) -> None:
    for x in range(total.size):
        total[x] += weight * (a[x] + b[x])


@kernel(error_model="numpy")
def _scale(source: np.ndarray, weight: np.float32, total: np.ndarray) -> None:
    for x in range(total.size):
        total[x] = weight * source[x]


@kernel(error_model="numpy")
def _fill_gaussian(sigma: float, weight: np.ndarray) -> None:
    reach, total = weight.size // 2, 0.0
    for k in range(weight.size):
        total += math.exp(-0.5 * ((k - reach) / sigma) ** 2)
    for k in range(weight.size):
        weight[k] = math.exp(-0.5 * ((k - reach) / sigma) ** 2) / total


@kernel(error_model="numpy")
def _mirror(at: int, size: int) -> int:
    """Reflect a place outside 0 .. size - 1 at the border pixel."""
    at = -at if at < 0 else at
    return 2 * (size - 1) - at if at >= size else at


@kernel(error_model="numpy")
def _blur_columns(plane: np.ndarray, width: int, weight: np.ndarray, out: np.ndarray) -> None:
    """Blur along the columns: each row of the result is a sum of rows, symmetric pairs together."""
    height, reach = plane.size // width, weight.size // 2
    for y in range(height):
        total = out[y * width : (y + 1) * width]
        _scale(plane[y * width : (y + 1) * width], weight[reach], total)
        for k in range(1, reach + 1):
            above, below = _mirror(y - k, height) * width, _mirror(y + k, height) * width
            _add_pair(plane[above : above + width], plane[below : below + width], weight[reach + k], total)


@kernel(error_model="numpy")
def _blur_rows(plane: np.ndarray, width: int, weight: np.ndarray, line: np.ndarray, out: np.ndarray) -> None:
    """Blur along the rows, each put between its mirrored ends first."""
    height, reach = plane.size // width, weight.size // 2
    for y in range(height):
        start = y * width
        line[reach : reach + width] = plane[start : start + width]
        for k in range(1, reach + 1):
            line[reach - k] = plane[start + k]
            line[reach + width - 1 + k] = plane[start + width - 1 - k]
        total = out[start : start + width]
        _scale(line[reach : reach + width], weight[reach], total)
        for k in range(1, reach + 1):
            left, right = line[reach - k : reach - k + width], line[reach + k : reach + k + width]
            _add_pair(left, right, weight[reach + k], total)


@kernel(error_model="numpy")
def _solarise(plane: np.ndarray) -> None:
    for i in range(plane.size):
        plane[i] = _ONE - plane[i] if plane[i] >= _HALF else plane[i]


@kernel(error_model="numpy")
def _normalise(plane: np.ndarray, mean: np.float32, std: np.float32, out: np.ndarray) -> None:
    for i in range(plane.size):
        out[i] = (plane[i] - mean) / std


@kernel(error_model="numpy")
def augment_sample(image: np.ndarray, width: int, record: np.void, code: ViewCode, buffers: Buffers, out) -> None:
    """Jitter, greyscale, blur, solarise and normalise one view: `photometric.augment`, then the normalisation.

    image: uint8 (3 H W,), channels last. record: of VIEW_DTYPE. out: float32 (3, H * W), written.
    """
    planes = buffers.planes
    _load(image, planes[0], planes[1], planes[2])
    if record["is_grey"] and code.is_grey_first:
        _blend_with_grey(planes[0], planes[1], planes[2], _ZERO)
    if record["is_jittered"]:
        _jitter(planes, record, code.order, buffers.column)
    if record["is_grey"] and not code.is_grey_first:
        _blend_with_grey(planes[0], planes[1], planes[2], _ZERO)
    if record["blur_sigma_px"] > 0:
        _fill_gaussian(record["blur_sigma_px"], buffers.weight)
        for channel in range(3):
            _blur_columns(planes[channel], width, buffers.weight, buffers.blurred[channel])
            _blur_rows(buffers.blurred[channel], width, buffers.weight, buffers.line, planes[channel])
    for channel in range(3):
        if record["is_solarised"]:
            _solarise(planes[channel])
        _normalise(planes[channel], code.mean[channel], code.std[channel], out[channel])


@kernel(error_model="numpy")
def augment_rows(image_BN, width, record_B, code, buffers, out_BCN) -> None:
    """`augment_sample` for every row; image_BN: uint8 (B, 3 H W), out_BCN: float32 (B, 3, H W)."""
    for row in range(len(image_BN)):
        augment_sample(image_BN[row], width, record_B[row], code, buffers, out_BCN[row])


follow_sources(__name__, view_plan)
