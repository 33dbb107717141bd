"""The bilateral solver and the choice of regions: equal to the goldens and to a statement in loops."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.saliency.features.bilateral_solver import BilateralSolver, SolverSettings, grid_of
from backdrop.saliency.features.refinement import MAX_PIXELS, refined_by_solver
from backdrop.saliency.features.regions import intersection_over_union, largest_region, published_regions
from tests.reference import bilateral_solver as reference


def disc(size: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2


def picture(size: tuple[int, int], mask_HW: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(-15, 16, (*size, 3))
    return np.clip(np.where(mask_HW[..., None], [200, 60, 40], [40, 90, 180]) + noise, 0, 255).astype(np.uint8)


def test_it_equals_the_goldens(shared_data: Path) -> None:
    goldens = np.load(shared_data / "feature-goldens.npz", allow_pickle=False)
    image_HWC, target_HW = goldens["solver/rgb"], goldens["solver/target"].astype(np.float64)
    assert len(grid_of(image_HWC, SolverSettings()).mass_V) == goldens["solver/num_vertices"]
    np.testing.assert_allclose(
        BilateralSolver(image_HWC).solve(target_HW, is_exact=True), goldens["solver/soft_exact"], atol=1e-9
    )
    soft_HW = BilateralSolver(image_HWC).solve(target_HW)
    np.testing.assert_allclose(soft_HW, goldens["solver/soft_25"], atol=1e-9)
    for found, name in zip(published_regions(soft_HW), ("largest", "all"), strict=True):
        np.testing.assert_array_equal(found, goldens[f"solver/{name}"])


@pytest.mark.parametrize("number", range(4))
def test_regions_are_the_published_ones(shared_data: Path, number: int) -> None:
    goldens = np.load(shared_data / "feature-goldens.npz", allow_pickle=False)
    for found, name in zip(published_regions(goldens["pick/soft"][number]), ("largest", "all"), strict=True):
        np.testing.assert_array_equal(found, goldens[f"pick/{name}"][number])


@settings(max_examples=10, deadline=None)
@given(height=st.integers(1, 30), width=st.integers(1, 30), seed=st.integers(0, 10**6))
def test_it_equals_a_statement_in_loops(height: int, width: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    image_HWC = generator.integers(0, 256, (height, width, 3), np.uint8)
    target_HW = generator.random((height, width))
    expected = reference.solve(image_HWC, target_HW)
    np.testing.assert_allclose(BilateralSolver(image_HWC).solve(target_HW, is_exact=True), expected, atol=1e-9)
    np.testing.assert_allclose(BilateralSolver(image_HWC).solve(target_HW), expected, atol=2e-3)


def test_a_shifted_mask_comes_nearer_to_the_object() -> None:
    true_HW = disc((96, 128), (48, 64), 28)
    rough_HW = disc((96, 128), (54, 71), 28)
    refined_HW = refined_by_solver(picture((96, 128), true_HW, 0), rough_HW, is_single=True)
    before, after = (intersection_over_union(mask_HW, true_HW) for mask_HW in (rough_HW, refined_HW))
    assert before < 0.75
    assert after > 0.9


def test_an_image_too_large_for_the_grid_is_refined_at_a_smaller_size() -> None:
    size = (1100, 1100)
    assert size[0] * size[1] > MAX_PIXELS
    true_HW = disc(size, (550, 550), 300)
    refined_HW = refined_by_solver(picture(size, true_HW, 0), true_HW, is_single=True)
    assert refined_HW.shape == size
    assert intersection_over_union(refined_HW, true_HW) > 0.95


def test_a_mask_that_the_solver_loses_stays() -> None:
    rough_HW = np.zeros((64, 64), bool)
    rough_HW[30:33, 30:33] = True
    image_HWC = np.full((64, 64, 3), 90, np.uint8)
    np.testing.assert_array_equal(refined_by_solver(image_HWC, rough_HW, is_single=True), rough_HW)


def test_an_object_larger_than_the_background_stays_the_object() -> None:
    large_HW = np.zeros((20, 20), bool)
    large_HW[1:, :15] = True
    np.testing.assert_array_equal(published_regions(large_HW.astype(float))[0], ~large_HW)
    np.testing.assert_array_equal(largest_region(large_HW), large_HW)
    assert not largest_region(np.zeros((3, 4), bool)).any()
    assert largest_region(np.ones((3, 4), bool)).all()
