"""The crop sampler: against a loop restatement, torchvision's distribution, and its own promises."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from backdrop.errors import UserError
from backdrop.pipeline.views import crop_kernels as kernels
from backdrop.pipeline.views import crops
from backdrop.pipeline.views.view_plan import CROP_FALLBACKS, CROP_PROPOSALS, VIEW_DTYPE, Background, View, ViewPlan
from tests.reference import crops as reference

NO_DONORS = crops.donors(*np.zeros((3, 0), dtype=np.int64))
SOME_DONORS = crops.donors(np.array([1, 4, 5, 9]), np.array([100, 200, 256, 40]), np.array([256, 100, 256, 256]))


def blob(height: int, width: int, seed: int) -> np.ndarray:
    """An ellipse somewhere, small or large, with noise at its edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    centre, radius = rng.uniform(0.1, 0.9, 2), rng.uniform(0.05, 0.4, 2)
    distance = ((y / height - centre[0]) / radius[0]) ** 2 + ((x / width - centre[1]) / radius[1]) ** 2
    return (distance + rng.uniform(0, 0.3, distance.shape) < 1).astype(np.uint8)


def foreground(mask_HW: np.ndarray) -> crops.Foreground:
    return crops.foreground(np.packbits(mask_HW, axis=1), mask_HW.shape[1])


masks = st.builds(blob, st.integers(1, 90), st.integers(1, 200), st.integers(0, 10_000))


@settings(deadline=None, max_examples=60)
@given(mask_HW=masks, data=st.data())
def test_counts_are_those_of_the_unpacked_mask(mask_HW: np.ndarray, data: st.DataObject) -> None:
    height, width = mask_HW.shape
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = top, left, data.draw(st.integers(0, height - top)), data.draw(st.integers(0, width - left))
    words = crops.mask_words(np.packbits(mask_HW, axis=1), width)
    assert kernels.count_box(words, *box) == mask_HW[top : top + box[2], left : left + box[3]].sum()


@settings(deadline=None, max_examples=40)
@given(mask_HW=masks)
def test_box_and_centroid_are_those_of_the_unpacked_mask(mask_HW: np.ndarray) -> None:
    measured = foreground(mask_HW)
    assert measured.count == mask_HW.sum()
    ys, xs = np.nonzero(mask_HW)
    if len(ys):
        assert measured.box == (ys.min(), xs.min(), np.ptp(ys) + 1, np.ptp(xs) + 1)
        assert measured.centre_y == pytest.approx(ys.mean())
        assert measured.centre_x == pytest.approx(xs.mean())


def test_bits_beyond_the_width_are_not_foreground() -> None:
    assert crops.foreground(np.full((3, 2), 0xFF, dtype=np.uint8), 13).count == 39


@pytest.mark.parametrize("fallback", CROP_FALLBACKS)
@pytest.mark.parametrize("proposal", CROP_PROPOSALS)
def test_boxes_equal_the_loop_reference(proposal: str, fallback: str) -> None:
    fallbacks = 0
    for case in range(40):
        mask_HW = blob(30 + 7 * case % 60, 40 + 11 * case % 90, case) if case else np.zeros((30, 50), np.uint8)
        view = View(scale=(0.05, 0.4), min_foreground=(0.0, 0.3, 0.6, 0.9)[case % 4])
        plan = ViewPlan(views=(view, view), crop_proposal=proposal, crop_fallback=fallback, pair_constraint=True)
        mask = foreground(mask_HW)
        first, *_ = crops.draw_box(plan, 0, mask, seed=3, epoch=1, row=case)
        for number, pair in ((0, None), (1, first)):
            box, tries, is_fallback, inside = crops.draw_box(
                plan, number, mask, seed=3, epoch=1, row=case, pair=pair
            )  # fmt: skip
            expected = reference.draw_box(
                mask_HW, key=(3, 1, case, number), scale=view.scale, aspect_ratio=view.aspect_ratio,
                min_foreground=view.min_foreground, proposal=proposal, fallback=fallback, pair=pair,
            )  # fmt: skip
            assert (tuple(box), tries, bool(is_fallback)) == expected, case
            assert inside == reference.foreground_in(mask_HW, box)
            fallbacks += is_fallback
    assert fallbacks > 3, "the cases reach the fallback"


@settings(deadline=None, max_examples=60)
@given(mask_HW=masks, row=st.integers(0, 2**31 - 1), proposal=st.sampled_from(CROP_PROPOSALS),
       fallback=st.sampled_from(CROP_FALLBACKS), min_foreground=st.floats(0, 1), low=st.floats(0.01, 1))  # fmt: skip
def test_every_box_lies_in_the_image_and_keeps_its_promise(
    mask_HW: np.ndarray, row: int, proposal: str, fallback: str, min_foreground: float, low: float
) -> None:
    view = View(scale=(low, 1.0), min_foreground=min_foreground)
    plan = ViewPlan(views=(view,), crop_proposal=proposal, crop_fallback=fallback)
    mask = foreground(mask_HW)
    record = crops.draw_views(plan, mask, NO_DONORS, seed=0, epoch=0, row=row)[0]
    top, left, height, width = (int(record[name]) for name in ("top", "left", "height", "width"))
    assert height >= 1
    assert width >= 1
    assert 0 <= top <= mask_HW.shape[0] - height
    assert 0 <= left <= mask_HW.shape[1] - width
    assert 1 <= record["tries"] <= 10
    total = mask_HW.sum()
    share = mask_HW[top : top + height, left : left + width].sum() / total if total else 1.0
    assert record["foreground_fraction"] == np.float32(share)
    if not record["is_fallback"] and proposal == "uniform" and total:
        assert share >= min_foreground - 1e-12


@pytest.mark.parametrize(
    ("size", "box"),
    [((256, 256), (16, 16, 224, 224)), ((256, 341), (16, 58, 224, 224)), ((500, 375), (86, 23, 328, 328))],
)
def test_a_centre_crop_is_that_of_the_evaluations_whatever_is_drawn(size: tuple[int, int], box: tuple) -> None:
    """Short side 256, then CenterCrop 224: in the image's own pixels, to the nearest."""
    mask_HW = np.zeros(size, np.uint8)
    mask_HW[:3, :3] = 1  # outside: nothing could be asked of a crop that is not drawn
    plan = ViewPlan(views=(View(is_centre_crop=True, min_foreground=0.5), View()))
    for row in range(3):
        records = crops.draw_views(plan, foreground(mask_HW), NO_DONORS, seed=0, epoch=0, row=row)
        assert tuple(int(records[0][name]) for name in ("top", "left", "height", "width")) == box
        assert (records[0]["tries"], records[0]["is_fallback"]) == (1, 0)
        assert records[0]["foreground_fraction"] == 0.0


def test_without_foreground_the_constraint_is_void() -> None:
    empty = foreground(np.zeros((60, 80), np.uint8))
    free, bound = (ViewPlan(views=(View(min_foreground=least),)) for least in (0.0, 0.9))
    for row in range(50):
        key = {"seed": 0, "epoch": 0, "row": row}
        assert crops.draw_box(free, 0, empty, **key) == crops.draw_box(bound, 0, empty, **key)


@pytest.mark.parametrize("scale", [(0.2, 1.0), pytest.param((0.05, 0.14), marks=pytest.mark.slow)])
def test_unconstrained_boxes_have_torchvisions_distribution(scale: tuple[float, float]) -> None:
    height, width, num = 75, 100, 4000
    plan = ViewPlan(views=(View(scale=scale),))
    mask = foreground(blob(height, width, 1))
    ours = np.array([crops.draw_box(plan, 0, mask, seed=5, epoch=0, row=row)[0] for row in range(num)], dtype=float)
    image = torch.zeros(1, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array([RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3)) for _ in range(num)], dtype=float)
    for name, values in (
        ("top", [boxes[:, 0] for boxes in (ours, theirs)]),
        ("left", [boxes[:, 1] for boxes in (ours, theirs)]),
        ("area", [boxes[:, 2] * boxes[:, 3] for boxes in (ours, theirs)]),
        ("ratio", [boxes[:, 3] / boxes[:, 2] for boxes in (ours, theirs)]),
    ):
        assert scipy.stats.ks_2samp(*values).pvalue > 1e-3, name


def test_centroid_proposals_follow_the_truncated_normal() -> None:
    u = np.linspace(0.001, 0.999, 400)
    drawn = np.array([kernels.truncated_normal(each, 30.0, 100.0, 10.0, 90.0) for each in u])
    expected = scipy.stats.truncnorm.ppf(u, -0.2, 0.6, loc=30.0, scale=100.0)
    np.testing.assert_allclose(drawn, expected, atol=1e-9)


@pytest.mark.parametrize("num_rows", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_compiled_and_plain_python_agree(num_rows: int) -> None:
    plan = ViewPlan(
        views=(View(min_foreground=0.3), View(min_foreground=0.3), View(scale=(0.05, 0.14), is_global=False)),
        background=Background(name="swaps", probability=0.6), pair_constraint=True,
        crop_proposal="centroid", crop_fallback="bbox",
    )  # fmt: skip
    specs, code = crops.view_specs(plan), crops.epoch_code(plan, 0)
    for row in range(num_rows):
        words = crops.mask_words(np.packbits(blob(40, 100, row), axis=1), 100)
        mask = kernels.measure(words, 40, 100, True)
        compiled, plain = (np.zeros(3, dtype=VIEW_DTYPE) for _ in range(2))
        draws = kernels.Draws(1, 2, specs, code, SOME_DONORS)
        kernels.draw_row(compiled, row, mask, draws)
        kernels.draw_row.py_func(plain, row, mask, draws)
        assert (compiled == plain).all()
        stream, spec = kernels.Stream(1, 2, row, 0), specs[0]
        arguments = (stream, mask, spec, code.proposal, code.fallback, kernels.Box(0, 0, 0, 0))
        assert kernels.draw_box(*arguments) == kernels.draw_box.py_func(*arguments)
        assert kernels.propose(stream, 0, mask, spec, 1) == kernels.propose.py_func(stream, 0, mask, spec, 1)
        assert kernels.grown_box(stream, 0, mask, spec) == kernels.grown_box.py_func(stream, 0, mask, spec)
        with np.errstate(over="ignore"):  # 64-bit arithmetic wraps; numpy scalars warn of it
            assert kernels.measure.py_func(words, 40, 100, True)[3:] == mask[3:]
            assert kernels.count_box.py_func(words, 3, 5, 30, 70) == kernels.count_box(words, 3, 5, 30, 70)


def drawn(plan: ViewPlan, mask_HW: np.ndarray, donors: crops.Donors, num: int, epoch: int = 0) -> np.ndarray:
    mask = foreground(mask_HW)
    return np.stack([crops.draw_views(plan, mask, donors, seed=1, epoch=epoch, row=row) for row in range(num)])


def test_parameters_have_their_distributions() -> None:
    view = View(blur_sigma_px=(0.1, 2.0), solarise_probability=0.3)
    records = drawn(ViewPlan(views=(view, view)), blob(40, 60, 0), NO_DONORS, 3000)
    for name, probability in (("is_flipped", 0.5), ("is_jittered", 0.8), ("is_grey", 0.2), ("is_solarised", 0.3)):
        assert records[name].mean() == pytest.approx(probability, abs=0.03), name
    assert (records["blur_sigma_px"] > 0).mean() == pytest.approx(0.5, abs=0.03)
    jittered = records[records["is_jittered"] == 1]
    for name, low, high in (("brightness", 0.6, 1.4), ("contrast", 0.6, 1.4), ("saturation", 0.6, 1.4),
                            ("hue", -0.1, 0.1), ("blur_sigma_px", 0.1, 2.0)):  # fmt: skip
        values = jittered[name] if name != "blur_sigma_px" else records[name][records[name] > 0]
        assert scipy.stats.kstest(values, scipy.stats.uniform(low, high - low).cdf).pvalue > 1e-3, name
    assert set(np.unique(jittered["jitter_order"])) == set(range(24))
    plain = records[records["is_jittered"] == 0]
    assert (plain["brightness"] == 1).all()
    assert (plain["hue"] == 0).all()
    assert abs(np.corrcoef(jittered["brightness"], jittered["contrast"])[0, 1]) < 0.06


def test_backgrounds_are_drawn_only_where_there_is_foreground_and_background() -> None:
    plan = ViewPlan(views=(View(), View(is_global=False)), background=Background(name="random", probability=1.0))
    for mask_HW in (np.zeros((20, 30), np.uint8), np.ones((20, 30), np.uint8)):
        assert not drawn(plan, mask_HW, SOME_DONORS, 20)["has_background"].any()
    records = drawn(plan, blob(30, 40, 2), SOME_DONORS, 20)
    assert records["has_background"][:, 0].all()
    assert not records["has_background"][:, 1].any()
    assert not drawn(plan, blob(30, 40, 2), NO_DONORS, 20)["has_background"].any()


def test_donors_are_other_rows_drawn_evenly() -> None:
    plan = ViewPlan(views=(View(),), background=Background(name="random", probability=1.0))
    mask = foreground(blob(30, 40, 2))
    donors = [crops.draw_views(plan, mask, SOME_DONORS, seed=s, epoch=0, row=4)[0]["donor_row"] for s in range(900)]
    rows, counts = np.unique(donors, return_counts=True)
    assert rows.tolist() == [1, 5, 9]
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    only_itself = crops.donors(*np.array([[4], [10], [10]]))
    assert crops.draw_views(plan, mask, only_itself, seed=0, epoch=0, row=4)[0]["has_background"] == 0


def test_probabilities_warm_up_linearly_by_epoch() -> None:
    background = Background(name="swaps", probability=0.8, negative_probability=0.4, warmup_epochs=4)
    codes = [crops.epoch_code(ViewPlan(background=background), epoch) for epoch in range(6)]
    np.testing.assert_allclose([code.background_probability for code in codes], [0, 0.2, 0.4, 0.6, 0.8, 0.8])
    np.testing.assert_allclose([code.negative_probability for code in codes], [0, 0.1, 0.2, 0.3, 0.4, 0.4])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"crop_proposal": "gauss"}, "uniform, centroid"),
        ({"crop_fallback": "last"}, "center, bbox, best"),
        ({"background": Background(name="blur")}, "none, random, recombine, rm, swaps"),
        ({"background": Background(name="rm", probability=1.5)}, r"in \[0, 1\]"),
        ({"views": (View(scale=(0.5, 0.2)),)}, "rising numbers above 0"),
        ({"views": (View(min_foreground=1.5),)}, "min_foreground"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(change: dict, words: str) -> None:
    plan = ViewPlan(**change)
    with pytest.raises(UserError, match=words):
        crops.view_specs(plan), crops.epoch_code(plan, 0)
