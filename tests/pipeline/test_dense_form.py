"""The form of the device stage with fixed shapes against the one that works on the drawn rows alone."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torchvision.transforms import functional

from backdrop.errors import UserError
from backdrop.pipeline.views import backgrounds, dense_form
from backdrop.pipeline.views.batch import Batch, ViewBatch
from backdrop.pipeline.views.device_stage import DeviceStage, Views
from backdrop.pipeline.views.photometric import JITTER_ORDERS
from backdrop.pipeline.views.view_plan import VIEW_DTYPE, Background, MaskPerturbation, View, ViewPlan
from backdrop.pipeline.views.view_work import mean_std, view_works

B, SIZE = 24, 13
TOLERANCE = 2e-5  # of normalised values
PERTURBED = MaskPerturbation(max_rotation_degrees=20, max_shear_degrees=10, max_shift_fraction=0.2, is_box=True)
OPTIONS = [
    Background(name=name, order=order, negative_matches=matches, num_negatives=num, mask=mask, applies_to=applies_to)
    for name, (order, matches, num, mask, applies_to) in product(
        backgrounds.NAMES,
        [
            ("after", "query", 1, MaskPerturbation(), "global"),
            ("after", "key", 3, PERTURBED, "all"),
            ("before", "query", 1, MaskPerturbation(), "global"),
            ("before", "key", 2, PERTURBED, "query"),
        ],
    )
]


def plan(background: Background) -> ViewPlan:
    view = View(size_px=SIZE)
    return ViewPlan(views=(view, view, replace(view, size_px=9, is_global=False)), background=background)


def record_of(rng: np.random.Generator, has_background: bool) -> np.ndarray:
    """Everything drawn in all combinations."""
    record_B = np.zeros(B, VIEW_DTYPE)
    for name in ("brightness", "contrast", "saturation"):
        record_B[name] = rng.uniform(0.6, 1.4, B)
    record_B["hue"], record_B["jitter_order"] = rng.uniform(-0.1, 0.1, B), np.arange(B)
    record_B["is_jittered"], record_B["is_grey"] = rng.random(B) < 0.8, rng.random(B) < 0.3
    record_B["blur_sigma_px"] = np.where(rng.random(B) < 0.5, rng.uniform(0.1, 2.0, B), 0)
    record_B["has_background"] = has_background & (rng.random(B) < 0.5)
    record_B["is_negative_matched"] = rng.random(B) < 0.5
    record_B["background_grey"], record_B["negative_source"] = rng.random(B), rng.random(B)
    record_B["mask_rotation_degrees"] = rng.uniform(-20, 20, B)
    record_B["mask_shift_rows"] = rng.uniform(-0.2, 0.2, B)
    record_B["edge_sigma_px"] = np.where(rng.random(B) < 0.7, rng.uniform(0.0, 0.4, B), 0)
    return record_B


def make_batch(a_plan: ViewPlan, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    views = []
    for view, work in zip(a_plan.views, view_works(a_plan, (0.0,) * 3, (1.0,) * 3), strict=True):
        pixels = rng.integers(0, 256, (2, B, view.size_px, view.size_px, 3), dtype=np.uint8)
        bits = rng.integers(0, 2, (B, view.size_px, view.size_px), dtype=np.uint8)
        bits[3] = 0
        image_BHWC, donor_BHWC = torch.from_numpy(pixels)
        views.append(
            ViewBatch(
                image_BHWC=image_BHWC,
                mask_BHP=torch.from_numpy(np.packbits(bits, axis=-1)),
                donor_BHWC=donor_BHWC if work.needs_donor and work.has_background else None,
                record_B=record_of(rng, work.has_background),
            )
        )
    return Batch(views=tuple(views), row_B=torch.arange(B), label_B=torch.zeros(B).long(), epoch=0, step=0)


def assert_same(ours: Views, theirs: Views) -> None:
    for image, other in zip([*ours.images, *ours.masks], [*theirs.images, *theirs.masks], strict=True):
        torch.testing.assert_close(image, other, atol=TOLERANCE, rtol=0)
    assert (ours.negative is None) == (theirs.negative is None)
    if ours.negative is not None and theirs.negative is not None:
        torch.testing.assert_close(ours.negative, theirs.negative, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("background", OPTIONS, ids=lambda each: f"{each.name}-{each.order}-{each.num_negatives}")
def test_both_forms_agree(background: Background) -> None:
    batch = make_batch(plan(background))
    rows = DeviceStage(plan(background), device="cpu")(batch)
    assert_same(DeviceStage(plan(background), device="cpu", form="dense")(batch), rows)
    if background.name == "swaps":
        assert rows.negative is not None
        assert rows.negative.shape == (background.num_negatives * B, 3, SIZE, SIZE)


def test_both_forms_turn_grey_first_where_the_view_says_so() -> None:
    later = plan(Background(name="rm"))
    first = replace(later, views=tuple(replace(view, greyscale_order="before") for view in later.views))
    batch = make_batch(first)
    rows = DeviceStage(first, device="cpu")(batch)
    assert_same(DeviceStage(first, device="cpu", form="dense")(batch), rows)
    assert not torch.allclose(rows.images[0], DeviceStage(later, device="cpu")(batch).images[0], atol=0.01)


def one_view(background: Background) -> ViewPlan:
    return ViewPlan(views=(View(size_px=SIZE),), background=background)


@pytest.mark.slow
def test_it_compiles_as_one_graph() -> None:
    a_plan = one_view(Background(name="rm", mask=PERTURBED))
    stage = DeviceStage(a_plan, device="cpu", form="compiled", compile_backend="aot_eager")
    batch, other = (make_batch(a_plan, seed) for seed in (1, 2))
    assert_same(stage(batch), DeviceStage(a_plan, device="cpu")(batch))
    with torch.compiler.set_stance("fail_on_recompile"):  # what is drawn changes no shape
        assert_same(stage(other), DeviceStage(a_plan, device="cpu")(other))


@pytest.mark.slow
def test_inductor_compiles_it() -> None:
    a_plan = one_view(Background(name="swaps", mask=PERTURBED, num_negatives=2))
    batch = make_batch(a_plan)
    stage = DeviceStage(a_plan, device="cpu", form="compiled")
    assert_same(stage(batch), DeviceStage(a_plan, device="cpu")(batch))


def test_operations_are_torchvisions() -> None:
    """Jitter in every order, grey, blur, solarise: the whole of the dense form at once, sample by sample."""
    a_plan = plan(Background())
    batch = make_batch(a_plan)
    view = batch.views[0]
    view.record_B["is_jittered"] = 1
    view.record_B["is_solarised"] = np.arange(B) % 2
    (work, *_) = view_works(a_plan, (0.0,) * 3, (1.0,) * 3)
    packed_BK = torch.from_numpy(dense_form.pack(view.record_B, work))
    actual, _, _ = dense_form.make_view(
        view.image_BHWC, view.mask_BHP, None, packed_BK, mean_std(work, torch.device("cpu")), work
    )
    names = ("brightness", "contrast", "saturation", "hue")
    for row, record in enumerate(view.record_B):
        expected = view.image_BHWC[row].permute(2, 0, 1).float() / 255
        for operation in JITTER_ORDERS[record["jitter_order"]]:
            expected = getattr(functional, f"adjust_{names[operation]}")(expected, float(record[names[operation]]))
        expected = functional.rgb_to_grayscale(expected, 3) if record["is_grey"] else expected
        if record["blur_sigma_px"] > 0:
            sigma_px = float(record["blur_sigma_px"])
            expected = functional.gaussian_blur(expected, [work.kernel_size_px] * 2, [sigma_px] * 2)
        is_sure = (expected - 0.5).abs() > 1e-4  # solarising jumps there
        expected = functional.solarize(expected, 0.5) if record["is_solarised"] else expected
        torch.testing.assert_close(actual[row][is_sure], expected[is_sure], atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", ["rows", "dense"])
def test_channels_last_changes_the_layout_alone(form: str) -> None:
    background = Background(name="swaps")
    batch = make_batch(plan(background))
    plain = DeviceStage(plan(background), device="cpu", form=form)(batch)
    last = DeviceStage(plan(background), device="cpu", form=form, channels_last=True)(batch)
    assert last.negative is not None
    for image in (*last.images, last.negative):
        assert image.is_contiguous(memory_format=torch.channels_last)
    assert_same(last, plain)
    assert all(torch.equal(one, other) for one, other in zip(last.images, plain.images, strict=True))


def test_an_unknown_form_is_named() -> None:
    with pytest.raises(UserError, match=r"'fast'.*rows, dense, compiled"):
        DeviceStage(ViewPlan(), device="cpu", form="fast")
