"""DSR: its steps against loops and optimality conditions, by hand, and its scores on real images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.saliency.classical import _dsr_kernels, dsr
from backdrop.saliency.scoring.metrics import evaluate_folder
from tests.reference import saliency_dsr as reference


@pytest.fixture(params=["compiled", "plain"])
def form(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """A kernel as it runs, and its Python body."""
    return (lambda kernel: kernel) if request.param == "compiled" else (lambda kernel: kernel.py_func)


def features(num: int, seed: int = 0, num_dims: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (num, num_dims))


def unit(feature: np.ndarray) -> np.ndarray:
    return feature / np.linalg.norm(feature, axis=1, keepdims=True)


def solve_lasso(kernel: Any, template: np.ndarray, sample: np.ndarray, penalty: float) -> np.ndarray:
    a = np.empty(len(template))
    kernel(template @ template.T, template @ sample, penalty, a, template.shape[1])
    return a


def test_lasso_is_that_of_coordinate_descent(form: Callable[[Any], Any]) -> None:
    # of the ninth on the first five, one template leaves and comes back with the other sign
    sample = unit(features(9, 4))
    expected = reference.lasso(sample[:5], sample[8], 0.01, 3000)
    result = solve_lasso(form(_dsr_kernels.lasso), sample[:5], sample[8], 0.01)
    np.testing.assert_allclose(result, expected, atol=1e-8)
    sparse = solve_lasso(form(_dsr_kernels.lasso), sample[:5], sample[8], 0.3)
    np.testing.assert_allclose(sparse, reference.lasso(sample[:5], sample[8], 0.3, 1000), atol=1e-8)
    assert (sparse == 0).any()


def test_lasso_of_one_template_is_a_soft_threshold() -> None:
    template = np.array([[0.6, 0.8]])
    for sample, expected in (([1.2, 1.6], 1.5), ([-0.6, -0.8], -0.5), ([0.3, 0.2], 0.0)):
        a = solve_lasso(_dsr_kernels.lasso, template, np.array(sample), 0.5)
        np.testing.assert_allclose(a, [expected], atol=1e-12)


@settings(deadline=None, max_examples=150)
@given(
    st.integers(1, 60),
    st.integers(0, 10_000),
    st.sampled_from(["spread", "alike", "twins", "flat"]),
    st.sampled_from([0.3, 0.01, 1e-4]),
)
def test_lasso_meets_its_optimality_conditions(num: int, seed: int, kind: str, penalty: float) -> None:
    template = features(num, seed)
    if kind == "alike":  # borders of one colour: templates differ by little
        template = 0.5 + 1e-3 * template
    elif kind == "twins":
        template = np.concatenate([template, template])
    elif kind == "flat":  # only position differs: two features of eight vary
        template[:, :6] = 0.4
    template, sample = unit(template), unit(features(1, seed + 1))[0]
    a = solve_lasso(_dsr_kernels.lasso, template, sample, penalty)
    assert reference.optimality_gap(template, sample, penalty, a) < 1e-7


def test_sparse_error_is_what_the_lasso_leaves() -> None:
    feature, is_border = features(9, 4), np.arange(9) < 5
    sample = unit(feature)
    for i, error in enumerate(dsr.sparse_error(feature, is_border)):
        a = reference.lasso(sample[:5], sample[i], 0.01, 3000)
        np.testing.assert_allclose(error, ((sample[i] - a @ sample[:5]) ** 2).sum(), atol=1e-9)


def test_sparse_error_plain() -> None:
    sample = unit(features(6, 2))
    template, errors = sample[:4], np.empty((2, 6))
    products = (template @ template.T, sample @ template.T)
    _dsr_kernels.sparse_errors(sample, template, *products, 0.01, errors[0])
    _dsr_kernels.sparse_errors.py_func(sample, template, *products, 0.01, errors[1])
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-12)


def test_dense_error() -> None:
    # three strong directions in eight, so that the rule of 95 % matters
    feature = features(40, 6) * [1, 0.9, 0.6, 0.1, 0.08, 0.05, 0.03, 0.01]
    is_border = np.arange(40) < 15
    result = dsr.dense_error(feature, is_border)
    np.testing.assert_allclose(result, reference.dense_error(feature, is_border), atol=1e-10)
    assert result.max() > 1e-3


def test_templates_all_alike_leave_the_distance_from_the_mean() -> None:
    feature = np.array([[0.0] * 8] * 4 + [[0.0] * 7 + [1.0]])
    assert np.isfinite(dsr.dense_error(feature, np.arange(5) < 4)).all()
    assert np.isfinite(dsr.sparse_error(feature, np.arange(5) < 4)).all()


def test_propagation(form: Callable[[Any], Any]) -> None:
    feature, error = features(14, 3), np.random.default_rng(8).random(14)
    cluster = np.array([0, 0, 1, 1, 1, 2, 0, 1, 3, 3, 3, 3, 0, 1])  # the 2 is alone
    expected = reference.propagate(feature, cluster, error)
    np.testing.assert_allclose(dsr.propagate(feature, cluster, error), expected, rtol=1e-12)
    assert expected[5] == error[5]
    again = error.copy()
    variance = feature.var(axis=0, ddof=1).mean()
    form(_dsr_kernels.propagate)(feature, cluster, np.argsort(-error), variance, 0.5, again)
    np.testing.assert_allclose(again, expected, rtol=1e-12)


def test_k_means_finds_what_is_apart(form: Callable[[Any], Any]) -> None:
    truth = np.arange(40) % 4
    feature = 0.01 * features(40) + np.eye(8)[truth]
    cluster = np.empty(40, np.int64)
    form(_dsr_kernels.k_means)(feature, 4, 100, cluster)
    assert len(set(zip(truth.tolist(), cluster.tolist(), strict=True))) == 4


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 60), st.integers(0, 1000))
def test_k_means_ends_where_no_sample_is_nearer_to_another_mean(num: int, seed: int) -> None:
    feature = features(num, seed, 3)
    cluster = dsr.feature_clusters(feature)
    assert len(set(cluster)) == min(8, num)
    means = np.array([feature[cluster == c].mean(axis=0) for c in range(min(8, num))])
    distance = ((feature[:, None] - means) ** 2).sum(axis=2)
    np.testing.assert_allclose(distance[np.arange(num), cluster], distance.min(axis=1), atol=1e-12)
    np.testing.assert_array_equal(cluster, dsr.feature_clusters(feature))


def test_samples_all_alike_leave_clusters_empty() -> None:
    assert set(dsr.feature_clusters(np.full((20, 8), 0.5))) == {0}


def test_scales_are_integrated_by_likeness(form: Callable[[Any], Any]) -> None:
    rng = np.random.default_rng(2)
    feature_HWD = rng.random((6, 6, 8)).astype(np.float32)
    scales = []
    total_EHW, weight_HW = np.zeros((2, 6, 6)), np.zeros((6, 6))
    for num in (3, 5):
        labels_HW = rng.integers(0, num, (6, 6)).astype(np.int32)
        mean_feature, error = rng.random((num, 8)).astype(np.float32), rng.random((num, 2))
        scales.append((labels_HW, mean_feature, error))
        form(_dsr_kernels.add_scale)(feature_HWD, labels_HW, mean_feature, error, total_EHW, weight_HW)
    for e in range(2):
        expected_HW = reference.integrate(feature_HWD, [(labels, mean, error[:, e]) for labels, mean, error in scales])
        np.testing.assert_allclose(total_EHW[e] / weight_HW, expected_HW, rtol=1e-5)


def test_object_bias_is_a_gaussian_around_the_centroid() -> None:
    error_HW = np.zeros((9, 13))
    error_HW[2, 4] = error_HW[6, 4] = 1  # centroid (4, 4)
    error_HW[4, 4:7] = 1  # now (4, 4.6)
    row, column = 4.0, (4 * 3 + 5 + 6) / 5
    weighted_HW = np.array(
        [
            [
                error_HW[y, x]
                * np.exp(-((y - row) ** 2) / (2 * (9 / 4) ** 2) - (x - column) ** 2 / (2 * (13 / 4) ** 2))
                for x in range(13)
            ]
            for y in range(9)
        ]
    )
    np.testing.assert_allclose(dsr.object_biased(error_HW), weighted_HW / weighted_HW.max(), atol=1e-12)
    assert dsr.object_biased(np.zeros((3, 3))).max() == 0


def test_posterior() -> None:
    prior_HW, evidence_HW = np.random.default_rng(4).random((2, 30, 30)) ** 2
    raw_HW = reference.posterior(prior_HW, evidence_HW)
    expected_HW = (raw_HW - raw_HW.min()) / (raw_HW.max() - raw_HW.min())
    np.testing.assert_allclose(dsr.posterior(prior_HW, evidence_HW), expected_HW, atol=1e-12)
    assert dsr.posterior(np.full((4, 4), 0.5), evidence_HW[:4, :4]).max() == 0


def test_a_grey_image_has_no_chroma_features() -> None:
    from skimage.color import rgb2lab

    grey_HW = np.random.default_rng(0).random((12, 15), np.float32)
    rgb_HWC = np.repeat(grey_HW[..., None], 3, axis=2)
    feature_HWD = dsr.pixel_features(rgb_HWC, rgb2lab(rgb_HWC))
    assert feature_HWD[..., 4:6].max() == 0
    assert (feature_HWD[..., 3].min(), feature_HWD[..., 3].max()) == (0, 1)
    np.testing.assert_allclose(feature_HWD[3, 5, 6:], [5 / 15, 3 / 12], rtol=1e-6)


@pytest.mark.slow
def test_scores_on_real_images(shared_data: Path) -> None:
    scores = evaluate_folder(shared_data / "ecssd-dev" / "images", shared_data / "ecssd-dev" / "masks", "dsr")
    assert scores["mae"] <= 0.185
    assert scores["f_max"] >= 0.715
