"""The fast SLIC: one step against loops, by hand, and what every segmentation keeps to."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.saliency.classical import _slic_kernels
from backdrop.saliency.classical._superpixels import fast_slic_labels
from tests.reference import slic as reference


@pytest.fixture(params=["compiled", "plain"])
def form(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """A kernel as it runs, and its Python body."""
    return (lambda kernel: kernel) if request.param == "compiled" else (lambda kernel: kernel.py_func)


def noise_lab(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-40, 60, (height, width, 3)).astype(np.float32)


def test_pixels_go_to_the_nearest_centre_in_reach(form: Callable[[Any], Any]) -> None:
    lab_HWC = noise_lab(17, 23)
    rng = np.random.default_rng(1)
    centre = np.concatenate([rng.uniform(0, [17, 23], (9, 2)), rng.uniform(-40, 60, (9, 3))], axis=1)
    centre = centre.astype(np.float32)
    labels_HW = np.full((17, 23), -1, np.int32)
    lab_CHW = np.ascontiguousarray(np.moveaxis(lab_HWC, 2, 0))
    form(_slic_kernels.assign_pixels)(lab_CHW, centre, 2.5, 1 / 20**2, labels_HW)
    expected_HW = reference.nearest_centres(lab_HWC, centre, 2.5, 20, 5.0)
    np.testing.assert_array_equal(labels_HW, expected_HW)
    assert (labels_HW == -1).any()
    assert (labels_HW >= 0).any()


def test_centres_move_to_the_mean_of_their_pixels(form: Callable[[Any], Any]) -> None:
    labels_HW = np.array([[0, 0, 2], [0, 2, 2]], np.int32)
    lab_CHW = np.arange(18, dtype=np.float32).reshape(3, 2, 3)
    centre = np.full((3, 5), 7, np.float32)
    form(_slic_kernels.move_centres)(lab_CHW, labels_HW, centre)
    expected = [[1 / 3, 1 / 3, 4 / 3, 22 / 3, 40 / 3], [7] * 5, [2 / 3, 5 / 3, 11 / 3, 29 / 3, 47 / 3]]
    np.testing.assert_allclose(centre, expected, rtol=1e-6)


def test_pieces_become_regions_and_crumbs_join_a_neighbour(form: Callable[[Any], Any]) -> None:
    labels_HW = np.array(
        [
            [3, 3, 5, 5, 3, 3],
            [3, 3, 5, 5, 3, 3],
            [3, 9, 5, 5, 3, 3],
        ],
        np.int32,
    )
    connected_HW = np.empty_like(labels_HW)
    assert form(_slic_kernels.connect)(labels_HW, 2, connected_HW) == 3
    # both 3s are apart; the single 9 joins the region above it
    np.testing.assert_array_equal(connected_HW, [[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2]])


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(0, 100))
def test_labels_are_dense_and_connected(height: int, width: int, num_superpixels: int, seed: int) -> None:
    lab_HWC = noise_lab(height, width, seed)
    labels_HW = fast_slic_labels(lab_HWC, num_superpixels, 10.0)
    num = labels_HW.max() + 1
    assert labels_HW.shape == (height, width)
    assert labels_HW.dtype == np.int32
    assert np.unique(labels_HW).tolist() == list(range(num))
    assert reference.num_pieces(labels_HW) == num
    np.testing.assert_array_equal(labels_HW, fast_slic_labels(lab_HWC, num_superpixels, 10.0))


def test_regions_follow_an_edge() -> None:
    lab_HWC = np.zeros((60, 80, 3), np.float32)
    rows, columns = np.mgrid[0:60, 0:80]
    inside_HW = (rows - 30) ** 2 + (columns - 37) ** 2 < 18**2
    lab_HWC[inside_HW] = 60
    labels_HW = fast_slic_labels(lab_HWC, 40, 10.0)
    share = np.bincount(labels_HW.ravel(), weights=inside_HW.ravel()) / np.bincount(labels_HW.ravel())
    assert set(share) == {0.0, 1.0}
    assert 20 <= len(share) <= 60
