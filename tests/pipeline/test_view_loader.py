"""The loader and the device stage as one iterator."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.loader.view_loader import ViewLoader
from backdrop.pipeline.views.device_stage import DeviceStage, Views
from backdrop.pipeline.views.view_plan import Background, View, ViewPlan

PLAN = ViewPlan(views=(View(size_px=16), View(size_px=24)), background=Background(name="random", probability=0.5))
OPTIONS = LoaderOptions(batch_size=4, seed=3, num_threads=1, batches_ahead=1)


@pytest.fixture(scope="module")
def opened(scenes: Path) -> Iterator[ViewLoader]:
    with ViewLoader(scenes, PLAN, OPTIONS, device="cpu") as loader:
        yield loader


def tensors(views: Views) -> list[torch.Tensor]:
    return [*views.images, *views.masks, *views.boxes, *views.is_flipped, views.row_B, views.label_B]


def same(a: Views, b: Views) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def test_its_views_are_those_of_loader_and_stage_and_stay(opened: ViewLoader, scenes: Path) -> None:
    """All of an epoch is kept, which is more than the ring of batches holds."""
    kept = list(opened.epoch(1))
    assert len(kept) == len(opened) == 5
    stage = DeviceStage(PLAN, device="cpu")
    with Loader(scenes.with_suffix(".beton"), PLAN, OPTIONS) as loader:
        assert all(same(mine, stage(batch)) for mine, batch in zip(kept, loader.epoch(1), strict=True))


def test_each_pass_is_the_next_epoch(opened: ViewLoader) -> None:
    opened.set_epoch(4)
    passes = [[views.epoch for views in opened] for _ in range(2)]
    assert passes == [[4] * len(opened), [5] * len(opened)]
    opened.set_epoch(4)
    assert same(next(iter(opened)), next(opened.epoch(4)))


def test_views_go_to_a_device_as_tensors_do(opened: ViewLoader) -> None:
    views = next(opened.epoch(0))
    moved = views.to("meta")
    assert {tensor.device.type for tensor in tensors(moved)} == {"meta"}
    assert (moved.epoch, moved.negative) == (views.epoch, None)
    assert same(views.to("cpu"), views)


def test_it_says_which_rows_it_has(opened: ViewLoader) -> None:
    assert len(opened.rows) == len(opened.labels) == 20
    assert opened.plan == PLAN
