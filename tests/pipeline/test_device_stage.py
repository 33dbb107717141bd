"""From uint8 crops to normalised views, on hand-made batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from backdrop.errors import UserError
from backdrop.pipeline.views import photometric
from backdrop.pipeline.views.batch import Batch, ViewBatch
from backdrop.pipeline.views.device_stage import DeviceStage
from backdrop.pipeline.views.view_plan import VIEW_DTYPE, Background, View, ViewPlan
from backdrop.stores.images.imagenet_statistics import IMAGENET_MEAN, IMAGENET_STD

SIZE = 12
B = 5


def plan(background: str) -> ViewPlan:
    view = View(size_px=SIZE)
    views = (view, view, replace(view, size_px=SIZE // 2, is_global=False))
    return ViewPlan(views=views, background=Background(name=background))


def make_batch(background: str, *, photometrics: bool = False, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    views = []
    for size, is_global in ((SIZE, True), (SIZE, True), (SIZE // 2, False)):
        record_B = np.zeros(B, VIEW_DTYPE)
        record_B["brightness"] = record_B["contrast"] = record_B["saturation"] = 1
        if is_global and background != "none":
            record_B["has_background"] = [1, 0, 1, 0, 1]
        record_B["background_grey"] = rng.uniform(size=B)
        record_B["is_negative_matched"] = [1, 1, 0, 0, 1]
        record_B["negative_source"] = rng.uniform(size=B)
        if photometrics:
            record_B["is_jittered"] = 1
            record_B["jitter_order"] = rng.integers(0, 24, B)
            record_B["contrast"] = rng.uniform(0.6, 1.4, B)
            record_B["blur_sigma_px"] = 0.7
        mask = rng.integers(0, 2, (B, size, size), dtype=np.uint8)
        has_donor = is_global and background in ("random", "swaps")
        views.append(
            ViewBatch(
                image_BHWC=torch.from_numpy(rng.integers(0, 256, (B, size, size, 3), dtype=np.uint8)),
                mask_BHP=torch.from_numpy(np.packbits(mask, axis=-1)),
                donor_BHWC=torch.from_numpy(rng.integers(0, 256, (B, size, size, 3), dtype=np.uint8))
                if has_donor
                else None,
                record_B=record_B,
            )
        )
    return Batch(views=tuple(views), row_B=torch.arange(B), label_B=torch.full((B,), -1), epoch=2, step=7)


def denormalised(image_BCHW: torch.Tensor) -> torch.Tensor:
    return image_BCHW * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]


def channels_first(image_BHWC: torch.Tensor) -> torch.Tensor:
    return image_BHWC.permute(0, 3, 1, 2).float() / 255


def unpacked(view: ViewBatch) -> torch.Tensor:
    bits = np.unpackbits(view.mask_BHP.numpy(), axis=-1, count=view.image_BHWC.shape[2])
    return torch.from_numpy(bits).bool()[:, None]


def test_without_anything_drawn_views_are_the_normalised_crops() -> None:
    batch = make_batch("none")
    views = DeviceStage(plan("none"), device="cpu")(batch)
    assert views.negative is None
    assert (views.epoch, views.step) == (2, 7)
    for image, mask, view in zip(views.images, views.masks, batch.views, strict=True):
        torch.testing.assert_close(denormalised(image), channels_first(view.image_BHWC), atol=1e-6, rtol=0)
        assert mask.dtype == torch.float32
        assert torch.equal(mask.bool(), unpacked(view))


@pytest.mark.parametrize("name", ["rm", "random", "swaps"])
def test_backgrounds_follow_the_records(name: str) -> None:
    batch = make_batch(name)
    views = DeviceStage(plan(name), device="cpu")(batch)
    for index, view in enumerate(batch.views):
        own = channels_first(view.image_BHWC)
        grey = torch.from_numpy(view.record_B["background_grey"])[:, None, None, None].expand_as(own)
        other = grey if name == "rm" else own if view.donor_BHWC is None else channels_first(view.donor_BHWC)
        is_drawn = torch.from_numpy(view.record_B["has_background"] != 0)[:, None, None, None]
        expected = torch.where(unpacked(view) | ~is_drawn, own, other)
        torch.testing.assert_close(denormalised(views.images[index]), expected, atol=1e-6, rtol=0)


def test_only_swaps_brings_a_negative_made_from_the_query() -> None:
    batch = make_batch("swaps")
    assert DeviceStage(plan("random"), device="cpu")(make_batch("random")).negative is None
    views = DeviceStage(plan("swaps"), device="cpu")(batch)
    record_B, plain = batch.views[0].record_B, channels_first(batch.views[0].image_BHWC)
    query, mask = denormalised(views.images[0]), unpacked(batch.views[0])
    for row in range(B):
        source = (row + 1 + int(record_B["negative_source"][row] * (B - 1))) % B
        expected = plain[source]
        if record_B["is_negative_matched"][row]:
            expected = torch.where(mask[row], plain[source], query[row])
        torch.testing.assert_close(denormalised(views.negative)[row], expected, atol=1e-6, rtol=0)


def test_donors_take_the_photometrics_of_their_view() -> None:
    batch = make_batch("random", photometrics=True)
    views = DeviceStage(plan("random"), device="cpu")(batch)
    view = batch.views[0]
    donor = photometric.augment(channels_first(view.donor_BHWC), view.record_B, plan("random").views[0])
    drawn = [0, 2, 4]
    is_background = ~unpacked(view)[drawn].expand(-1, 3, -1, -1)
    actual = denormalised(views.images[0])[drawn][is_background]
    torch.testing.assert_close(actual, donor[drawn][is_background], atol=1e-6, rtol=0)


def test_the_batch_is_left_as_it_was() -> None:
    """Its tensors are a ring buffer's; the views must not share them either."""
    batch, again = (make_batch("swaps", photometrics=True) for _ in range(2))
    views = DeviceStage(plan("swaps"), device="cpu")(batch)
    kept = [image.clone() for image in views.images]
    for view, same in zip(batch.views, again.views, strict=True):
        assert torch.equal(view.image_BHWC, same.image_BHWC)
        view.image_BHWC.zero_()
        view.mask_BHP.zero_()
    assert all(torch.equal(image, before) for image, before in zip(views.images, kept, strict=True))


def test_own_mean_and_std() -> None:
    views = DeviceStage(plan("none"), device="cpu", mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))(make_batch("none"))
    values = channels_first(make_batch("none").views[0].image_BHWC)
    expected = (values - 0.5) / torch.tensor([0.25, 0.5, 1.0])[:, None, None]
    torch.testing.assert_close(views.images[0], expected, atol=1e-6, rtol=0)


def test_an_unknown_background_is_named() -> None:
    with pytest.raises(UserError, match=r"'blue'.*none, random, recombine, rm, swaps"):
        DeviceStage(plan("blue"), device="cpu")
