"""The pictures of the sample data set: ten kinds of objects on ten kinds of backgrounds.

An object has a shape and a pattern of its class and a colour near its class's hue; pose, size, colour and light vary. A
background is cut from a photograph that comes with scikit-image, or is procedural noise. Everything is drawn from the
generator passed in.
"""

import functools
from pathlib import Path

import cv2
import numpy as np
import skimage

from backdrop.errors import UserError
from backdrop.stores.images.image_codec import decode_rgb

CLASSES = ("arrow", "ball", "crescent", "cross", "fish", "flower", "heart", "ring", "star", "triangle")
# The family a class is most often seen on is the one of the same place in this list; pairs of contrasting colours.
BACKGROUNDS = ("water", "clouds", "tissue", "brick", "paper", "sand", "wood", "grass", "gravel", "stars")
PHOTOGRAPHS = {
    "brick": "brick.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "paper": "page.png",
    "stars": "hubble_deep_field.jpg",
    "tissue": "ihc.png",
}
# Grey photographs get a colour: (dark, light), RGB.
TINTS = {
    "brick": ((70, 30, 25), (205, 130, 105)),
    "grass": ((15, 45, 10), (150, 190, 80)),
    "paper": ((55, 55, 75), (245, 238, 215)),
    "gravel": ((40, 42, 48), (190, 190, 195)),
}
# Procedural families: (dark, light), RGB.
NOISE_COLOURS = {
    "clouds": ((70, 120, 190), (240, 243, 248)),
    "sand": ((150, 115, 70), (235, 205, 150)),
    "water": ((10, 55, 75), (95, 175, 185)),
    "wood": ((75, 42, 18), (190, 130, 75)),
}
SUPERSAMPLING = 4


def draw(rng: np.random.Generator, class_number: int, family: str, side_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture.

    Args:
        rng: where every choice comes from.
        class_number: 0 to 9, place in `CLASSES`.
        family: one of `BACKGROUNDS`.
        side_px: height and width.

    Returns:
        image_HWC: uint8 RGB.
        mask_HW: uint8, 1 = foreground.
    """
    background_HWC = _background(rng, family, side_px)
    to_image = _pose(rng, side_px)
    alpha_HW1 = _coverage(CLASSES[class_number], to_image, side_px)[..., None]
    object_HWC = _surface(rng, class_number, to_image, side_px)
    image_HWC = np.rint(alpha_HW1 * object_HWC + (1 - alpha_HW1) * background_HWC)
    return np.clip(image_HWC, 0, 255).astype(np.uint8), (alpha_HW1[..., 0] > 0.5).astype(np.uint8)


def _pose(rng: np.random.Generator, side_px: int) -> np.ndarray:
    """A random affine map, (2, 3), from the object's own coordinates (about -1 to 1) to pixels."""
    radius_px = side_px * rng.uniform(0.19, 0.34)
    stretch = np.exp(rng.uniform(-0.18, 0.18))
    angle = rng.uniform(-0.7, 0.7)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = radius_px * turn @ np.array([[stretch, rng.uniform(-0.15, 0.15)], [0, 1 / stretch]])
    reach_px = np.abs(linear).sum(axis=1)
    low, high = np.minimum(reach_px, side_px / 2), np.maximum(side_px - reach_px, side_px / 2)
    return np.column_stack([linear, rng.uniform(low, high)])


def _coverage(name: str, to_image: np.ndarray, side_px: int) -> np.ndarray:
    """How much of each pixel the object covers, float64 (H, W), 0 to 1."""
    large = np.zeros((side_px * SUPERSAMPLING,) * 2, np.uint8)
    contours = [
        np.rint((contour @ to_image[:, :2].T + to_image[:, 2]) * SUPERSAMPLING).astype(np.int32)
        for contour in _outline(name)
    ]
    cv2.fillPoly(large, contours, 1)
    return large.reshape(side_px, SUPERSAMPLING, side_px, SUPERSAMPLING).mean(axis=(1, 3))


def _outline(name: str) -> list[np.ndarray]:
    """Contours of a class's shape, each (points, 2) as (x, y), y downwards; where two overlap is a hole."""
    t = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    circle = np.column_stack([np.cos(t), np.sin(t)])
    match name:
        case "ball":
            return [circle * 0.9]
        case "ring":
            return [circle, circle * 0.52]
        case "flower":
            return [circle * (0.72 + 0.28 * np.cos(6 * t))[:, None]]
        case "crescent":
            outer, inner = circle[(t > 0.7) & (t < 5.6)], circle[::-1] * 0.78 + [0.42, 0]
            return [np.concatenate([outer, inner[(np.hypot(*inner.T) < 1)]])]
        case "heart":
            x, y = np.sin(t) ** 3, 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
            return [np.column_stack([x, -y / 15])]
        case "star":
            spokes = np.arange(10) * np.pi / 5 - np.pi / 2
            radii = np.where(np.arange(10) % 2, 0.42, 1.0)
            return [np.column_stack([np.cos(spokes), np.sin(spokes)]) * radii[:, None]]
        case "triangle":
            return [np.array([[0, -1], [0.95, 0.75], [-0.95, 0.75]])]
        case "arrow":
            return [np.array([[1, 0], [0.2, -0.8], [0.2, -0.3], [-1, -0.3], [-1, 0.3], [0.2, 0.3], [0.2, 0.8]])]
        case "cross":
            corner = np.array([[-0.32, -1], [0.32, -1], [0.32, -0.32]])
            turns = [np.array([[0, -1], [1, 0]]), np.eye(2)]
            quarters = [np.linalg.matrix_power(turns[0], number) for number in range(4)]
            return [np.concatenate([corner @ quarter.T for quarter in quarters])]
        case "fish":
            body = np.column_stack([0.65 * np.cos(t) + 0.3, 0.48 * np.sin(t)])[(t > 0.0) & (np.abs(t - np.pi) > 0.35)]
            upper, lower = body[: len(body) // 2], body[len(body) // 2 :]
            return [np.concatenate([upper, np.array([[-1, 0.6], [-0.8, 0], [-1, -0.6]]), lower])]
    raise AssertionError(name)


def _surface(rng: np.random.Generator, class_number: int, to_image: np.ndarray, side_px: int) -> np.ndarray:
    """The object's colours at every pixel of the image, float64 (H, W, 3), 0 to 255."""
    inverse = np.linalg.inv(to_image[:, :2])
    rows, columns = np.mgrid[:side_px, :side_px] + 0.5
    x, y = np.tensordot(inverse, np.stack([columns - to_image[0, 2], rows - to_image[1, 2]]), axes=1)
    phase, frequency = rng.uniform(0, 2 * np.pi), 9 * np.exp(rng.uniform(-0.2, 0.2))
    patterns = (
        lambda: np.sin(frequency * x + phase),  # bars
        lambda: np.sin(frequency * np.hypot(x, y) + phase),  # rings
        lambda: np.sin(frequency * x + phase) * np.sin(frequency * y + phase) * 2,  # spots
        lambda: np.sin(frequency * (x + y) / 1.4 + phase),  # slanted bars
        lambda: np.sin(frequency * (y + 0.25 * np.abs((3 * x) % 2 - 1)) + phase),  # zigzags
    )
    share = 1 / (1 + np.exp(-6 * patterns[class_number % len(patterns)]()))
    hue = class_number / len(CLASSES) + rng.normal(0, 0.035)
    light = _colour(hue, rng.uniform(0.5, 0.9), rng.uniform(0.75, 1.0))
    dark = _colour(hue + rng.normal(0.06, 0.02), rng.uniform(0.6, 0.95), rng.uniform(0.35, 0.6))
    from_above = 1 + rng.uniform(0.05, 0.25) * (x * np.cos(phase) - np.abs(y)) + rng.normal(0, 0.03, x.shape)
    return (share[..., None] * light + (1 - share[..., None]) * dark) * from_above[..., None]


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """HSV, each 0 to 1 (hue wraps), to RGB of 0 to 255."""
    sector = (hue % 1.0) * 6
    channels = np.array([5, 3, 1])
    k = (channels + sector) % 6
    return 255 * (value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1))


def _background(rng: np.random.Generator, family: str, side_px: int) -> np.ndarray:
    """A background, float64 (H, W, 3), 0 to 255."""
    if family in PHOTOGRAPHS:
        cut_HWC = _cut(rng, _photograph(family), side_px)
    else:
        dark, light = (np.array(colour, np.float64) for colour in NOISE_COLOURS[family])
        share_HW1 = _noise(rng, family, side_px)[..., None]
        cut_HWC = dark + share_HW1 * (light - dark)
    gain = rng.uniform(0.75, 1.15) * np.exp(rng.normal(0, 0.06, 3))
    return np.clip(cut_HWC * gain + rng.normal(0, 3, cut_HWC.shape), 0, 255)


@functools.cache
def _photograph(family: str) -> np.ndarray:
    """A photograph of scikit-image's wheel, read from its folder: nothing that could start a download is called."""
    file = Path(skimage.__file__).parent / "data" / PHOTOGRAPHS[family]
    if not file.is_file():
        raise UserError(f"scikit-image lacks {file}, which its wheel holds; install scikit-image anew")
    image_HWC = decode_rgb(file.read_bytes())
    if family not in TINTS:
        return image_HWC
    grey_HW1 = image_HWC.mean(axis=2, keepdims=True) / 255
    dark, light = (np.array(colour, np.float64) for colour in TINTS[family])
    return np.rint(dark + grey_HW1 * (light - dark)).astype(np.uint8)


def _cut(rng: np.random.Generator, image_HWC: np.ndarray, side_px: int) -> np.ndarray:
    """A random square of a photograph, scaled, flipped and turned by quarters; float64."""
    side = min(int(rng.uniform(0.75, 1.3) * side_px), *image_HWC.shape[:2])
    top = rng.integers(0, image_HWC.shape[0] - side + 1)
    left = rng.integers(0, image_HWC.shape[1] - side + 1)
    cut_HWC = cv2.resize(
        image_HWC[top : top + side, left : left + side], (side_px, side_px), interpolation=cv2.INTER_AREA
    )
    cut_HWC = np.rot90(cut_HWC, int(rng.integers(4)))
    return (cut_HWC[:, ::-1] if rng.integers(2) else cut_HWC).astype(np.float64)


def _noise(rng: np.random.Generator, family: str, side_px: int) -> np.ndarray:
    """A procedural texture, float64 (H, W), 0 to 1."""
    rows, columns = np.mgrid[:side_px, :side_px] / side_px
    match family:
        case "clouds":
            return np.clip(1.6 * _fractal(rng, side_px, (3, 3)) - 0.3, 0, 1)
        case "sand":
            ripples = np.sin(2 * np.pi * (rows * 14 + 3 * _fractal(rng, side_px, (2, 4))))
            return np.clip(0.5 + 0.2 * ripples + rng.normal(0, 0.13, rows.shape), 0, 1)
        case "water":
            glitter = _fractal(rng, side_px, (14, 4))
            return np.clip(0.35 + 1.5 * (glitter - 0.5) + 0.3 * (1 - rows), 0, 1)
        case "wood":
            grain = np.sin(2 * np.pi * (columns * 7 + 2.5 * _fractal(rng, side_px, (2, 5))))
            return np.clip(0.5 + 0.28 * grain + 0.5 * (_fractal(rng, side_px, (3, 40)) - 0.5), 0, 1)
    raise AssertionError(family)


def _fractal(rng: np.random.Generator, side_px: int, cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise of four octaves, float64 (H, W), about 0 to 1; the coarsest has `cells` (rows, columns)."""
    total = np.zeros((side_px, side_px))
    for octave in range(4):
        grid = rng.random((cells[0] * 2**octave + 1, cells[1] * 2**octave + 1))
        total += cv2.resize(grid, (side_px, side_px), interpolation=cv2.INTER_CUBIC) / 2**octave
    return total / 1.875
