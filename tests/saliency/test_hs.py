"""HS: its steps against loops and hand-made label images, its agreement with the authors' maps, its scores."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label as connected_components

from backdrop.saliency.classical import _hs_kernels, hs
from backdrop.saliency.scoring.metrics import evaluate_folder
from backdrop.stores.images.image_codec import decode_grey, decode_rgb
from tests.reference import saliency_hs as reference

# Two plains, a bar between them that is one pixel wide, a 2 x 2 block in a corner.
LABELS_HW = np.array(
    [
        [0, 0, 0, 1, 2, 2],
        [0, 0, 0, 1, 2, 2],
        [0, 0, 0, 1, 2, 2],
        [0, 0, 0, 1, 2, 2],
        [0, 0, 0, 1, 3, 3],
        [0, 0, 0, 1, 3, 3],
    ],
    np.int32,
)


def luv_of(colours: list[float]) -> np.ndarray:
    """An image of `LABELS_HW` whose regions have these lightnesses."""
    luv_HWC = np.zeros((6, 6, 3), np.float32)
    luv_HWC[..., 0] = np.array(colours, np.float32)[LABELS_HW]
    return luv_HWC


def random_regions(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Connected regions of many shapes without gaps in their labels, and a colour per pixel."""
    rng = np.random.default_rng(seed)
    coarse_HW = rng.integers(0, 3, (height, width))
    grown_HW = cv2.medianBlur(coarse_HW.astype(np.uint8), 3)
    labels_HW, num = np.zeros((height, width), np.int32), 0
    for value in range(3):
        parts_HW, num_parts = connected_components(grown_HW == value)
        labels_HW[parts_HW > 0] = parts_HW[parts_HW > 0] + num - 1
        num += num_parts
    return labels_HW, rng.uniform(0, 100, (height, width, 3)).astype(np.float32)


@pytest.fixture(params=["compiled", "python"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every kernel compiled, and as the Python it is written in."""
    if request.param == "python":
        for name, kernel in list(vars(_hs_kernels).items()):
            if hasattr(kernel, "py_func"):
                monkeypatch.setattr(_hs_kernels, name, kernel.py_func)
    return request.param


def test_scale_of_hand_made_regions(kernels: str) -> None:
    assert hs.region_scale(LABELS_HW).tolist() == [3, 1, 2, 2]
    assert hs.region_scale(np.zeros((4, 9), np.int32)).tolist() == [4]
    cross_HW = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 2]], np.int32)
    assert hs.region_scale(cross_HW).tolist() == [2, 1, 1]


def test_a_sliver_joins_the_side_of_its_colour(kernels: str) -> None:
    assert hs.merge_small_regions(LABELS_HW, luv_of([10, 60, 80, 20]), 2).tolist() == [0, 1, 1, 2]
    assert hs.merge_small_regions(LABELS_HW, luv_of([10, 30, 80, 20]), 2).tolist() == [0, 2, 1, 2]
    assert hs.merge_small_regions(LABELS_HW, luv_of([10, 60, 80, 20]), 1).tolist() == [0, 1, 2, 3]


def test_merging_goes_on_from_the_mean_colour_of_the_union(kernels: str) -> None:
    labels_HW = np.tile(np.array([0, 0, 0, 1, 2, 3, 3, 3], np.int32), (3, 1))
    luv_HWC = np.zeros((3, 8, 3), np.float32)
    luv_HWC[..., 0] = np.array([0, 40, 52, 100], np.float32)[labels_HW]
    # 1 joins 2, which is nearer in colour than 0. Their mean, 46, is nearer to 0, where the 52 of 2 alone is to 100.
    assert hs.merge_small_regions(labels_HW, luv_HWC, 3).tolist() == [0, 0, 0, 1]
    # With a square of 2 px asked for, the union of 1 and 2 holds it and stays.
    assert hs.merge_small_regions(labels_HW, luv_HWC, 2).tolist() == [0, 1, 1, 2]
    # One region is left where none holds the square asked for.
    assert hs.merge_small_regions(labels_HW, luv_HWC, 4).tolist() == [0, 0, 0, 0]


def check_merge(seed: int, height: int, width: int, min_scale_px: int) -> None:
    labels_HW, luv_HWC = random_regions(seed, height, width)
    parent = hs.merge_small_regions(labels_HW, luv_HWC, min_scale_px)
    expected_HW = reference.merge_small_regions(labels_HW, luv_HWC, min_scale_px)
    merged_HW = parent[labels_HW]
    np.testing.assert_array_equal(merged_HW, np.unique(expected_HW, return_inverse=True)[1].reshape(height, width))
    for label, scale in enumerate(hs.region_scale(merged_HW)):
        assert scale == reference.region_scale(merged_HW, label)
        assert scale >= min_scale_px or merged_HW.max() == 0


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 14), width=st.integers(1, 14), min_scale_px=st.integers(1, 6))
def test_merging_equals_merging_on_the_pixels(seed: int, height: int, width: int, min_scale_px: int) -> None:
    check_merge(seed, height, width, min_scale_px)


def test_merging_in_python_too(kernels: str) -> None:
    for seed in range(3):
        check_merge(seed, 12, 13, 4)


def test_local_contrast(kernels: str) -> None:
    rng = np.random.default_rng(3)
    colour, position, size = rng.uniform(-50, 100, (9, 3)), rng.random((9, 2)), rng.integers(1, 500, 9).astype(float)
    expected = reference.local_contrast(colour, position, size)
    np.testing.assert_allclose(hs.local_contrast(colour, position, size), expected, rtol=1e-12)


def test_location_heuristic() -> None:
    labels_HW, _ = random_regions(7, 11, 16)
    expected = [reference.location_heuristic(labels_HW, label) for label in range(labels_HW.max() + 1)]
    np.testing.assert_allclose(hs.location_heuristic(labels_HW), expected, rtol=1e-12)


def test_the_tree_is_solved_exactly() -> None:
    rng = np.random.default_rng(1)
    # the last region of the middle layer is its parent's only child, others share one
    parents = [rng.permutation(np.arange(40) % 9), np.array([0, 0, 0, 1, 1, 2, 2, 2, 3])]
    cues = [rng.random(40), rng.random(9), rng.random(4)]
    np.testing.assert_allclose(hs.infer_tree(cues, parents), reference.infer_tree(cues, parents), rtol=1e-12)


def test_layers_that_agree_are_left_as_they_are() -> None:
    cues = [np.array([0.2, 0.2, 0.9]), np.array([0.2, 0.9]), np.array([0.2, 0.9])]
    solution = hs.infer_tree(cues, [np.array([0, 0, 1]), np.array([0, 1])])
    np.testing.assert_allclose(solution, [0.2, 0.2, 0.9], rtol=1e-12)


def test_touching_pairs_by_hand() -> None:
    pairs = {tuple(pair) for pair in hs.region_edges(LABELS_HW).tolist()}
    assert pairs == {(0, 1), (1, 0), (1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)}


def test_a_plain_is_one_region_and_an_edge_parts_two() -> None:
    luv_HWC = np.full((20, 30, 3), 50, np.float32)
    assert hs.over_segmentation(luv_HWC).max() == 0
    # shading below the threshold of slope parts nothing
    luv_HWC[..., 0] += np.arange(30, dtype=np.float32)
    assert hs.over_segmentation(luv_HWC).max() == 0
    luv_HWC[:, 15:, 1] += 40
    labels_HW = hs.over_segmentation(luv_HWC)
    assert len(np.unique(labels_HW[:, :14])) == 1
    assert len(np.unique(labels_HW[:, 16:])) == 1
    assert labels_HW.max() == 1


def test_a_small_pattern_does_not_outshine_the_object() -> None:
    """What the hierarchy is for: specks of the strongest contrast on the ground end below the object."""
    image_HWC = np.full((300, 400, 3), (90, 110, 90), np.uint8)
    image_HWC[90:210, 130:270] = (180, 60, 60)
    specks = [(row, column) for row in range(60, 250, 30) for column in (90, 300)]
    for row, column in specks:
        image_HWC[row : row + 9, column : column + 9] = 255
    saliency_HW = hs.saliency(image_HWC)
    assert saliency_HW[95:205, 135:265].mean() > 0.95
    assert max(saliency_HW[row + 4, column + 4] for row, column in specks) < 0.3


def mean_correlation(folder: Path, every: int, detect: Callable[[np.ndarray], np.ndarray]) -> float:
    """Mean Pearson correlation of our maps with the authors'."""
    correlations = []
    for path in sorted((folder / "images").iterdir())[::every]:
        theirs_HW = decode_grey((folder / "reference-maps" / "hs" / f"{path.stem}.png").read_bytes())
        ours_HW = detect(decode_rgb(path.read_bytes()))
        correlations.append(np.corrcoef(ours_HW.ravel(), theirs_HW.ravel())[0, 1])
    return float(np.mean(correlations))


def test_maps_agree_with_the_authors(shared_data: Path) -> None:
    assert mean_correlation(shared_data / "ecssd-dev", 8, hs.saliency) >= 0.75


@pytest.mark.slow
def test_maps_agree_with_the_authors_on_the_whole_set(shared_data: Path) -> None:
    assert mean_correlation(shared_data / "ecssd-dev", 1, hs.saliency) >= 0.75


@pytest.mark.slow
def test_scores_on_real_images(shared_data: Path) -> None:
    folder = shared_data / "ecssd-dev"
    scores = evaluate_folder(folder / "images", folder / "masks", "hs")
    assert scores["mae"] <= 0.240
    assert scores["f_max"] >= 0.69
