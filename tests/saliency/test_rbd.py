"""RBD: its equations against loops, its frames, its scores on real images."""

from pathlib import Path

import numpy as np
import pytest

from backdrop.saliency.classical import _superpixels, rbd
from backdrop.saliency.scoring.metrics import evaluate_folder
from backdrop.stores.images.image_codec import decode_grey, decode_rgb
from tests.reference import saliency_rbd as reference


def random_graph(num: int = 14) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Colour distances, position distances, a connected 1-ring and border flags."""
    rng = np.random.default_rng(5)
    colour = _superpixels.pairwise_distance(rng.uniform(0, 30, (num, 3)))
    position = _superpixels.pairwise_distance(rng.uniform(0, 1.6, (num, 2)))
    touches = rng.random((num, num)) < 0.15
    touches |= touches.T
    for i in range(num - 1):
        touches[i, i + 1] = touches[i + 1, i] = True
    np.fill_diagonal(touches, False)
    return colour, position, touches, np.arange(num) < 5


def scene(height: int = 120, width: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """A red disc on a bluish ground with noise, and its true mask."""
    rows, columns = np.mgrid[0:height, 0:width]
    truth_HW = (rows - height // 2) ** 2 + (columns - width // 2) ** 2 < (min(height, width) // 4) ** 2
    image_HWC = np.where(truth_HW[..., None], [200, 40, 30], [60, 90, 140])
    noise_HWC = np.random.default_rng(0).integers(-8, 9, image_HWC.shape)
    return np.clip(image_HWC + noise_HWC, 0, 255).astype(np.uint8), truth_HW


def test_geodesic_distance_is_the_shortest_path() -> None:
    colour, _, touches, is_border = random_graph()
    expected = reference.geodesic_distance(colour, touches, is_border, clip=4.0)
    np.testing.assert_allclose(rbd.geodesic_distance(colour, touches, is_border, 4.0), expected, atol=1e-6)


def test_a_free_edge_stays_an_edge() -> None:
    colour, touches = np.zeros((3, 3)), np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
    assert rbd.geodesic_distance(colour, touches, np.zeros(3, bool), 0.0).max() < 1e-6


def test_boundary_connectivity() -> None:
    colour, _, touches, is_border = random_graph()
    geodesic = rbd.geodesic_distance(colour, touches, is_border, 2.0)
    expected = reference.boundary_connectivity(geodesic, is_border, 7.0)
    np.testing.assert_allclose(rbd.boundary_connectivity(geodesic, is_border, 7.0), expected, rtol=1e-12)


def test_contrast_is_stretched_and_cut_at_its_otsu_threshold() -> None:
    colour, position, _, _ = random_graph()
    connectivity = np.linspace(0, 3, len(colour))
    raw = reference.raw_contrast(colour, position, connectivity)
    expected = (raw - raw.min()) / (raw.max() - raw.min())
    contrast = rbd.background_weighted_contrast(colour, position, connectivity)
    kept = contrast > 0
    assert kept.any()
    assert not kept.all()
    np.testing.assert_allclose(contrast[kept], expected[kept], rtol=1e-10)
    assert expected[~kept].max() < expected[kept].min()


def test_the_optimised_map_minimises_the_cost() -> None:
    colour, _, touches, is_border = random_graph()
    near = _superpixels.two_ring(touches)
    connectivity = np.linspace(0.1, 4, len(colour))
    contrast = np.where(np.arange(len(colour)) % 3 == 0, 0.8, 0.0)
    sigma = 9.0
    linked = near | (is_border[:, None] & is_border[None, :])
    smoothness = np.where(linked & (colour <= 3 * sigma), np.exp(-(colour**2) / (2 * sigma**2)), 0) + 0.1 * touches
    background = np.where(connectivity > 3, 1000.0, 1 - np.exp(-(connectivity**2) / 2))
    result = rbd.optimise(colour, touches, near, is_border, connectivity, contrast, sigma)
    # the result is stretched, so the best stretched map must come from the minimum: search it by its gradient
    s = np.full(len(colour), 0.5)
    for _ in range(400):
        for i in range(len(s)):
            pull = smoothness[i].sum() + 5 * background[i] + contrast[i]
            s[i] = (smoothness[i] @ s + contrast[i]) / pull
    minimum = reference.cost(s, contrast, background, smoothness)
    moved = s + 1e-3 * np.random.default_rng(1).standard_normal(len(s))
    assert minimum < reference.cost(moved, contrast, background, smoothness)
    np.testing.assert_allclose(result, (s - s.min()) / (s.max() - s.min()), atol=1e-8)


def test_superpixel_graph_by_hand() -> None:
    labels_HW = np.array([[0, 0, 1], [2, 2, 1], [2, 3, 3]], np.int32)
    four = _superpixels.adjacency(labels_HW)
    pairs = {tuple(pair) for pair in np.argwhere(four) if pair[0] < pair[1]}
    assert pairs == {(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)}
    corners = _superpixels.adjacency(np.array([[0, 1], [2, 3]], np.int32), diagonal=True)
    assert corners[0, 3]
    assert corners[1, 2]
    values_HWC = np.arange(9.0).reshape(3, 3, 1)
    np.testing.assert_allclose(_superpixels.mean_per_superpixel(values_HWC, labels_HW)[:, 0], [0.5, 3.5, 13 / 3, 7.5])
    chain = np.eye(4, k=1, dtype=bool) | np.eye(4, k=-1, dtype=bool)
    assert _superpixels.two_ring(chain).sum(axis=1).tolist() == [2, 3, 3, 2]


def test_a_large_image_is_found_at_its_own_size() -> None:
    image_HWC, truth_HW = scene(900, 1200)
    saliency_HW = rbd.saliency(image_HWC)
    assert saliency_HW.shape == truth_HW.shape
    assert ((saliency_HW > 0.5) == truth_HW).mean() > 0.98


def test_a_frame_is_cut_off_and_never_salient() -> None:
    image_HWC, truth_HW = scene(200, 260)
    framed_HWC = image_HWC.copy()
    framed_HWC[:12] = framed_HWC[-12:] = framed_HWC[:, :12] = framed_HWC[:, -12:] = 255
    top, left, height, width = rbd.box_without_frame(framed_HWC)
    assert 12 <= top <= 14
    assert 12 <= left <= 14
    assert 200 - 12 - 14 <= top + height <= 188
    assert 260 - 12 - 14 <= left + width <= 248
    saliency_HW = rbd.saliency(framed_HWC)
    assert saliency_HW[:12].max() == 0
    assert saliency_HW[truth_HW].mean() > 0.9
    assert rbd.box_without_frame(image_HWC) == (0, 0, 200, 260)


def mean_correlation(folder: Path, step: int) -> float:
    correlations = []
    for path in sorted((folder / "images").iterdir())[::step]:
        theirs_HW = decode_grey((folder / "reference-maps" / "rbd" / f"{path.stem}.png").read_bytes())
        ours_HW = rbd.saliency(decode_rgb(path.read_bytes()))
        correlations.append(np.corrcoef(ours_HW.ravel(), theirs_HW.ravel())[0, 1])
    return float(np.mean(correlations))


@pytest.mark.parametrize(("dataset", "floor"), [("sed2", 0.86), ("pascal-s-dev", 0.88)])
def test_maps_agree_with_the_authors(shared_data: Path, dataset: str, floor: float) -> None:
    assert mean_correlation(shared_data / dataset, 8) >= floor


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["sed2", "pascal-s-dev"])
def test_all_maps_agree_with_the_authors(shared_data: Path, dataset: str) -> None:
    assert mean_correlation(shared_data / dataset, 1) >= 0.89


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "mae", "f_max"), [("ecssd-dev", 0.192, 0.685), ("sed2", 0.135, 0.80), ("pascal-s-dev", 0.212, 0.61)]
)
def test_scores_on_real_images(shared_data: Path, dataset: str, mae: float, f_max: float) -> None:
    scores = evaluate_folder(shared_data / dataset / "images", shared_data / dataset / "masks", "rbd")
    assert scores["mae"] <= mae
    assert scores["f_max"] >= f_max
