"""The crop sampler against torchvision's distribution, and its promises recounted from the unpacked mask.

Kolmogorov-Smirnov tests get the thresholds of their number: over all comparisons here one run in a thousand would fail
by chance, and the seeds are fixed. Positions are compared as shares of the free room, which only boxes with room have.
"""

import functools
import math
from itertools import product

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from torchvision.transforms import RandomResizedCrop

from backdrop.pipeline.views import crop_kernels as kernels
from backdrop.pipeline.views import crops
from backdrop.pipeline.views.view_plan import CROP_FALLBACKS, CROP_PROPOSALS, View, ViewPlan

NUM_DRAWS = 20_000
# Landscape, portrait, square, nearly all proposals refused, all refused, a single pixel.
SIZES = ((375, 500), (500, 333), (224, 224), (100, 300), (1, 5000), (5000, 1), (1, 1))
SCALES = ((0.2, 1.0), (0.05, 0.14))
ASPECT = (3 / 4, 4 / 3)
NO_DONORS = crops.donors(*np.zeros((3, 0), dtype=np.int64))


@njit(nogil=True)
def boxes_of(num, seed, mask, spec, proposal, fallback, out):
    """Boxes, tries and fallbacks of rows 0 .. num - 1, straight from the kernel that training calls."""
    for row in range(num):
        stream = kernels.Stream(seed, 0, row, 0)
        box, tries, is_fallback, count = kernels.draw_box(
            stream, mask, spec, proposal, fallback, kernels.Box(0, 0, 0, 0)
        )
        out[row, 0], out[row, 1], out[row, 2], out[row, 3] = box.top, box.left, box.height, box.width
        out[row, 4], out[row, 5], out[row, 6] = tries, is_fallback, count


def foreground(mask_HW: np.ndarray) -> crops.Foreground:
    return crops.foreground(np.packbits(mask_HW, axis=1), mask_HW.shape[1])


def our_draws(mask_HW: np.ndarray, view: View, proposal: str, fallback: str, num: int, seed: int = 11) -> np.ndarray:
    """int64 (num, 7): top, left, height, width, tries, is_fallback, foreground pixels."""
    out = np.empty((num, 7), np.int64)
    numbers = CROP_PROPOSALS.index(proposal), CROP_FALLBACKS.index(fallback)
    boxes_of(num, seed, foreground(mask_HW), crops.view_specs(ViewPlan(views=(view,)))[0], *numbers, out)
    return out


@functools.cache
def torchvisions(height: int, width: int, scale: tuple[float, float], num: int) -> np.ndarray:
    image = torch.empty(1, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return np.array([RandomResizedCrop.get_params(image, scale, ASPECT) for _ in range(num)])


def share_of_room(start: np.ndarray, side: np.ndarray, whole: int) -> np.ndarray:
    room = whole - side
    return start[room > 0] / room[room > 0]


def assert_same_distribution(ours: np.ndarray, theirs: np.ndarray, height: int, width: int) -> None:
    measures = {
        "area": lambda box: box[:, 2] * box[:, 3] / (height * width),
        "aspect": lambda box: box[:, 3] / box[:, 2],
        "top": lambda box: share_of_room(box[:, 0], box[:, 2], height),
        "left": lambda box: share_of_room(box[:, 1], box[:, 3], width),
    }
    for name, measure in measures.items():
        mine, other = measure(ours), measure(theirs)
        assert len(mine) / len(ours) == pytest.approx(len(other) / len(theirs), abs=0.05), f"{name}: boxes with room"
        if len(mine):
            assert scipy.stats.ks_2samp(mine, other).pvalue > 1e-5, name


@pytest.mark.parametrize("num_theirs", [4000, pytest.param(NUM_DRAWS, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("size", "scale"), [*product(SIZES[:1], SCALES), *product(SIZES[1:], SCALES[:1])])
def test_free_boxes_have_torchvisions_distribution(
    size: tuple[int, int], scale: tuple[float, float], num_theirs: int
) -> None:
    num_theirs = min(num_theirs, 200) if min(size) == 1 and num_theirs < NUM_DRAWS else num_theirs  # all the same box
    mask_HW = np.zeros(size, np.uint8)
    mask_HW[: size[0] // 2 + 1, : size[1] // 3 + 1] = 1  # a mask that must not matter
    ours = our_draws(mask_HW, View(scale=scale), "uniform", "center", NUM_DRAWS)
    assert_same_distribution(ours[:, :4], torchvisions(*size, scale, num_theirs), *size)


def test_the_comparison_notices_a_biased_sampler() -> None:
    ours = our_draws(np.ones((375, 500), np.uint8), View(scale=SCALES[0]), "uniform", "center", NUM_DRAWS)[:, :4]
    theirs = torchvisions(375, 500, SCALES[0], 4000)
    never_at_the_end, small, narrow = ours.copy(), ours.copy(), ours.copy()
    never_at_the_end[:, 1] = ours[:, 1] * 0.9
    small[:, 2:] = ours[:, 2:] * 0.95
    narrow[:, 3] = ours[:, 3] * 0.93
    for biased in (never_at_the_end, small, narrow):
        with pytest.raises(AssertionError):
            assert_same_distribution(biased, theirs, 375, 500)


def test_without_room_torchvision_and_we_take_the_same_box() -> None:
    for height, width in ((1, 5000), (5000, 1), (1, 1), (3, 900)):
        (expected,) = {tuple(box) for box in torchvisions(height, width, SCALES[0], 50).tolist()}
        ours = our_draws(np.ones((height, width), np.uint8), View(scale=SCALES[0]), "uniform", "center", 200)
        assert {tuple(box) for box in ours[:, :4].tolist()} == {expected}


# --- the constraint --------------------------------------------------------------------------------------------------


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """Rectangles, noise, single pixels, empty and full; uint8 (H, W) around the edges of 64-bit words."""
    height, width = draw(st.integers(1, 70)), draw(st.sampled_from([1, 2, 7, 63, 64, 65, 100, 128, 130]))
    kind = draw(st.sampled_from(["rectangle", "noise", "pixel", "empty", "full"]))
    mask_HW = np.zeros((height, width), np.uint8)
    if kind == "full":
        mask_HW[:] = 1
    elif kind == "noise":
        mask_HW[:] = np.random.default_rng(draw(st.integers(0, 999))).random((height, width)) < 0.3
    elif kind != "empty":
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        side = (1, 1) if kind == "pixel" else (draw(st.integers(1, height)), draw(st.integers(1, width)))
        mask_HW[top : top + side[0], left : left + side[1]] = 1
    return mask_HW


views = st.builds(
    lambda low, high, phi: View(scale=(low, max(low, high)), min_foreground=phi),
    st.floats(0.02, 1), st.floats(0.02, 1), st.sampled_from([0.0, 0.05, 0.2, 0.5, 0.9, 1.0]),
)  # fmt: skip


def count(mask_HW: np.ndarray, box: np.ndarray) -> int:
    top, left, height, width = box
    return int(mask_HW[top : top + height, left : left + width].sum())


def wanted_share(mask_HW: np.ndarray, view: View, proposal: str) -> float:
    """phi; as CAST was released no more than the smallest crop can hold of the foreground."""
    if proposal == "uniform":
        return view.min_foreground
    return min(view.min_foreground, view.scale[0] * mask_HW.size / mask_HW.sum())


def assert_record_keeps_its_promise(record: np.void, mask_HW: np.ndarray, view: View, plan: ViewPlan) -> None:
    box = np.array([record[name] for name in ("top", "left", "height", "width")], dtype=np.int64)
    assert (box[:2] >= 0).all()
    assert (box[2:] >= 1).all()
    assert (box[:2] + box[2:] <= mask_HW.shape).all()
    total, inside = int(mask_HW.sum()), count(mask_HW, box)
    assert record["foreground_fraction"] == np.float32(inside / total if total else 1.0)
    if record["is_fallback"]:
        assert record["tries"] == 10
        if plan.crop_fallback == "bbox" and total:
            ratio = box[3] / box[2]
            is_whole_object = inside == total
            # Only the aspect ratio may cut the object.
            slack = 1 / box[2:].min() + 1e-9
            at_its_limit = min(abs(ratio / ASPECT[0] - 1), abs(ratio / ASPECT[1] - 1)) <= slack * ratio + slack
            assert is_whole_object or at_its_limit
    elif total and view.min_foreground > 0:
        assert inside >= wanted_share(mask_HW, view, plan.crop_proposal) * total - 1e-9


@settings(deadline=None, max_examples=80)
@given(mask_HW=masks(), several=st.lists(views, min_size=1, max_size=4), proposal=st.sampled_from(CROP_PROPOSALS),
       fallback=st.sampled_from(CROP_FALLBACKS), is_paired=st.booleans(), row=st.integers(0, 2**31 - 2))  # fmt: skip
def test_every_view_keeps_its_own_promise(
    mask_HW: np.ndarray, several: list[View], proposal: str, fallback: str, is_paired: bool, row: int
) -> None:
    plan = ViewPlan(
        views=tuple(several), crop_proposal=proposal, crop_fallback=fallback, pair_constraint=is_paired
    )  # fmt: skip
    records = crops.draw_views(plan, foreground(mask_HW), NO_DONORS, seed=3, epoch=2, row=row)
    for record, view in zip(records, several, strict=True):
        assert_record_keeps_its_promise(record, mask_HW, view, plan)
    if is_paired and len(several) > 1 and not records[1]["is_fallback"] and several[1].min_foreground > 0:
        first = np.zeros_like(mask_HW)
        top, left, height, width = (records[0][name] for name in ("top", "left", "height", "width"))
        first[top : top + height, left : left + width] = mask_HW[top : top + height, left : left + width]
        second = np.array([records[1][name] for name in ("top", "left", "height", "width")], dtype=np.int64)
        if first.sum():
            wanted = wanted_share(mask_HW, several[1], proposal)
            assert count(first, second) >= wanted * first.sum() - 1e-9


@pytest.mark.parametrize("fallback", CROP_FALLBACKS)
@pytest.mark.parametrize("proposal", CROP_PROPOSALS)
def test_accepted_crops_hold_the_share_and_the_others_are_counted(proposal: str, fallback: str) -> None:
    """Small objects at local scales: both outcomes in plenty, recounted one by one."""
    mask_HW = np.zeros((120, 160), np.uint8)
    mask_HW[20:70, 90:150] = 1
    view = View(scale=(0.05, 0.14), min_foreground=0.5)
    drawn = our_draws(mask_HW, view, proposal, fallback, 2000)
    is_fallback = drawn[:, 5] == 1
    recounted = np.array([count(mask_HW, box[:4]) for box in drawn])
    assert (recounted == drawn[:, 6]).all()
    wanted = wanted_share(mask_HW, view, proposal) * mask_HW.sum()
    assert (recounted[~is_fallback] >= wanted - 1e-9).all()
    assert 0.005 < is_fallback.mean() < 0.995
    assert (drawn[is_fallback, 4] == 10).all()
    boxes = {tuple(box) for box in drawn[is_fallback, :4].tolist()}
    if fallback == "center":
        assert boxes == {(0, 0, 120, 160)}
    elif fallback == "bbox":
        assert (recounted[is_fallback] == mask_HW.sum()).all()
        assert len(boxes) > 1
    else:  # the best of ten that all fell short
        assert (recounted[is_fallback] < wanted).all()
        # The best of ten reaches further than one that fell short.
        single = our_draws(mask_HW, View(scale=view.scale), proposal, fallback, 2000)[:, 6]
        assert np.median(recounted[is_fallback]) > np.median(single[single < wanted])


@pytest.mark.parametrize("proposal", CROP_PROPOSALS)
@pytest.mark.parametrize("size", [(100, 300), (100, 150), (1, 5000)])
def test_a_proposal_that_does_not_fit_is_no_try(size: tuple[int, int], proposal: str) -> None:
    """Ten crops are tried against the constraint, each as torchvision draws it, which proposes until one fits."""
    free = our_draws(np.ones(size, np.uint8), View(), proposal, "bbox", 2000)
    assert (free[:, 4] == 1).all()
    assert not free[:, 5].any()


def test_ten_crops_that_fit_are_tried() -> None:
    """Against ten crops of torchvision's for each image: as many of ours fall back as of those hold too little."""
    height, width, num = 100, 200, 2000
    mask_HW = np.zeros((height, width), np.uint8)
    mask_HW[:, 30:190] = 1
    ours = our_draws(mask_HW, View(min_foreground=0.7), "uniform", "center", num)
    theirs = torchvisions(height, width, (0.2, 1.0), 10 * num)
    held = np.array([count(mask_HW, box) for box in theirs]).reshape(num, 10) >= 0.7 * mask_HW.sum()
    expected = (~held.any(axis=1)).mean()
    assert 0.05 < expected < 0.95
    assert ours[:, 5].mean() == pytest.approx(expected, abs=4 * math.sqrt(2 * expected * (1 - expected) / num))


def test_each_view_has_its_own_share() -> None:
    """Multi-crop: global views bound, local ones free."""
    mask_HW = np.zeros((100, 100), np.uint8)
    mask_HW[:30, :30] = 1
    bound, free = View(scale=(0.2, 0.4), min_foreground=0.9), View(scale=(0.05, 0.14), is_global=False)
    plan = ViewPlan(views=(bound, bound, free, free))
    mask = foreground(mask_HW)
    records = np.stack([crops.draw_views(plan, mask, NO_DONORS, seed=1, epoch=0, row=row) for row in range(300)])
    accepted = records["is_fallback"] == 0
    assert (records["foreground_fraction"][:, :2][accepted[:, :2]] >= np.float32(0.9)).all()
    assert accepted[:, 2:].all()
    assert (records["tries"][:, 2:] == 1).all()
    assert (records["foreground_fraction"][:, 2:] == 0).mean() > 0.3
