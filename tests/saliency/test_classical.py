"""What every classical detector keeps to: its interface, any image, the same map each time; and the mean of them."""

from collections.abc import Callable
from importlib import import_module

import numpy as np
import pytest

from backdrop.saliency.classical import NAMES, mean
from backdrop.saliency.detectors import open_detector

SIZES = [(1, 1), (1, 7), (8, 8), (8, 400), (2, 300), (300, 2), (40, 40), (130, 130)]


def disc(height: int = 120, width: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """A red disc on a bluish ground with noise, and its true mask."""
    rows, columns = np.mgrid[0:height, 0:width]
    truth_HW = (rows - height // 2) ** 2 + (columns - width // 2) ** 2 < (min(height, width) // 4) ** 2
    image_HWC = np.where(truth_HW[..., None], [200, 40, 30], [60, 90, 140])
    noise_HWC = np.random.default_rng(0).integers(-8, 9, image_HWC.shape)
    return np.clip(image_HWC + noise_HWC, 0, 255).astype(np.uint8), truth_HW


def flat(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), (90, 140, 20), np.uint8)


def black(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def two_halves(height: int, width: int) -> np.ndarray:
    image_HWC = flat(height, width)
    image_HWC[:, width // 2 :] = 250
    return image_HWC


def grey_ramp(height: int, width: int) -> np.ndarray:
    grey_W = np.linspace(0, 255, width).astype(np.uint8)
    return np.broadcast_to(grey_W[None, :, None], (height, width, 3)).copy()


def one_odd_pixel(height: int, width: int) -> np.ndarray:
    image_HWC = flat(height, width)
    image_HWC[height // 2, width // 2] += 1
    return image_HWC


def check(saliency_HW: np.ndarray, size: tuple[int, int]) -> None:
    assert saliency_HW.shape == size
    assert saliency_HW.dtype == np.float32
    assert np.isfinite(saliency_HW).all()
    assert saliency_HW.min() >= 0
    assert saliency_HW.max() <= 1


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_interface(name: str) -> None:
    module = import_module(f"backdrop.saliency.classical.{name}")
    assert open_detector(name).identity == {"name": name, "algorithm_version": module.ALGORITHM_VERSION}
    assert isinstance(module.ALGORITHM_VERSION, int)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("content", [flat, black, noise, two_halves, grey_ramp, one_odd_pixel])
def test_any_image(name: str, size: tuple[int, int], content: Callable[[int, int], np.ndarray]) -> None:
    image_HWC = content(*size)
    before_HWC = image_HWC.copy()
    saliency_HW = open_detector(name)(image_HWC, "key")
    check(saliency_HW, size)
    np.testing.assert_array_equal(image_HWC, before_HWC)
    if content in (flat, black):
        assert saliency_HW.max() == 0


def test_a_panorama(name: str) -> None:
    check(open_detector(name)(noise(100, 20_000), "key"), (100, 20_000))


def test_a_disc_is_found(name: str) -> None:
    image_HWC, truth_HW = disc()
    saliency_HW = open_detector(name)(image_HWC, "key")
    assert saliency_HW[truth_HW].mean() > 0.9
    assert saliency_HW[~truth_HW].mean() < 0.1


def test_a_grey_disc_is_found(name: str) -> None:
    image_HWC, truth_HW = disc()
    image_HWC = np.repeat(image_HWC[..., :1], 3, axis=2)
    saliency_HW = open_detector(name)(image_HWC, "key")
    assert saliency_HW[truth_HW].mean() > saliency_HW[~truth_HW].mean() + 0.7


def test_the_same_image_gives_the_same_map(name: str) -> None:
    image_HWC, _ = disc(90, 70)
    image_HWC[:, ::3] //= 2
    first_HW = open_detector(name)(image_HWC, "key")
    np.random.seed(1)  # no detector may draw from it
    state = np.random.get_state()[1].tobytes()
    # a view with other strides is the same image
    np.testing.assert_array_equal(open_detector(name)(np.asfortranarray(image_HWC), "other"), first_HW)
    assert np.random.get_state()[1].tobytes() == state


def test_the_mean_is_that_of_the_four() -> None:
    image_HWC, _ = disc(60, 80)
    maps = [open_detector(name)(image_HWC, "key") for name in ("mc", "hs", "dsr", "rbd")]
    expected_HW = sum(map_HW.astype(np.float64) for map_HW in maps) / 4
    np.testing.assert_allclose(mean.saliency(image_HWC), expected_HW, atol=1e-6)
    versions = [open_detector(name).identity["algorithm_version"] for name in ("mc", "hs", "dsr", "rbd")]
    assert sum(versions) < mean.ALGORITHM_VERSION
