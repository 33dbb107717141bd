"""Every loss against its slow float64 restatement and other libraries, and CAST's shortcut against the definition."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from backdrop.trainer import cast
from backdrop.trainer.losses.byol_regression import byol_regression
from backdrop.trainer.losses.info_nce import info_nce, similarities
from backdrop.trainer.losses.rotation_prediction import rotated, rotation_prediction
from backdrop.trainer.losses.saliency_attention import (
    attention_loss,
    attention_target,
    batch_attention_loss,
    grad_cam,
    importance,
    sampled_target,
    signed_cam,
)
from backdrop.trainer.losses.swapped_prediction import swapped_prediction
from backdrop.trainer.optimisation.optimisers import Lars
from backdrop.trainer.parts.heads import alexnet_head, mlp_head
from backdrop.trainer.parts.sinkhorn import assign_codes
from tests.golden import make_loss_parity as golden
from tests.reference import losses as reference


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    values = rng.normal(size=shape)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("num_negatives", [0, 1, 3])
@pytest.mark.parametrize("temperature", [0.07, 0.2])
def test_info_nce(num_negatives: int, temperature: float) -> None:
    rng = np.random.default_rng(1)
    query, key, queue, negatives = unit(rng, 5, 6), unit(rng, 5, 6), unit(rng, 7, 6), unit(rng, num_negatives, 5, 6)
    similarity = similarities(tensor(query), tensor(key), tensor(queue), tensor(negatives) if num_negatives else None)
    found = info_nce(similarity, temperature)
    assert similarity.shape == (5, 1 + num_negatives + 7)
    assert found.item() == pytest.approx(reference.info_nce(query, key, queue, negatives, temperature), rel=1e-12)


def test_info_nce_by_hand() -> None:
    # Similarity 1 to the key, 0 to two negatives, tau 1: -log(e / (e + 2)).
    similarity = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    assert info_nce(similarity, 1.0).item() == pytest.approx(np.log((np.e + 2) / np.e), rel=1e-12)


def test_byol_regression() -> None:
    rng = np.random.default_rng(2)
    prediction, target = rng.normal(size=(6, 5)), rng.normal(size=(6, 5)) * 7
    found = byol_regression(tensor(prediction), tensor(target)).item()
    assert found == pytest.approx(reference.byol_regression(prediction, target), rel=1e-12)


def test_swapped_prediction() -> None:
    rng = np.random.default_rng(3)
    codes = rng.dirichlet(np.ones(7), size=(2, 5))
    scores = rng.uniform(-1, 1, size=(4, 5, 7))
    found = swapped_prediction(tensor(codes), tensor(scores), 0.1).item()
    assert found == pytest.approx(reference.swapped_prediction(codes, scores, 0.1), rel=1e-12)


def test_sinkhorn() -> None:
    scores = np.random.default_rng(4).uniform(-1, 1, size=(12, 6))
    found = assign_codes(torch.tensor(scores, dtype=torch.float32), epsilon=0.05, num_iterations=3).numpy()
    np.testing.assert_allclose(found, reference.sinkhorn(scores, 0.05, 3), rtol=2e-4, atol=1e-7)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-5)


def test_sinkhorn_survives_scores_whose_exponential_overflows() -> None:
    scores = torch.tensor([[900.0, 0.0], [0.0, 900.0]])
    codes = assign_codes(scores, epsilon=1.0, num_iterations=3)
    np.testing.assert_allclose(codes.numpy(), np.eye(2), atol=1e-6)


def test_rotation_prediction() -> None:
    logits = np.random.default_rng(6).normal(size=(12, 4))
    found = rotation_prediction(tensor(logits)).item()
    assert found == pytest.approx(reference.rotation_prediction(logits, 3), rel=1e-12)


def test_images_turn_counterclockwise_by_quarters() -> None:
    images = torch.arange(2 * 1 * 3 * 3).reshape(2, 1, 3, 3)
    turned = rotated(images)
    for turns in range(4):
        expected = np.stack([np.rot90(image[0], turns) for image in images.numpy()])
        np.testing.assert_array_equal(turned[2 * turns : 2 * turns + 2, 0].numpy(), expected)


def test_attention_loss_and_target() -> None:
    rng = np.random.default_rng(5)
    alpha, feature_map = rng.normal(size=(3, 4)), rng.normal(size=(3, 4, 2, 3))
    mask = (rng.random((3, 8, 12)) < 0.4).astype(np.float64)
    cam = reference.grad_cam(alpha, feature_map)
    np.testing.assert_allclose(grad_cam(tensor(alpha), tensor(feature_map)).numpy(), cam, rtol=1e-12)

    target = attention_target(tensor(mask)[:, None], (2, 3))
    expected_target = np.stack([reference.area_average(m, 2, 3) for m in mask])
    np.testing.assert_allclose(target.numpy(), expected_target, rtol=1e-6)

    expected = [reference.attention_loss(c, t) for c, t in zip(cam, expected_target, strict=True)]
    found = attention_loss(tensor(cam), tensor(expected_target)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_small_object_never_leaves_an_empty_target() -> None:
    mask = torch.zeros(1, 1, 224, 224)
    mask[0, 0, 100, 50] = 1
    target = attention_target(mask, (7, 7))
    assert target[0, 3, 1].item() == pytest.approx(1 / 1024)
    assert (target > 0).sum() == 1


class CastCase:
    """A small float64 network with one query batch and its masked keys."""

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.random.default_generator.manual_seed(0)
            widths = (3, 8, 16, 24)
            layers: list[nn.Module] = []
            for number, (width, next_width) in enumerate(pairwise(widths)):
                convolution = nn.Conv2d(width, next_width, 3, stride=1 + number % 2, padding=1, bias=False)
                layers += [convolution, nn.BatchNorm2d(next_width), nn.ReLU()]
            self.network = nn.Sequential(*layers).double().train()
            self.head = mlp_head(widths[-1], 32, 16).double()
        generator = torch.Generator().manual_seed(1)
        self.image = torch.randn(4, 3, 16, 16, generator=generator, dtype=torch.float64)
        key = torch.randn(4, 16, generator=generator, dtype=torch.float64)
        self.key = functional.normalize(key, dim=1)
        self.mask = torch.zeros(4, 1, 16, 16, dtype=torch.float64)
        self.mask[:, :, :10, 3:10] = 1

    def parameters(self) -> list[nn.Parameter]:
        return [*self.network.parameters(), *self.head.parameters()]

    def loss(self, is_pooled_form: bool) -> torch.Tensor:
        feature_map = self.network(self.image)
        pooled = feature_map.mean(dim=(2, 3))
        similarity = (functional.normalize(self.head(pooled), dim=1) * self.key).sum(dim=1)
        if is_pooled_form:
            alpha = importance(similarity, pooled)
        else:
            # Eq. 1 as it stands: differentiate with respect to the map, sum over positions.
            (gradient,) = torch.autograd.grad(similarity.sum(), feature_map, create_graph=True)
            alpha = gradient.sum(dim=(2, 3))
        target = functional.adaptive_avg_pool2d(self.mask, feature_map.shape[2:]).squeeze(1)
        return attention_loss(grad_cam(alpha, feature_map), target).mean()


def test_pooled_grad_cam_equals_the_feature_map_form_with_its_gradients() -> None:
    case = CastCase()
    results = []
    for is_pooled_form in (True, False):
        loss = case.loss(is_pooled_form)
        results.append((loss.item(), torch.autograd.grad(loss, case.parameters(), allow_unused=True)))
    (pooled_loss, pooled_gradients), (map_loss, map_gradients) = results
    assert 0.01 < pooled_loss < 1
    assert pooled_loss == pytest.approx(map_loss, rel=1e-10)
    num_compared = 0
    for pooled, full in zip(pooled_gradients, map_gradients, strict=True):
        if pooled is None or full is None:
            # The last bias shifts every similarity alike in neither form; what one form does not use is zero.
            assert (pooled if full is None else full) is None or not (pooled if full is None else full).any()
            continue
        torch.testing.assert_close(pooled, full, rtol=1e-7, atol=1e-10)
        num_compared += bool(full.abs().max() > 1e-8)
    assert num_compared == len(case.parameters())


def test_attention_over_processes_is_the_mean_over_the_rows_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five rows have a foreground, four of them in the first process."""
    generator = torch.Generator().manual_seed(0)
    map_BDhw = torch.rand(8, 3, 2, 2, generator=generator).requires_grad_()
    key_BD = torch.rand(8, 3, generator=generator)
    mask_B1HW = torch.zeros(8, 1, 8, 8)
    mask_B1HW[[0, 1, 2, 3, 6], :, :4, :4] = 1

    def loss_of(rows: slice) -> float:
        pooled_BD = map_BDhw[rows].mean(dim=(2, 3))
        similarity_B = (pooled_BD * key_BD[rows]).sum(dim=1)
        masks = mask_B1HW[rows], mask_B1HW[rows]
        found = cast.attention(cast.Settings(), similarity_B, pooled_BD, map_BDhw[rows], *masks)
        return found["attention_loss"].item()

    whole = loss_of(slice(0, 8))
    monkeypatch.setattr(cast, "num_processes", lambda: 2)
    monkeypatch.setattr(cast, "summed", lambda number: torch.full_like(number, 5.0))
    assert (loss_of(slice(0, 4)) + loss_of(slice(4, 8))) / 2 == pytest.approx(whole, rel=1e-6)


def test_rows_without_foreground_are_left_out_and_counted() -> None:
    generator = torch.Generator().manual_seed(2)
    feature_map = torch.randn(3, 5, 4, 4, generator=generator).requires_grad_()
    pooled = feature_map.mean(dim=(2, 3))
    key = torch.randn(3, 5, generator=generator)
    mask = torch.zeros(3, 1, 16, 16)
    mask[0, 0, :8] = mask[1, 0, :4] = mask[2, 0, :, :5] = 1
    key_mask = mask.clone()

    def attention(query_mask: torch.Tensor, masked: torch.Tensor) -> dict[str, torch.Tensor]:
        return cast.attention(cast.Settings(), (pooled * key).sum(dim=1).sin(), pooled, feature_map, query_mask, masked)

    def alone(row: int) -> float:
        one_hot = torch.zeros(3, 1, 1, 1)
        one_hot[row] = 1
        return attention(mask * one_hot, key_mask)["attention_loss"].item()

    mask_without_row_1 = mask.clone()
    mask_without_row_1[1] = 0
    found = attention(mask_without_row_1, key_mask)
    assert found["attention_loss"].item() == pytest.approx((alone(0) + alone(2)) / 2, rel=1e-5)
    assert found["rows_without_foreground"].item() == pytest.approx(1 / 3)
    # A key crop without foreground has an empty masked key: left out as well.
    key_mask[2] = 0
    found = attention(mask_without_row_1, key_mask)
    assert found["attention_loss"].item() == pytest.approx(alone(0), rel=1e-5)

    none = attention(torch.zeros_like(mask), key_mask)
    (gradient,) = torch.autograd.grad(none["attention_loss"], feature_map)
    assert none["attention_loss"].item() == 0
    assert not gradient.any()


def test_an_attention_map_of_zeros_costs_one_and_has_no_gradient() -> None:
    cam = torch.zeros(1, 2, 2, requires_grad=True)
    loss = attention_loss(torch.relu(cam - 1), torch.ones(1, 2, 2)).sum()
    (gradient,) = torch.autograd.grad(loss, cam)
    assert loss.item() == 1
    assert torch.isfinite(gradient).all()
    assert not gradient.any()


def test_cast_loss_and_its_gradients_in_a_linear_head() -> None:
    """Value by loops, gradients with respect to weights and map by central differences of those loops."""
    rng = np.random.default_rng(7)
    weight, bias, keys = rng.normal(size=(4, 3)), rng.normal(size=4), unit(rng, 2, 4)
    feature_map, mask = np.abs(rng.normal(size=(2, 3, 2, 2))), (rng.random((2, 8, 8)) < 0.5).astype(np.float64)
    arguments = [weight, bias, feature_map]

    def expected(arrays: list[np.ndarray]) -> float:
        return reference.cast_loss(*arrays, keys, mask)

    tensors = [tensor(array).requires_grad_() for array in arguments]
    pooled = tensors[2].mean(dim=(2, 3))
    query = functional.normalize(functional.linear(pooled, tensors[0], tensors[1]), dim=1)
    similarity = (query * tensor(keys)).sum(dim=1)
    alpha = importance(similarity, pooled)
    np.testing.assert_allclose(
        alpha.detach().numpy(), reference.head_and_gradient(weight, bias, pooled.detach().numpy(), keys)[1], rtol=1e-10
    )
    cam = grad_cam(alpha, tensors[2])
    assert 0 < (cam > 0).double().mean() < 1
    loss = attention_loss(cam, attention_target(tensor(mask)[:, None], (2, 2))).mean()
    assert loss.item() == pytest.approx(expected(arguments), rel=1e-6)

    step = 1e-6
    for number, gradient in enumerate(torch.autograd.grad(loss, tensors)):
        for index in np.ndindex(arguments[number].shape):
            moved = [[array.copy() for array in arguments] for _ in range(2)]
            moved[0][number][index] += step
            moved[1][number][index] -= step
            slope = (expected(moved[0]) - expected(moved[1])) / (2 * step)
            assert gradient[index].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_cast_as_released() -> None:
    rng = np.random.default_rng(8)
    alpha, feature_map = rng.normal(size=(3, 4)), np.abs(rng.normal(size=(3, 4, 3, 3)))
    mask = np.zeros((3, 12, 12))
    mask[0, :7, :5] = mask[1, 4:] = mask[2, :, 3:9] = 1
    cam, target = signed_cam(tensor(alpha), tensor(feature_map)), sampled_target(tensor(mask)[:, None], (3, 3))
    found = batch_attention_loss(cam, target).item()
    assert found == pytest.approx(reference.released_cast_loss(alpha, feature_map, mask), rel=1e-6)
    # The ReLU of the release comes after the scaling and finds nothing to do.
    assert cam.amin() == 0
    assert (cam == 0).sum() == 3
    # One cosine of all images is not the mean of theirs.
    assert abs(found - attention_loss(cam, target).mean().item()) > 1e-3


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_cast_total(variant: str) -> None:
    total = cast.total(cast.Settings(variant=variant, weight=3.0), torch.tensor(2.0), torch.tensor(0.5))
    assert total.item() == (2.0 + 3.0 * 0.5) / (4.0 if variant == "released" else 1.0)


@given(
    st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(1, 60)] * 2),
    st.booleans(),
    st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(1, 60)] * 2),
)
@settings(deadline=None, max_examples=25)
def test_overlap_of_query_and_key(query: tuple[int, ...], is_flipped: bool, key: tuple[int, ...]) -> None:
    found = cast.overlap(torch.tensor([query]), torch.tensor([is_flipped]), torch.tensor([key]), 8)
    np.testing.assert_array_equal(found[0].numpy(), reference.overlap(query, is_flipped, key, 8))


def test_rotnets_pooling_is_the_released_one() -> None:
    feature_map = torch.randn(2, 5, 13, 13, generator=torch.Generator().manual_seed(3))
    pool = alexnet_head(5, 8, 4)[0]
    torch.testing.assert_close(pool(feature_map), functional.max_pool2d(feature_map, 3, stride=2), rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------- lightly and timm


class Golden:
    """Values that other libraries gave, see tests/golden/make_loss_parity.py."""

    found = json.loads(golden.FILE.read_text())

    def check(self, name: str, loss: torch.Tensor, with_respect_to: torch.Tensor, factor: float = 1.0) -> None:
        """Compare a loss and its gradient with `factor` times theirs."""
        (gradient,) = torch.autograd.grad(loss, with_respect_to)
        expected = torch.tensor(self.found[name]["gradient"]) * factor
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=2e-6)


def test_info_nce_is_that_of_lightly() -> None:
    for name, temperature in golden.TEMPERATURES.items():
        query = golden.units(1, golden.NUM_ROWS, golden.NUM_DIMENSIONS).requires_grad_()
        key, queue = (golden.units(seed, size, golden.NUM_DIMENSIONS) for seed, size in ((2, 6), (3, golden.NUM_KEYS)))
        loss = info_nce(similarities(functional.normalize(query, dim=1), key, queue), temperature)
        assert loss.item() == pytest.approx(Golden.found[name]["loss"], rel=1e-5)
        Golden().check(name, loss, query)


def test_byol_regression_is_that_of_lightly() -> None:
    prediction = golden.numbers(4, golden.NUM_ROWS, golden.NUM_DIMENSIONS).requires_grad_()
    loss = byol_regression(prediction, golden.numbers(5, golden.NUM_ROWS, golden.NUM_DIMENSIONS))
    # Theirs is the negative cosine; the paper's is 2 - 2 cos.
    assert loss.item() == pytest.approx(2 + 2 * Golden.found["byol"]["loss"], rel=1e-5)
    Golden().check("byol", loss, prediction, factor=2.0)


@pytest.mark.parametrize("name", ["swav", "swav_queue"])
def test_swapped_prediction_is_that_of_lightly(name: str) -> None:
    num_views = golden.NUM_GLOBAL + golden.NUM_LOCAL
    scores = golden.numbers(6, num_views, golden.NUM_ROWS, golden.NUM_PROTOTYPES).requires_grad_()
    queue = golden.numbers(7, golden.NUM_GLOBAL, golden.NUM_QUEUED, golden.NUM_PROTOTYPES)
    codes = []
    for index in range(golden.NUM_GLOBAL):
        pool = torch.cat([queue[index], scores[index].detach()]) if name == "swav_queue" else scores[index].detach()
        code = assign_codes(pool, epsilon=golden.SWAV["epsilon"], num_iterations=golden.SWAV["num_iterations"])
        codes.append(code[-golden.NUM_ROWS :])
    loss = swapped_prediction(torch.stack(codes), scores, golden.SWAV["temperature"])
    assert loss.item() == pytest.approx(Golden.found[name]["loss"], rel=1e-5)
    Golden().check(name, loss, scores)


def test_lars_is_that_of_timm() -> None:
    weights, gradients = golden.lars_inputs()
    groups = [{"params": weights, "weight_decay": 0.0, "is_adapted": True}]
    optimiser = Lars(groups, lr=golden.LARS["lr"], momentum=golden.LARS["momentum"], trust=golden.LARS["trust"])
    for step in gradients:
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = gradient.clone()
        optimiser.step()
    for weight, expected, start in zip(weights, Golden.found["lars"], golden.lars_inputs()[0], strict=True):
        torch.testing.assert_close(weight - start, torch.tensor(expected) - start, rtol=2e-4, atol=1e-7)
