"""Grounding: Grad-CAM against finite differences, IoU by hand, the whole evaluation on a tiny run and its store."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from backdrop.errors import UserError
from backdrop.pipeline.views.device_stage import Views
from backdrop.ranks import Ranks
from backdrop.trainer.evaluation import grounding
from backdrop.trainer.evaluation.grounding import Options, _scored, binary_iou, cam_iou, query_cam, scaled
from backdrop.trainer.evaluation.harness.evaluate import evaluate_run
from backdrop.trainer.losses.saliency_attention import grad_cam, importance
from backdrop.trainer.run.run_folder import Origin
from backdrop.trainer.run.training import train
from tests.material import small_scenes
from tests.material.evaluation_fixtures import FACTS
from tests.material.memory_loader import MemoryLoader
from tests.material.tiny_runs import tiny
from tests.reference import losses


def test_iou_by_hand() -> None:
    a = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]], [[1, 0], [0, 0]], [[1, 1], [1, 1]]], dtype=torch.bool)
    b = torch.tensor([[[1, 0], [1, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 1]], [[1, 1], [1, 1]]], dtype=torch.bool)
    assert binary_iou(a, b).tolist() == pytest.approx([1 / 3, 0, 0, 1])


def test_scaling_by_hand() -> None:
    maps = torch.tensor([[[2.0, 4.0], [3.0, 2.0]], [[5.0, 5.0], [5.0, 5.0]]])
    assert scaled(maps)[0].flatten().tolist() == pytest.approx([0, 1, 0.5, 0])
    assert scaled(maps)[1].abs().max() == 0


def test_grad_cam_equals_finite_differences() -> None:
    """Eq. 1 and 2: the gradient of q . k_m with respect to the map, pooled, found by nudging the map."""
    torch.manual_seed(0)
    map_BDhw, key_BE = torch.rand(2, 3, 2, 2, dtype=torch.float64), torch.rand(2, 4, dtype=torch.float64)
    head = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4)).double()

    def similarity_B(map_BDhw: torch.Tensor) -> torch.Tensor:
        return nn.functional.cosine_similarity(head(map_BDhw.mean(dim=(2, 3))), key_BE, dim=1)

    alpha_BD = torch.zeros(2, 3, dtype=torch.float64)
    for channel in range(3):
        for place in range(4):
            nudge = torch.zeros_like(map_BDhw)
            nudge[:, channel, place // 2, place % 2] = 1e-6
            alpha_BD[:, channel] += (similarity_B(map_BDhw + nudge) - similarity_B(map_BDhw - nudge)).detach() / 2e-6
    expected = torch.relu((alpha_BD[:, :, None, None] * map_BDhw).sum(dim=1))
    pooled_BD = map_BDhw.mean(dim=(2, 3)).requires_grad_()
    found = grad_cam(importance(nn.functional.cosine_similarity(head(pooled_BD), key_BE, dim=1), pooled_BD), map_BDhw)
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=0)


def test_maps_of_a_head_without_biases_sum_to_zero() -> None:
    """Euler: a cosine does not see how long the features are, so its gradient is perpendicular to them."""
    torch.manual_seed(0)
    map_BDhw, key_BE = torch.rand(4, 3, 2, 2, dtype=torch.float64), torch.rand(4, 4, dtype=torch.float64)
    sums = []
    for has_bias in (False, True):
        head = nn.Sequential(nn.Linear(3, 5, bias=has_bias), nn.ReLU(), nn.Linear(5, 4, bias=has_bias)).double()
        pooled_BD = map_BDhw.mean(dim=(2, 3)).requires_grad_()
        similarity_B = nn.functional.cosine_similarity(head(pooled_BD), key_BE, dim=1)
        sums.append(torch.einsum("bd,bdhw->b", importance(similarity_B, pooled_BD), map_BDhw).abs())
    assert sums[0].max() < 1e-12
    assert sums[1].min() > 1e-4


class _Linear:
    """Queries of a map of 2 x 2 means, keys of the mean colour; both linear, in float64."""

    head, key_head = nn.Linear(3, 4).double(), nn.Linear(3, 4).double()

    class backbone:
        @staticmethod
        def forward_map(image_B3HW: torch.Tensor) -> torch.Tensor:
            return nn.functional.adaptive_avg_pool2d(image_B3HW, 2)

    def embed_query(self, pooled_BD: torch.Tensor) -> torch.Tensor:
        return self.head(pooled_BD)

    def embed_key(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        return self.key_head(image_B3HW.mean(dim=(2, 3)))


def test_the_map_for_a_key_is_of_the_key_with_its_background() -> None:
    """CAST Figure 5, e and f, beside h and i: against the gradient by the whole map, in float64."""
    torch.manual_seed(0)
    images = [torch.randn(3, 3, 8, 8, dtype=torch.float64) for _ in range(2)]
    mask_B1HW = (torch.rand(3, 1, 8, 8) > 0.7).double()
    views = Views(
        images=images, masks=[mask_B1HW, mask_B1HW], negative=None, row_B=torch.arange(3),
        label_B=torch.zeros(3), epoch=0, step=0, boxes=[], is_flipped=[],
    )  # fmt: skip
    method = _Linear()
    for is_key_masked, key_B3HW in ((True, images[1] * mask_B1HW), (False, images[1])):
        map_BDhw = method.backbone.forward_map(images[0]).requires_grad_()
        query_BE, key_BE = method.embed_query(map_BDhw.mean(dim=(2, 3))), method.embed_key(key_B3HW)
        similarity = nn.functional.cosine_similarity(query_BE, key_BE).sum()
        alpha_BD = torch.autograd.grad(similarity, map_BDhw)[0].sum(dim=(2, 3))
        expected = losses.grad_cam(alpha_BD.numpy(), map_BDhw.detach().numpy())
        found = query_cam(method, views, is_key_masked=is_key_masked)
        torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-12, rtol=0)
        assert found.amax() > 0


class _LooksLeft:
    """A network whose one feature is the brightness of each half of the image, so that its map is known."""

    class backbone:
        @staticmethod
        def forward_map(image_B3HW: torch.Tensor) -> torch.Tensor:
            return nn.functional.adaptive_avg_pool2d(image_B3HW[:, :1], 2)

    @staticmethod
    def embed_query(pooled_BD: torch.Tensor) -> torch.Tensor:
        return torch.cat([pooled_BD, torch.ones_like(pooled_BD)], dim=1)

    @staticmethod
    def embed_key(image_B3HW: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0]]).expand(len(image_B3HW), 2)


@pytest.mark.parametrize("resolution", ["view", "cells"])
def test_a_known_map_has_the_known_iou(resolution: str) -> None:
    image = torch.zeros(3, 3, 8, 8)
    image[:, :, :, :4] = 1.0  # the map is 1 on the left cells and 0 on the right ones
    left, right, none = torch.zeros(8, 8), torch.zeros(8, 8), torch.zeros(8, 8)
    left[:, :4], right[:, 4:] = 1, 1
    mask = torch.stack([left, right, none])[:, None]
    views = Views(
        images=[image, image], masks=[mask, torch.ones_like(mask)], negative=None, row_B=torch.arange(3),
        label_B=torch.zeros(3), epoch=0, step=0, boxes=[], is_flipped=[],
    )  # fmt: skip
    method, options = _LooksLeft(), Options(resolution=resolution)
    iou_B, is_counted_B = cam_iou(query_cam(method, views), views, options)
    assert iou_B[:2].tolist() == pytest.approx([1.0, 0.0])
    assert is_counted_B.tolist() == [True, True, False]
    black = replace(views, images=[torch.zeros_like(image), image])  # no feature, hence a map of zeros
    found = _scored({"it": method}, iter([views, black]), options)
    assert found.iou_of["it"].tolist() == pytest.approx([1.0, 0.0, 0.0, 0.0])
    assert found.zero_share_of["it"] == 0.5
    assert found.foreground_share_N.tolist() == [0.5] * 4
    assert found.num_skipped == 2


def test_weights_alone_unknown_resolutions_and_absent_masks_are_refused(tmp_path: Path) -> None:
    class Alone:
        run = None

    with pytest.raises(UserError, match="--run FOLDER"):
        grounding.run(Alone(), tmp_path, Options())
    Alone.run = tmp_path
    with pytest.raises(UserError, match=r"'pixels'.*view, cells"):
        grounding.run(Alone(), tmp_path, Options(resolution="pixels"))
    with pytest.raises(UserError, match=r"is not a store.*build-store --dataset coco --split val --out .*masks.zarr;"):
        grounding.run(Alone(), tmp_path, Options(store=str(tmp_path / "masks.zarr")))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store, and where its images lie."""
    store, index = small_scenes.build(tmp_path_factory.mktemp("scenes"))
    return store, index.root


@pytest.mark.parametrize("method", ["moco", "byol", "swav"])
def test_a_run_is_scored_on_a_store(method: str, scenes: tuple[Path, Path], tmp_path: Path) -> None:
    settings = tiny(method)
    loader = MemoryLoader(settings.plan, num_rows=8, batch_size=8)
    origin = Origin(recipe="tiny", beton="none", command="none")
    train(settings, loader, tmp_path / "run", origin=origin, resume=False, ranks=Ranks(device="cpu"))
    summary = evaluate_run("grounding", tmp_path / "run", scenes[1], overrides=[f"store={scenes[0]}"])
    assert 0 <= summary["scores"]["mean_iou"] <= 1
    assert 0 <= summary["untrained"]["mean_iou"] <= 1
    facts = summary["facts"]
    assert facts.keys() >= FACTS
    assert 0 < facts["iou_of_foreground_everywhere"] < 1
    # An image whose map is zero has no IoU, so it lies in the first bin.
    density = facts["density"]
    for name, share in facts["share_of_maps_that_are_zero"].items():
        assert 0 <= share <= density[name][0] + 1e-4
    assert [sum(density[name]) for name in ("this run", "untrained")] == pytest.approx([1, 1], abs=0.01)
    plot = ElementTree.fromstring((tmp_path / "run" / "grounding.svg").read_text())
    assert "IoU" in plot.attrib["aria-label"]
    assert len(plot.findall(".//{*}polyline")) == 4  # two densities, two samples in the legend
    assert summary["facts"]["store_id"]
    assert "5000" in summary["problems"][-1]


def test_densities_of_other_runs_are_drawn_over_it(tmp_path: Path) -> None:
    """Figure 7: of runs that were scored, by their names."""
    shares = [0.0] * 19 + [1.0]
    (tmp_path / "moco").mkdir()
    (tmp_path / "moco" / "grounding.json").write_text(json.dumps({"facts": {"density": {"this run": shares}}}))
    found = grounding.densities_of([str(tmp_path / "moco")])
    assert found["moco"].tolist() == shares
    with pytest.raises(UserError, match="not scored yet"):
        grounding.densities_of([str(tmp_path / "cast")])
    with pytest.raises(UserError, match="two runs are called 'moco'"):
        grounding.densities_of([str(tmp_path / "moco")] * 2)
