"""Inputs of the dense CRF's golden values, and how these were made: by pydensecrf2 1.1, the authors' C++ in Python.

In an environment of its own that holds only numpy and pydensecrf2 1.1 (built from source, Python 3.11):

    python -m tests.golden.make_dense_crf

Inputs are integer arithmetic from a seed, the same on every machine, so dense_crf.npz holds nothing but outputs.
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("dense_crf.npz")
# As fields of CrfSettings: what DeepUSPS takes, which leaves a small image all but black and white, and a weaker field
# that keeps its marginals between.
SETTINGS = {
    "default": {
        "spatial_sigma_px": 3.0, "spatial_weight": 3.0, "bilateral_sigma_px": 80.0, "bilateral_sigma_rgb": 13.0,
        "bilateral_weight": 10.0, "iterations": 5,
    },
    "weak": {
        "spatial_sigma_px": 1.5, "spatial_weight": 0.25, "bilateral_sigma_px": 20.0, "bilateral_sigma_rgb": 20.0,
        "bilateral_weight": 0.75, "iterations": 3,
    },
}  # fmt: skip


def _smooth_field(seed: int, height: int, width: int, cell: int) -> np.ndarray:
    """Random colours on a coarse grid, bilinear between: uint8 (H, W, 3)."""
    grid = np.random.default_rng(seed).integers(0, 256, (height // cell + 2, width // cell + 2, 3))
    (rows, y), (columns, x) = np.divmod(np.arange(height), cell), np.divmod(np.arange(width), cell)
    y, x, rows, columns = y[:, None, None], x[None, :, None], rows[:, None], columns[None, :]
    above = grid[rows, columns] * (cell - x) + grid[rows, columns + 1] * x
    below = grid[rows + 1, columns] * (cell - x) + grid[rows + 1, columns + 1] * x
    return ((above * (cell - y) + below * y) // cell**2).astype(np.uint8)


def _disc(height: int, width: int, top: int, left: int, radius: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (y - top) ** 2 + (x - left) ** 2 <= radius**2


def _map(seed: int, shape_HW: np.ndarray) -> np.ndarray:
    """A doubtful map of a shape: uneven, in steps of 1/255, 0 and 1 among them."""
    height, width = shape_HW.shape
    doubt_HW = _smooth_field(seed, height, width, 7)[..., 0].astype(np.int64)
    levels_HW = np.where(shape_HW, 40 + doubt_HW, doubt_HW - 40).clip(0, 255)
    return levels_HW.astype(np.float32) / np.float32(255)


def inputs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Every case by name: an image, uint8 (H, W, 3), and a soft map of it, float32 (H, W)."""
    cases = {}
    disc = _disc(48, 64, 22, 30, 14)
    image = _smooth_field(0, 48, 64, 16) // 2
    image[disc] += 90
    cases["disc"] = image, _map(1, disc)
    discs = _disc(61, 97, 20, 25, 13) | _disc(61, 97, 40, 70, 17)
    image = _smooth_field(2, 61, 97, 9) // 2
    image[discs] = 255 - image[discs]
    cases["two_discs"] = image, _map(3, discs)
    # Few levels and equal channels: residuals and roundings tie.
    image = (_smooth_field(4, 40, 52, 11)[..., :1] // 64 * 64).repeat(3, axis=2)
    cases["few_greys"] = image, _map(5, image[..., 0] > 100)
    cases["flat"] = np.full((40, 52, 3), 128, np.uint8), _map(6, _disc(40, 52, 20, 20, 12))
    cases["black"] = np.zeros((16, 24, 3), np.uint8), _map(7, _disc(16, 24, 8, 8, 5))
    noise = np.random.default_rng(8).integers(0, 256, (36, 44, 3)).astype(np.uint8)
    cases["noise"] = noise, _map(9, _disc(36, 44, 18, 22, 10))
    cases["row"] = _smooth_field(10, 1, 40, 6), _map(11, np.arange(40)[None] > 17)
    cases["pixel"] = np.array([[[10, 200, 30]]], np.uint8), np.array([[0.625]], np.float32)
    return cases


def _refined_by_pydensecrf(image_HWC: np.ndarray, foreground_HW: np.ndarray, settings: dict) -> np.ndarray:
    from pydensecrf.densecrf import DenseCRF2D

    height, width = foreground_HW.shape
    probability_N = foreground_HW.ravel().astype(np.float64).clip(1e-6, 1 - 1e-6)
    crf = DenseCRF2D(width, height, 2)
    crf.setUnaryEnergy(-np.log(np.stack([1 - probability_N, probability_N])).astype(np.float32))
    crf.addPairwiseGaussian(sxy=settings["spatial_sigma_px"], compat=settings["spatial_weight"])
    crf.addPairwiseBilateral(
        sxy=settings["bilateral_sigma_px"],
        srgb=settings["bilateral_sigma_rgb"],
        rgbim=np.ascontiguousarray(image_HWC),
        compat=settings["bilateral_weight"],
    )
    return np.array(crf.inference(settings["iterations"]), np.float32)[1].reshape(height, width)


if __name__ == "__main__":
    outputs = {
        f"{name}_{strength}": _refined_by_pydensecrf(*case, settings)
        for name, case in inputs().items()
        for strength, settings in SETTINGS.items()
    }
    np.savez_compressed(FILE, **outputs)
