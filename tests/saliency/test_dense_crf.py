"""The dense CRF against the authors' C++, against loops over the paper's formulas, and against itself on torch."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.errors import UserError
from backdrop.saliency.crf import _permutohedral, dense_crf
from backdrop.saliency.crf.dense_crf import CrfSettings, ImageLattices, feature_scales
from backdrop.saliency.crf.dense_crf_torch import refine_batch
from tests.golden import make_dense_crf
from tests.reference import dense_crf as reference

CASES = make_dense_crf.inputs()
# Marginals stay between 0 and 1 and the kernels reach a few pixels: small images are sensitive to everything.
SENSITIVE = CrfSettings(
    spatial_sigma_px=1.5, spatial_weight=0.5, bilateral_sigma_px=4, bilateral_sigma_rgb=40, bilateral_weight=0.8
)
KERNELS = ("_elevate", "_round_and_rank", "_first_slot", "_find", "_grow", "_scale_row", "_place_row", "_neighbours",
           "splat", "blur", "slice_onto", "_normalise", "build")  # fmt: skip


def scene(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image of two halves and a doubtful map of the right one."""
    rng = np.random.default_rng(seed)
    is_right = np.broadcast_to(np.arange(width) >= width // 2, (height, width))
    image_HWC = (60 + 70 * is_right[..., None] + rng.integers(0, 50, (height, width, 3))).astype(np.uint8)
    return image_HWC, (0.2 + 0.2 * is_right + 0.4 * rng.random((height, width))).astype(np.float32)


def refine_on_torch(image_HWC: np.ndarray, foreground_HW: np.ndarray, crf: CrfSettings) -> np.ndarray:
    batch = refine_batch(torch.from_numpy(image_HWC)[None], torch.from_numpy(foreground_HW)[None], crf)
    return batch[0].numpy()


@pytest.mark.parametrize("refine", [dense_crf.refine, refine_on_torch], ids=["numba", "torch"])
@pytest.mark.parametrize("strength", make_dense_crf.SETTINGS)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_authors_code(name: str, strength: str, refine: Callable) -> None:
    with np.load(make_dense_crf.FILE, allow_pickle=False) as golden:
        expected_HW = golden[f"{name}_{strength}"]
    refined_HW = refine(*CASES[name], CrfSettings(**make_dense_crf.SETTINGS[strength]))
    assert refined_HW.dtype == np.float32
    np.testing.assert_allclose(refined_HW, expected_HW, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(refined_HW > 0.5, expected_HW > 0.5)


def test_the_golden_settings_are_the_defaults() -> None:
    assert CrfSettings(**make_dense_crf.SETTINGS["default"]) == CrfSettings()


@pytest.mark.parametrize("refine", [dense_crf.refine, refine_on_torch], ids=["numba", "torch"])
@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    height=st.integers(1, 8),
    width=st.integers(1, 8),
    seed=st.integers(0, 2**32 - 1),
    num_levels=st.sampled_from([1, 2, 256]),
    spatial_sigma_px=st.floats(0.3, 20),
    bilateral_sigma_rgb=st.floats(2, 200),
)
def test_equals_loops_over_the_lattice(
    refine: Callable, height: int, width: int, seed: int, num_levels: int, **sigmas: float
) -> None:
    rng = np.random.default_rng(seed)
    image_HWC = (rng.integers(0, num_levels, (height, width, 3)) * (256 // num_levels)).astype(np.uint8)
    foreground_HW = rng.random((height, width), dtype=np.float32)
    crf = CrfSettings(spatial_weight=0.5, bilateral_sigma_px=5, bilateral_weight=0.7, iterations=2, **sigmas)
    expected_HW = reference.refine(image_HWC, foreground_HW, crf)
    np.testing.assert_allclose(refine(image_HWC, foreground_HW, crf), expected_HW, rtol=0, atol=1e-5)


def test_the_lattice_is_near_the_gaussian() -> None:
    image_HWC, foreground_HW = scene(11, 13)
    exact_HW = reference.refine(image_HWC, foreground_HW, SENSITIVE, reference.gaussian_filter)
    refined_HW = dense_crf.refine(image_HWC, foreground_HW, SENSITIVE)
    moved = np.abs(exact_HW - foreground_HW).mean()
    assert moved > 0.05
    assert np.abs(refined_HW - exact_HW).mean() < 0.1 * moved


def test_one_pixel_in_closed_form() -> None:
    """One pixel is its own and only neighbour: both normalised kernels are 1."""
    crf = CrfSettings(spatial_weight=0.3, bilateral_weight=0.4, iterations=2)
    unary = math.log(0.6 / 0.4)
    logit = unary
    for _ in range(2):
        logit = unary + 0.7 * math.tanh(logit / 2)
    refined_HW = dense_crf.refine(np.full((1, 1, 3), 200, np.uint8), np.full((1, 1), 0.6), crf)
    assert refined_HW[0, 0] == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-6)


def test_borders_move_to_those_of_the_image() -> None:
    image_HWC = np.full((40, 60, 3), 40, np.uint8)
    image_HWC[:, 30:] = 200
    foreground_HW = np.full((40, 60), 0.2, np.float32)
    foreground_HW[:, 26:] = 0.8  # four columns too many
    refined_HW = dense_crf.refine(image_HWC, foreground_HW)
    np.testing.assert_array_equal(refined_HW > 0.5, image_HWC[..., 0] > 100)


def test_swapping_the_labels_swaps_the_result() -> None:
    image_HWC, foreground_HW = scene(20, 24)
    foreground_HW = (np.round(foreground_HW * 256) / 256).astype(np.float32)  # 1 - p is exact
    swapped_HW = dense_crf.refine(image_HWC, 1 - foreground_HW, SENSITIVE)
    np.testing.assert_allclose(swapped_HW, 1 - dense_crf.refine(image_HWC, foreground_HW, SENSITIVE), rtol=0, atol=2e-7)


def test_lattices_serve_many_maps_and_keep_nothing() -> None:
    image_HWC, foreground_HW = scene(20, 24)
    lattices = ImageLattices(image_HWC, SENSITIVE)
    first_HW = lattices.refine(foreground_HW)
    lattices.refine(foreground_HW[::-1])
    np.testing.assert_array_equal(lattices.refine(foreground_HW), first_HW)
    np.testing.assert_array_equal(dense_crf.refine(image_HWC, foreground_HW, SENSITIVE), first_HW)
    np.testing.assert_array_equal(dense_crf.refine(np.asfortranarray(image_HWC), foreground_HW, SENSITIVE), first_HW)


def test_certain_maps_stay_finite() -> None:
    image_HWC, foreground_HW = scene(9, 10)
    certain_HW = (foreground_HW > 0.5).astype(np.float32)
    near_HW = np.clip(certain_HW, dense_crf.MIN_PROBABILITY, 1 - dense_crf.MIN_PROBABILITY)
    refined_HW = dense_crf.refine(image_HWC, certain_HW, SENSITIVE)
    assert np.isfinite(refined_HW).all()
    np.testing.assert_allclose(refined_HW, dense_crf.refine(image_HWC, near_HW, SENSITIVE), rtol=0, atol=1e-6)


def interpret_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KERNELS:
        monkeypatch.setattr(_permutohedral, name, getattr(_permutohedral, name).py_func)


def test_kernels_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    image_HWC, foreground_HW = scene(7, 9)
    scales = feature_scales(7, 9, 3, 4.0, 40.0)
    arguments = (image_HWC, scales.columns_W, scales.rows_H, scales.levels, scales.units)
    compiled = _permutohedral.build(*arguments)
    summed = _permutohedral.splat(compiled, foreground_HW.ravel())
    blurred = _permutohedral.blur(compiled, summed.copy())
    interpret_kernels(monkeypatch)
    with np.errstate(over="ignore"):  # the hash is meant to
        interpreted = _permutohedral.build(*arguments)
    np.testing.assert_array_equal(interpreted.vertex, compiled.vertex)
    np.testing.assert_array_equal(interpreted.neighbour, compiled.neighbour)
    np.testing.assert_allclose(interpreted.weight, compiled.weight, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(_permutohedral.splat(compiled, foreground_HW.ravel()), summed, rtol=1e-6)
    np.testing.assert_allclose(_permutohedral.blur(compiled, summed.copy()), blurred, rtol=1e-6)


def test_the_hash_table_grows() -> None:
    """Noise gives almost every pixel lattice points of its own, more than the first table holds."""
    image_HWC = np.random.default_rng(0).integers(0, 256, (80, 90, 3)).astype(np.uint8)
    scales = feature_scales(80, 90, 3, 80.0, 5.0)
    lattice = _permutohedral.build(image_HWC, scales.columns_W, scales.rows_H, scales.levels, scales.units)
    num_points = lattice.neighbour.shape[1]
    assert num_points > _permutohedral.FIRST_CAPACITY // 2
    foreground_HW = np.random.default_rng(1).random((80, 90), dtype=np.float32)
    crf = CrfSettings(bilateral_sigma_rgb=5, bilateral_weight=1, spatial_weight=1)
    on_torch_HW = refine_on_torch(image_HWC, foreground_HW, crf)
    np.testing.assert_allclose(dense_crf.refine(image_HWC, foreground_HW, crf), on_torch_HW, rtol=0, atol=1e-5)


def test_keys_name_every_lattice_point_once() -> None:
    """Coordinates of the corners of the feature space, and of their blur neighbours, fit their places in a key."""
    for num_channels, sigma_px in ((0, 0.1), (3, 80.0)):
        scales = feature_scales(50, 400, num_channels, sigma_px, 13.0)
        ends = [(0, float(values[-1])) for values in (scales.columns_W, scales.rows_H, *scales.levels)]
        corners = np.stack(np.meshgrid(*ends), -1).reshape(-1, len(ends))
        num_axes = len(ends) + 1
        axes = np.arange(num_axes)
        sums = np.stack([corners[:, axis:].sum(1) for axis in axes], 1)
        elevated = sums - axes * np.concatenate([np.zeros((len(corners), 1)), corners], 1)
        reach = elevated.max(0) - elevated.min(0) + 6 * num_axes
        radices = [*(scales.units[1:-1] // scales.units[:-2]), scales.image_unit // scales.units[-2]]
        assert (np.array(radices) >= reach[:-1]).all()


def test_a_batch_is_its_images() -> None:
    pairs = [scene(20, 24, seed) for seed in range(5)]
    images_BHWC, maps_BHW = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
    expected_BHW = np.stack([dense_crf.refine(*pair) for pair in pairs])
    for max_images in (1, 2, 5):
        refined_BHW = refine_batch(images_BHWC, maps_BHW, max_images=max_images)
        assert refined_BHW.dtype == torch.float32
        np.testing.assert_allclose(refined_BHW.numpy(), expected_BHW, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(refined_BHW.numpy() > 0.5, expected_BHW > 0.5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_batch_on_cuda() -> None:
    pairs = [scene(60, 70, seed) for seed in range(3)]
    images_BHWC, maps_BHW = (torch.from_numpy(np.stack(part)).cuda() for part in zip(*pairs, strict=True))
    refined_BHW = refine_batch(images_BHWC, maps_BHW)
    assert refined_BHW.is_cuda
    expected_BHW = np.stack([dense_crf.refine(*pair) for pair in pairs])
    np.testing.assert_allclose(refined_BHW.cpu().numpy(), expected_BHW, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"spatial_sigma_px": 0.0},
        {"bilateral_sigma_px": -1.0},
        {"bilateral_sigma_rgb": math.nan},
        {"spatial_weight": -0.1},
        {"bilateral_weight": math.inf},
        {"iterations": 0},
        {"iterations": 2.5},
    ],
    ids=str,
)
def test_nonsense_is_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        CrfSettings(**wrong)


def test_a_lattice_too_fine_for_its_keys_is_refused() -> None:
    with pytest.raises(UserError, match="too small"):
        feature_scales(4000, 4000, 3, 0.1, 0.1, num_images=20)


def test_wrong_arrays_are_refused() -> None:
    image_HWC, foreground_HW = scene(6, 8)
    lattices = ImageLattices(image_HWC)
    broken_HW = foreground_HW.copy()
    for value in (math.nan, math.inf, -0.5, 255.0):
        broken_HW[3, 4] = value
        with pytest.raises(ValueError, match="finite in"):
            lattices.refine(broken_HW)
        with pytest.raises(ValueError, match="finite in"):
            refine_on_torch(image_HWC, broken_HW, SENSITIVE)
    with pytest.raises(ValueError, match="a map of"):
        lattices.refine(foreground_HW.T)
    for not_an_image in (image_HWC / 255, image_HWC[..., 0], image_HWC[:0]):
        with pytest.raises(ValueError, match="an image is uint8"):
            ImageLattices(not_an_image)
    batch, maps = torch.from_numpy(image_HWC)[None], torch.from_numpy(foreground_HW)[None]
    with pytest.raises(ValueError, match="images are uint8"):
        refine_batch(batch.float(), maps)
    with pytest.raises(ValueError, match="maps of"):
        refine_batch(batch, maps[:, 1:])
    with pytest.raises(ValueError, match="max_images"):
        refine_batch(batch, maps, max_images=0)
