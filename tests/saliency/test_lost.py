"""LOST: equal to the goldens and to loops, whatever the order of the patches; large objects; and as a detector."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.saliency.detectors import open_detector
from backdrop.saliency.features.lost import lost
from tests.material.planted_patches import planted
from tests.material.published_vits import tiny_dino
from tests.reference import lost as reference

pytestmark = pytest.mark.usefixtures("one_thread")


def keys_of(mask_hw: np.ndarray, seed: int = 0, noise: float = 0.2) -> np.ndarray:
    """Foreground along one axis, background along the other way and one more, with noise."""
    generator = np.random.default_rng(seed)
    keys_ND = noise * generator.standard_normal((mask_hw.size, 8))
    keys_ND[:, 0] += np.where(mask_hw.ravel(), 2, -0.5)
    keys_ND[:, 1] += np.where(mask_hw.ravel(), 0, 2)
    return keys_ND


@pytest.mark.parametrize("case", ["one", "two", "large"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_it_equals_the_goldens(shared_data: Path, case: str, dtype: type) -> None:
    goldens = np.load(shared_data / "feature-goldens.npz", allow_pickle=False)
    expected = {name.rpartition("/")[2]: goldens[name] for name in goldens.files if name.startswith(f"{case}/lost/")}
    keys_ND = goldens[f"{case}/qkv"][1:, 16:32].astype(dtype)
    found = lost(keys_ND, tuple(goldens[f"{case}/dims"]), has_corner_rule=False)
    assert found is not None
    np.testing.assert_array_equal(found.degree_N, expected["degree"])
    assert (found.seed, found.similar_N.sum()) == (expected["seed"], expected["num_similar"])
    np.testing.assert_array_equal(found.positive_hw, expected["positive"])
    np.testing.assert_array_equal(found.component_hw, expected["component"])


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(2, 6), columns=st.integers(2, 6), seed=st.integers(0, 10**6), lowest=st.sampled_from([3, 100]))
def test_it_equals_loops(rows: int, columns: int, seed: int, lowest: int) -> None:
    keys_ND = np.random.default_rng(seed).standard_normal((rows * columns, 3))
    found = lost(keys_ND, (rows, columns), num_lowest=lowest, has_corner_rule=False)
    if found is None:
        return
    degrees, first, object_hw = reference.lost(keys_ND, (rows, columns), lowest)
    assert (found.degree_N.tolist(), found.seed) == (degrees, first)
    np.testing.assert_array_equal(found.component_hw, object_hw)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_patches_may_stand_in_any_order(seed: int) -> None:
    """Of the positive side; what hangs together, and which of equals is the first, follow their places."""
    keys_ND = np.random.default_rng(3).standard_normal((42, 8))
    order = np.random.default_rng(seed).permutation(42)
    straight, shuffled = lost(keys_ND, (6, 7)), lost(keys_ND[order], (6, 7))
    assert straight is not None
    assert shuffled is not None
    np.testing.assert_array_equal(shuffled.degree_N, straight.degree_N[order])
    lowest = straight.degree_N[order] == straight.degree_N.min()
    if lowest.sum() == 1:
        np.testing.assert_array_equal(shuffled.positive_hw.ravel(), straight.positive_hw.ravel()[order])


@pytest.mark.parametrize("axes", [0, 1, (0, 1)])
@pytest.mark.parametrize("has_corner_rule", [False, True])
def test_a_flipped_image_has_a_flipped_object(axes: int | tuple[int, int], has_corner_rule: bool) -> None:
    mask_hw = planted((6, 7), (1, 2, 3, 3))
    keys_hwD = keys_of(mask_hw).reshape(6, 7, 8)
    found = lost(np.flip(keys_hwD, axes).reshape(42, 8), (6, 7), has_corner_rule=has_corner_rule)
    assert found is not None
    assert not found.is_flipped
    np.testing.assert_array_equal(found.component_hw, np.flip(mask_hw, axes))


def test_an_object_larger_than_the_background_is_found_by_the_corners_alone() -> None:
    """The paper's is what is rarer: a frame of one patch about an object of most of the image."""
    mask_hw = planted((8, 8), (1, 1, 6, 6))
    keys_ND = keys_of(mask_hw, noise=0.02)
    published, ours = lost(keys_ND, (8, 8), has_corner_rule=False), lost(keys_ND, (8, 8))
    assert published is not None
    assert ours is not None
    np.testing.assert_array_equal(published.component_hw, ~mask_hw)
    np.testing.assert_array_equal(ours.component_hw, mask_hw)
    assert ours.is_flipped


def test_patches_all_alike_or_none_like_another_have_no_object() -> None:
    assert lost(np.ones((9, 3)), (3, 3)) is None
    assert lost(np.eye(9), (3, 3)) is None
    assert lost(np.zeros((9, 3)), (3, 3)) is None
    assert lost(np.ones((1, 3)), (1, 1)) is None


@pytest.mark.parametrize("ending", ["", ":solver", ":published"])
@pytest.mark.parametrize("size", [(1, 1), (41, 60)])
def test_an_image_of_any_size_has_a_map(tmp_path: Path, size: tuple[int, int], ending: str) -> None:
    detector = open_detector(f"lost:{tiny_dino(tmp_path / 'dino.pth')}{ending}", device="cpu")
    map_HW = detector(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8), "key")
    assert (map_HW.shape, map_HW.dtype) == (size, np.float32)
    assert 0 <= map_HW.min() <= map_HW.max() <= 1
    assert detector.identity["settings"]["has_corner_rule"] == (ending != ":published")
