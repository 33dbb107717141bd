"""Every loss against its slow float64 restatement, and CAST's shortcut against the definition."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.reference import losses as reference
from trainer import cast
from trainer.losses.byol_regression import byol_regression
from trainer.losses.info_nce import info_nce, similarities
from trainer.losses.saliency_attention import attention_loss, attention_target, grad_cam, importance
from trainer.losses.swapped_prediction import swapped_prediction
from trainer.parts.backbones import build_backbone
from trainer.parts.heads import mlp_head
from trainer.parts.sinkhorn import assign_codes


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    values = rng.normal(size=shape)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("has_negative", [False, True])
@pytest.mark.parametrize("temperature", [0.07, 0.2])
def test_info_nce(has_negative: bool, temperature: float) -> None:
    rng = np.random.default_rng(1)
    query, key, queue, extra = unit(rng, 5, 6), unit(rng, 5, 6), unit(rng, 7, 6), unit(rng, 5, 6)
    negatives = extra if has_negative else None
    found = info_nce(
        similarities(tensor(query), tensor(key), tensor(queue), tensor(extra)[None] if has_negative else None),
        temperature,
    )
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
            self.backbone = build_backbone("resnet18", cifar_stem=True).double().train()
            self.head = mlp_head(512, 64, 16).double()
        generator = torch.Generator().manual_seed(1)
        self.image = torch.randn(4, 3, 24, 24, generator=generator, dtype=torch.float64)
        key = torch.randn(4, 16, generator=generator, dtype=torch.float64)
        self.key = functional.normalize(key, dim=1)
        self.mask = torch.zeros(4, 1, 24, 24, dtype=torch.float64)
        self.mask[:, :, :16, 4:14] = 1

    # `forward_map` hands over float32; float64 is wanted here.
    def _map(self, image: torch.Tensor) -> torch.Tensor:
        net = self.backbone
        return net.layer4(net.layer3(net.layer2(net.layer1(net.relu(net.bn1(net.conv1(image)))))))

    def parameters(self) -> list[nn.Parameter]:
        return [*self.backbone.parameters(), *self.head.parameters()]

    def loss(self, is_pooled_form: bool) -> torch.Tensor:
        feature_map = self._map(self.image)
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
    assert num_compared > 40


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
