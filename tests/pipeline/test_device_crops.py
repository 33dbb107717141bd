"""Views cut on the device against those of the loader's kernels, and the filter against torchvision's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional

from backdrop.errors import UserError
from backdrop.pipeline.beton.reader import BetonSettings
from backdrop.pipeline.beton.writer import export_beton
from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.loader.reference_loader import ReferenceLoader
from backdrop.pipeline.views import device_crops
from backdrop.pipeline.views.batch import Batch, WholeBatch
from backdrop.pipeline.views.device_stage import DeviceStage
from backdrop.pipeline.views.view_plan import Background, MaskPerturbation, View, ViewPlan
from backdrop.stores.format.reader import Store
from backdrop.stores.indexes.dataset_index import DatasetIndex

PLAN = ViewPlan(
    views=(
        View(size_px=64, min_foreground=0.2),
        View(size_px=50, min_foreground=0.2),
        View(size_px=21, scale=(0.05, 0.2), min_foreground=0.1, is_global=False),
    ),
    background=Background(name="swaps", probability=0.6, negative_probability=0.5),
)
CPU = torch.device("cpu")


# Every option of the backgrounds that a loader has to do with.
OTHER_OPTIONS = replace(
    PLAN,
    background=Background(
        name="swaps", probability=0.6, applies_to="all", pair_draw="same", order="before", negative_draw="coupled",
        mask=MaskPerturbation(max_rotation_degrees=20, flip_probability=0.5),
    ),
)  # fmt: skip


RECOMBINED = replace(PLAN, background=Background(name="recombine", probability=0.8, applies_to="all"))


@pytest.fixture(scope="module")
def beton(built: tuple[Store, DatasetIndex], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_beton(*built, tmp_path_factory.mktemp("beton") / "small.beton", max_side_px=200)


def batches(beton: Path, geometry: str, plan: ViewPlan = PLAN) -> list[Batch]:
    """All batches of an epoch, cut, out of the ring."""
    kept = []
    with Loader(
        beton, plan, LoaderOptions(batch_size=4, seed=3, num_threads=2, geometry=geometry, batches_ahead=8)
    ) as loader:
        for batch in loader.epoch(1):
            assert isinstance(batch, WholeBatch if geometry == "device" else Batch)
            kept.append(device_crops.cut(batch, plan, CPU) if isinstance(batch, WholeBatch) else batch)
    return kept


def test_both_geometries_give_the_same_views(beton: Path) -> None:
    host, device = batches(beton, "host"), batches(beton, "device")
    assert len(host) == len(device) == 5
    assert_same(host, device)


@pytest.mark.parametrize("plan", [OTHER_OPTIONS, RECOMBINED], ids=lambda each: each.background.name)
def test_all_loaders_carry_out_the_options_of_backgrounds(
    beton: Path, built: tuple[Store, DatasetIndex], plan: ViewPlan
) -> None:
    settings = BetonSettings(max_side_px=200)
    reference = ReferenceLoader(*built, plan, LoaderOptions(batch_size=4, seed=3), settings=settings)
    host, device = batches(beton, "host", plan), batches(beton, "device", plan)
    assert all(view.donor_BHWC is not None for view in host[0].views)
    assert any(batch.views[2].record_B["has_background"].any() for batch in host)
    assert_same(host, device)
    assert_same(host, list(reference.epoch(1)))


def assert_same(host: list[Batch], device: list[Batch]) -> None:
    """Equal but for a grey level of rounding."""
    has_donor = 0
    for ours, theirs in zip(device, host, strict=True):
        assert torch.equal(ours.row_B, theirs.row_B)
        assert torch.equal(ours.label_B, theirs.label_B)
        assert (ours.epoch, ours.step) == (theirs.epoch, theirs.step)
        for view, other in zip(ours.views, theirs.views, strict=True):
            assert view.record_B.tobytes() == other.record_B.tobytes()
            assert torch.equal(view.mask_BHP, other.mask_BHP)
            assert (view.image_BHWC.int() - other.image_BHWC.int()).abs().max() <= 1
            assert (view.donor_BHWC is None) == (other.donor_BHWC is None)
            if view.donor_BHWC is not None:
                drawn = np.flatnonzero(view.record_B["has_background"])
                difference = view.donor_BHWC[drawn].int() - other.donor_BHWC[drawn].int()
                assert (difference.abs() <= 1).all()
                has_donor += len(drawn)
    assert has_donor > 5


def test_the_device_stage_takes_either(beton: Path) -> None:
    stage, levels = DeviceStage(PLAN, device="cpu", mean=(0, 0, 0), std=(1, 1, 1)), 8 / 255
    with (
        Loader(beton, PLAN, LoaderOptions(batch_size=4, seed=3, geometry="device")) as whole,
        Loader(beton, PLAN, LoaderOptions(batch_size=4, seed=3)) as cut,
    ):
        for ours, theirs in zip(map(stage, whole.epoch(0)), map(stage, cut.epoch(0)), strict=True):
            for mask, other_mask in zip(ours.masks, theirs.masks, strict=True):
                assert torch.equal(mask, other_mask)
            # A level more or less may turn a pixel over where it is solarised; MoCo's views are not.
            for image, other in zip([*ours.images, ours.negative], [*theirs.images, theirs.negative], strict=True):
                assert (image - other).abs().max() < levels


@settings(deadline=None, max_examples=40)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    room=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    size_px=st.integers(1, 70),
    seed=st.integers(0, 99),
)
def test_weights_are_torchvisions(size: tuple[int, int], room: tuple[int, int], size_px: int, seed: int) -> None:
    (length, start), num_source = (size[0], room[0]), size[0] + sum(room)
    line = torch.rand(3, 1, num_source, generator=torch.Generator().manual_seed(seed))
    start_B1, length_B1 = (torch.tensor([[float(value)]]) for value in (start, length))
    weight_SN = device_crops.triangle_weights(start_B1, length_B1, size_px, num_source)[0]
    torch.testing.assert_close(weight_SN.sum(1), torch.ones(size_px))
    expected = functional.resized_crop(line, 0, start, 1, length, [1, size_px], antialias=True)
    torch.testing.assert_close(line @ weight_SN.T, expected, atol=2e-5, rtol=0)


def test_an_unknown_geometry_is_named(beton: Path) -> None:
    with pytest.raises(UserError, match=r"geometry='gpu' is unknown; allowed: host, device"):
        Loader(beton, PLAN, LoaderOptions(batch_size=4, seed=0, geometry="gpu"))
