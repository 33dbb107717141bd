"""MC: its equations against loops and by hand, its scores on real images."""

from pathlib import Path

import numpy as np
import pytest

from backdrop.saliency.classical import _superpixels, mc
from backdrop.saliency.scoring.metrics import evaluate_folder
from tests.reference import saliency_mc as reference

# Nine superpixels of 2 x 2 pixels, the fifth in the middle.
NINE = np.kron(np.arange(9).reshape(3, 3), np.ones((2, 2), int)).astype(np.int32)


def random_graph(num: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Colour distances and a connected graph."""
    rng = np.random.default_rng(3)
    colour_distance = _superpixels.pairwise_distance(rng.uniform(0, 30, (num, 3)))
    linked = rng.random((num, num)) < 0.2
    linked |= linked.T | np.eye(num, k=1, dtype=bool) | np.eye(num, k=-1, dtype=bool)
    np.fill_diagonal(linked, False)
    return colour_distance, linked


def test_opposite_borders_by_hand() -> None:
    pairs = {(int(i), int(j)) for i, j in np.argwhere(mc.opposite_borders(NINE)) if i < j}
    assert pairs == {(0, 6), (1, 7), (2, 8), (0, 2), (3, 5), (6, 8)}


def test_affinity() -> None:
    colour_distance, linked = random_graph()
    expected = reference.affinity(colour_distance, linked)
    np.testing.assert_allclose(mc.colour_affinity(colour_distance, linked), expected, rtol=1e-12)


def test_absorbed_time_is_the_expected_walk() -> None:
    affinity = mc.colour_affinity(*random_graph())
    absorbs = np.arange(12) < 4
    weight = np.linspace(0.5, 2, 12)
    expected = reference.absorbed_time(affinity, absorbs, weight, 4000)
    np.testing.assert_allclose(mc.absorbed_time(affinity, absorbs, weight), expected, rtol=1e-6)


def test_absorbed_time_of_two_superpixels() -> None:
    # one absorbs: y0 = 1 + (y0 + w y1) / (2 + w), y1 = 1 + (w y0 + y1) / (1 + 2 w)
    w = 0.25
    affinity = np.array([[1, w], [w, 1]])
    y = mc.absorbed_time(affinity, np.array([True, False]), np.ones(2))
    np.testing.assert_allclose(y[0], 1 + (y[0] + w * y[1]) / (2 + w))
    np.testing.assert_allclose(y[1], 1 + (w * y[0] + y[1]) / (1 + 2 * w))
    np.testing.assert_allclose(y, [8 / 3, 13 / 3])


def test_centredness_by_hand() -> None:
    assert mc.centredness(np.array([0.0, 1.0])) == 1
    assert mc.centredness(np.array([0.45, 0.55])) == 5
    assert mc.centredness(np.array([0.0, 0.15, 0.95, 0.45])) == (1 + 2 + 1 + 5) / 4


def ring_affinity(*, inward: float) -> np.ndarray:
    """NINE with all pairs of neighbours alike, but for `inward` between the ring and the middle."""
    affinity = np.where(_superpixels.adjacency(NINE, diagonal=True), 1.0, 0.0)
    affinity[4, :] = affinity[:, 4] = inward
    np.fill_diagonal(affinity, 1)
    return affinity


def test_a_frame_is_stepped_over_when_it_is_hardly_like_what_it_encloses() -> None:
    touches, is_border = _superpixels.adjacency(NINE, diagonal=True), _superpixels.touches_border(NINE, 1)
    assert is_border.sum() == 8
    border, frame = mc.border_without_frame(ring_affinity(inward=1.7), touches, is_border)
    assert border.tolist() == is_border.tolist()  # 8 * 1.7 > 13
    assert not frame.any()
    border, frame = mc.border_without_frame(ring_affinity(inward=1.6), touches, is_border)
    assert np.flatnonzero(border).tolist() == [4]
    assert frame.tolist() == is_border.tolist()


def test_a_frame_and_an_isolated_superpixel() -> None:
    touches = np.eye(6, k=1, dtype=bool) | np.eye(6, k=-1, dtype=bool)
    affinity = np.where(touches, 0.5, 0.0) + np.eye(6)
    nothing = np.zeros(6, bool)
    is_border = np.arange(6) == 0
    plain = mc.chain_saliency(affinity, touches, is_border, nothing, nothing)
    assert plain.argmax() == 5
    assert (np.diff(plain) > 0).all()
    framed = mc.chain_saliency(affinity, touches, np.arange(6) == 1, is_border, nothing)
    assert framed[0] == 0
    np.testing.assert_allclose(framed[1], 0, atol=1e-12)
    isolated = mc.chain_saliency(affinity, touches, is_border, nothing, np.arange(6) == 5)
    assert isolated[4] == 1
    assert isolated[5] == 1  # beside a salient one
    far = mc.chain_saliency(affinity, touches, np.arange(6) == 5, nothing, is_border)
    assert far[0] == 1
    # without the second superpixel the walk from behind it never ends
    cut = mc.chain_saliency(affinity, touches, is_border, nothing, np.arange(6) == 1)
    assert cut.tolist() == [0, 1, 1, 1, 1, 1]
    assert mc.chain_saliency(affinity, touches, nothing, nothing, nothing).tolist() == [0] * 6


def test_an_undecided_result_is_weighted_by_the_equilibrium() -> None:
    # two classes: the middle of NINE is unlike the ring, so the first result is decided and stays
    decided = np.where(ring_affinity(inward=0.0) > 0, ring_affinity(inward=0.05), 0)
    decided[4, :] = decided[:, 4] = 0.05
    decided[4, 4] = 1
    is_border, nothing = np.arange(9) != 4, np.zeros(9, bool)
    touches = _superpixels.adjacency(NINE, diagonal=True)
    y = _superpixels.normalise(mc.absorbed_time(decided, is_border, np.ones(9)))
    assert mc.centredness(y) < 2
    np.testing.assert_allclose(mc.chain_saliency(decided, touches, is_border, nothing, nothing), y)
    # a chain rises evenly, is undecided, and is weighted by 1 / pi
    chain = np.eye(9) + 0.5 * (np.eye(9, k=1) + np.eye(9, k=-1))
    y = _superpixels.normalise(mc.absorbed_time(chain, np.arange(9) == 0, np.ones(9)))
    assert mc.centredness(y) >= 2
    rarity = 1 / chain.sum(axis=1)
    expected = _superpixels.normalise(mc.absorbed_time(chain, np.arange(9) == 0, rarity / rarity.sum()))
    links = _superpixels.two_ring(chain > 0)
    np.testing.assert_allclose(mc.chain_saliency(chain, links, np.arange(9) == 0, nothing, nothing), expected)
    assert np.abs(expected - y).max() > 1e-3


@pytest.mark.slow
def test_scores_on_real_images(shared_data: Path) -> None:
    scores = evaluate_folder(shared_data / "ecssd-dev" / "images", shared_data / "ecssd-dev" / "masks", "mc")
    assert scores["mae"] <= 0.218
    assert scores["f_max"] >= 0.73
