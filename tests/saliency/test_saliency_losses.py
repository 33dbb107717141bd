"""The F-loss against its loop form, the clamp's gradient."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.saliency.deepusps2.losses import asymmetric_clamp, f_loss, mean_f_loss, soft_label, soft_label_loss
from tests.reference import saliency_losses as reference


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.23, 0.31, 0.5]), st.sampled_from([0.3, 1.0, 4.0]))
def test_f_loss_is_its_loop_form(seed: int, threshold: float, beta_squared: float) -> None:
    rng = np.random.default_rng(seed)
    # a coarse grid, so that p = t and t = threshold happen
    prediction_BHW = rng.integers(0, 101, (3, 4, 5)) / 100
    target_BHW = rng.integers(0, 101, (3, 4, 5)) / 100
    expected = reference.f_loss(prediction_BHW, target_BHW, threshold, beta_squared)
    result = f_loss(torch.tensor(prediction_BHW), torch.tensor(target_BHW), threshold, beta_squared)
    assert result.item() == pytest.approx(expected, abs=1e-12)


def test_certain_pixels_are_free_and_pass_no_gradient() -> None:
    prediction = torch.tensor([[[0.9, 0.6, 0.1, 0.4]]], requires_grad=True)
    target = torch.tensor([[[0.8, 0.8, 0.2, 0.2]]])
    clamped = asymmetric_clamp(prediction, target, 0.5)
    assert clamped.flatten().tolist() == pytest.approx([1, 0.6, 0, 0.4])
    clamped.sum().backward()
    assert prediction.grad is not None
    assert prediction.grad.flatten().tolist() == [0, 1, 0, 1]


def test_extremes() -> None:
    target = torch.zeros(1, 4, 4)
    target[:, :2] = 1
    assert f_loss(target, target, 0.5, 1.0).item() == pytest.approx(0, abs=1e-4)
    assert f_loss(1 - target, target, 0.5, 1.0).item() == pytest.approx(1, abs=1e-4)
    # an empty target cannot be matched, and must not give NaN
    assert f_loss(target, torch.zeros_like(target), 0.5, 1.0).item() == pytest.approx(1)


def test_several_targets_are_averaged() -> None:
    rng = torch.Generator().manual_seed(0)
    prediction, first, second = torch.rand(3, 2, 4, 4, generator=rng)
    expected = (f_loss(prediction, first, 0.3, 4.0) + f_loss(prediction, second, 0.5, 4.0)) / 2
    torch.testing.assert_close(mean_f_loss(prediction, [first, second], [0.3, 0.5], 4.0), expected)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.5]), st.sampled_from([0.05, 0.08, 1.0]))
def test_the_loss_of_soft_labels_is_its_loop_form(seed: int, threshold: float, softness: float) -> None:
    rng = np.random.default_rng(seed)
    prediction_BHW = rng.integers(1, 100, (3, 4, 5)) / 100
    target_BHW = rng.integers(0, 101, (3, 4, 5)) / 100
    label_BHW = np.vectorize(reference.soft_label)(target_BHW, threshold, softness)
    label = soft_label(torch.tensor(target_BHW), threshold, softness)
    np.testing.assert_allclose(label.numpy(), label_BHW, rtol=1e-12)
    expected = reference.soft_label_loss(prediction_BHW, label_BHW)
    assert soft_label_loss(torch.tensor(prediction_BHW), label).item() == pytest.approx(expected, rel=1e-12)


def test_near_the_threshold_a_soft_label_asks_for_less() -> None:
    label = soft_label(torch.tensor([[[0.31, 0.9]]]), 0.3, 0.08)
    prediction = torch.full((1, 1, 2), 0.5, requires_grad=True)
    soft_label_loss(prediction, label).backward()
    assert prediction.grad is not None
    unsure, sure = prediction.grad.flatten().tolist()
    assert sure < unsure
    empty = torch.zeros(1, 4, 4)
    assert soft_label_loss(empty, empty).item() == 0
