"""Dense CRF: move the borders of a soft foreground map to those of the image.

Source: Kraehenbuehl and Koltun, Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials, NIPS 2011,
with two labels, Potts compatibility and symmetrically normalised kernels; filtering on the permutohedral lattice of
Adams, Baek and Davis 2010. Agrees with the authors' C++ within 1e-4; one deliberate difference: the C++ fills the last
block of four pixels with a black one at the corner, whose lattice points then exist although nothing is there.

Legend: H rows, W columns, C colours, D dimensions of a feature, N = H * W pixels. Symbols of the paper: theta_gamma and
w2 are the spatial deviation and weight, theta_alpha, theta_beta and w1 the bilateral deviations and weight.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, NamedTuple

import numpy as np

from backdrop.errors import UserError
from backdrop.saliency.crf import _permutohedral
from backdrop.settings import at_least, check_settings

# Probabilities are kept this far from 0 and 1, so that their logarithms are finite. Our departure: DeepUSPS does not.
MIN_PROBABILITY = 1e-6
# A soft map may pass 0 and 1 by this much, as softmax in half precision and resizing do, and is then clipped.
RANGE_TOLERANCE = 1e-3
# Below a tenth of a pixel or level no two pixels are alike, and coordinates outgrow their type.
MIN_SIGMA = 0.1
# Sizes whose spatial lattice is kept: 4.7 MB each at 432 x 432.
NUM_SPATIAL_LATTICES = 8


@dataclass(frozen=True, kw_only=True)
class CrfSettings:
    """The kernels and the number of updates; the defaults are those of DeepUSPS, everywhere it uses a CRF."""

    spatial_sigma_px: Annotated[float, at_least(MIN_SIGMA), "Standard deviation of the smoothness kernel, pixels"] = 3.0
    spatial_weight: Annotated[float, at_least(0), "Weight of the smoothness kernel in the energy, nats"] = 3.0
    bilateral_sigma_px: Annotated[
        float,
        at_least(MIN_SIGMA),
        "Standard deviation of the appearance kernel in position, pixels",
    ] = 80.0
    bilateral_sigma_rgb: Annotated[
        float,
        at_least(MIN_SIGMA),
        "Standard deviation of the appearance kernel in each colour, levels of 0 to 255",
    ] = 13.0
    bilateral_weight: Annotated[float, at_least(0), "Weight of the appearance kernel in the energy, nats"] = 10.0
    iterations: Annotated[int, at_least(1), "Mean field updates"] = 5

    def __post_init__(self) -> None:
        """Refuse what is no kernel and no count.

        Raises:
            UserError: for a deviation below 0.1, a negative or infinite weight, no iteration.
        """
        check_settings(self, "crf")
        if self.iterations != int(self.iterations):
            raise UserError(f"crf.iterations={self.iterations} must be a whole number")

    def at_scale(self, factor: float) -> "CrfSettings":
        """The same kernels on an image that is `factor` times as large: lengths in pixels grow with it."""
        return replace(
            self,
            spatial_sigma_px=self.spatial_sigma_px * factor,
            bilateral_sigma_px=self.bilateral_sigma_px * factor,
        )


# Those of DeepUSPS, for squares of REFERENCE_SIDE_PX.
DEFAULTS = CrfSettings()
REFERENCE_SIDE_PX = 432


class FeatureScales(NamedTuple):
    """What one column, row or level adds to a feature, in lattice coordinates, and how coordinates make a key."""

    columns_W: np.ndarray  # float32
    rows_H: np.ndarray  # float32
    levels: np.ndarray  # float32 (C, 256)
    units: np.ndarray  # int64 (D + 1), of each coordinate in a key; the last is 0, it follows from the others
    image_unit: int  # more than any two keys of one image are apart


def feature_scales(
    height: int, width: int, num_channels: int, sigma_px: float, sigma_levels: float, num_images: int = 1
) -> FeatureScales:
    """Scale the features (column, row, channels), each over its deviation, for the lattice (p. 5 of Adams et al.).

    Args:
        height: H of the image, pixels.
        width: W of the image, pixels.
        num_channels: C, 0 for position alone.
        sigma_px: standard deviation in position, pixels.
        sigma_levels: standard deviation in a channel, levels.
        num_images: that share one set of keys.

    Raises:
        UserError: the lattice has more cells than an int64 key can name.
    """
    num_dimensions = 2 + num_channels
    deviation = np.float32(math.sqrt(2 / 3) * (num_dimensions + 1))
    counts, sigmas = (width, height, *[256] * num_channels), (sigma_px, sigma_px, *[sigma_levels] * num_channels)
    # Single precision and this order of operations, as in the C++: which way a tie falls depends on them.
    scaled = [
        np.arange(count, dtype=np.float32) / np.float32(sigma)
        * np.float32(float(deviation) / math.sqrt((axis + 1) * (axis + 2)))
        for axis, (count, sigma) in enumerate(zip(counts, sigmas, strict=True))
    ]  # fmt: skip
    units = _key_units([float(values[-1]) for values in scaled])
    if units[-1] * num_images >= 2**63:
        raise UserError(
            f"dense CRF: deviations of {sigma_px} px and {sigma_levels} levels are too small for {num_images} image(s) "
            f"of {height} x {width}; give larger deviations or resize the image"
        )
    levels = np.array(scaled[2:], np.float32).reshape(num_channels, 256)
    return FeatureScales(scaled[0], scaled[1], levels, np.array([*units[:-1], 0], np.int64), units[-1])


def _key_units(largest_D: list[float]) -> list[int]:
    """Mixed radix: units of the first D coordinates for features up to `largest_D`, then that of what comes next."""
    num_axes = len(largest_D) + 1
    margin = 8 * num_axes  # rounding, the simplex and a blur neighbour, on both sides
    units = [1]
    for axis in range(len(largest_D)):
        lowest = axis * largest_D[axis - 1] if axis else 0
        units.append(units[-1] * (math.ceil(lowest + sum(largest_D[axis:])) + margin))
    return units


@lru_cache(maxsize=NUM_SPATIAL_LATTICES)
def _spatial_lattice(height: int, width: int, sigma_px: float) -> _permutohedral.Lattice:
    """The lattice of position alone, the same for all images of a size."""
    return _build(np.empty((height, width, 0), np.uint8), sigma_px, sigma_levels=1)


def _build(image_HWC: np.ndarray, sigma_px: float, sigma_levels: float) -> _permutohedral.Lattice:
    height, width, num_channels = image_HWC.shape
    scales = feature_scales(height, width, num_channels, sigma_px, sigma_levels)
    return _permutohedral.build(image_HWC, scales.columns_W, scales.rows_H, scales.levels, scales.units)


class ImageLattices:
    """The two kernels of one image, ready to refine any number of maps of it."""

    def __init__(self, image_HWC: np.ndarray, settings: CrfSettings = DEFAULTS) -> None:
        """Build the bilateral lattice; the spatial one is shared by all images of a size.

        Args:
            image_HWC: uint8 RGB, at least one pixel.
            settings: of the kernels.

        Raises:
            ValueError: not an image.
        """
        if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or image_HWC.size == 0:
            raise ValueError(f"an image is uint8 (H, W, 3), not {image_HWC.dtype} {image_HWC.shape}")
        self._height, self._width = image_HWC.shape[:2]
        self._settings = settings
        self._spatial = _spatial_lattice(self._height, self._width, settings.spatial_sigma_px)
        image_HWC = np.ascontiguousarray(image_HWC)
        self._bilateral = _build(image_HWC, settings.bilateral_sigma_px, settings.bilateral_sigma_rgb)

    def refine(self, foreground_HW: np.ndarray) -> np.ndarray:
        """Mean field (Algorithm 1) from a soft map: float32 (H, W) in [0, 1], the marginal of the foreground.

        Args:
            foreground_HW: float, probability of the foreground in [0, 1].

        Raises:
            ValueError: another size than the image, not finite, outside [0, 1].
        """
        if foreground_HW.shape != (self._height, self._width):
            raise ValueError(f"a map of {foreground_HW.shape} for an image of {(self._height, self._width)}")
        # Not a number compares false, so this refuses it too.
        if not (foreground_HW.min() >= -RANGE_TOLERANCE and foreground_HW.max() <= 1 + RANGE_TOLERANCE):
            raise ValueError(f"a soft map is finite in [0, 1], not {foreground_HW.min()} to {foreground_HW.max()}")
        probability_N = np.clip(foreground_HW.ravel().astype(np.float64), MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        unary_N = (np.log(probability_N) - np.log1p(-probability_N)).astype(np.float32)
        return (0.5 + 0.5 * self._mean_field(unary_N)).reshape(self._height, self._width)

    def _mean_field(self, unary_N: np.ndarray) -> np.ndarray:
        """Marginal of the foreground less that of the background, from the logits of the map.

        Only the difference of two labels matters: the logit e gives tanh(e / 2), and an update is
        e <- unary + sum over the kernels of weight * K tanh(e / 2). The pixel itself is part of K, as in the C++.
        """
        kernels = (
            (self._spatial, np.float32(self._settings.spatial_weight)),
            (self._bilateral, np.float32(self._settings.bilateral_weight)),
        )
        difference_N = np.tanh(unary_N / 2)
        for _ in range(int(self._settings.iterations)):
            logit_N = unary_N.copy()
            for lattice, weight in kernels:
                table = _permutohedral.blur(lattice, _permutohedral.splat(lattice, difference_N))
                _permutohedral.slice_onto(lattice, weight * table, logit_N)
            difference_N = np.tanh(logit_N / 2)
        return difference_N


def refine(image_HWC: np.ndarray, foreground_HW: np.ndarray, settings: CrfSettings = DEFAULTS) -> np.ndarray:
    """Refine one map of one image: float32 (H, W) in [0, 1], the marginal of the foreground.

    Args:
        image_HWC: uint8 RGB.
        foreground_HW: float, probability of the foreground in [0, 1].
        settings: of the kernels and the updates.

    Raises:
        ValueError: not an image; a map of another size, not finite, outside [0, 1].
    """
    return ImageLattices(image_HWC, settings).refine(foreground_HW)
