"""`recombine`: foregrounds at other sizes and places on other backgrounds, as ForNet draws them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.errors import UserError
from backdrop.pipeline.loader.reference_loader import crop_image, crop_mask
from backdrop.pipeline.views import compositing, crops, device_crops, placement_kernels
from backdrop.pipeline.views import crop_kernels as kernels
from backdrop.pipeline.views.batch import PlaneBatch
from backdrop.pipeline.views.view_plan import Background, ObjectPlacement, View, ViewPlan
from tests.material import masks
from tests.material.planes import crop, plane_arrays, random_planes
from tests.reference import recombination as reference

SIZES = np.array([[30, 44], [52, 31], [40, 40], [25, 60]])
SHARES = np.array([0.05, 0.6, 0.0, 0.3])
DONORS = crops.donors(np.array([1, 4, 5, 9]), *SIZES.T, SHARES)
GLOBAL = View(size_px=24, min_foreground=0.3)
LOCAL = View(size_px=12, scale=(0.05, 0.2), min_foreground=0.1, is_global=False)


def disc(height: int = 40, width: int = 60, *, centre: tuple[float, float] = (14, 20), radius: float = 9) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2).astype(np.uint8)


def plan(views: tuple[View, ...] = (GLOBAL, GLOBAL, LOCAL), **options: object) -> ViewPlan:
    """Every view recombined, local ones too, unless the options say otherwise."""
    background = {"name": "recombine", "probability": 1.0, "applies_to": "all"}
    return ViewPlan(views=views, background=Background(**(background | options)))  # type: ignore[arg-type]


def drawn(a_plan: ViewPlan, mask_HW: np.ndarray, num_rows: int, donors: crops.Donors = DONORS) -> np.ndarray:
    """(rows, V) of VIEW_DTYPE."""
    mask = crops.foreground(np.packbits(mask_HW, axis=1), mask_HW.shape[1], is_located=False)
    return np.stack([crops.draw_views(a_plan, mask, donors, seed=1, epoch=0, row=row) for row in range(num_rows)])


def box(record: np.void, prefix: str = "") -> tuple[int, ...]:
    return tuple(int(record[prefix + name]) for name in ("top", "left", "height", "width"))


OBJECTS = [
    ObjectPlacement(),
    ObjectPlacement(size="mean", size_jitter=0.0, bates=0, edge_sigma=(0.0, 0.0)),
    ObjectPlacement(size="max", bates=4, edge_sigma=(0.02, 0.1)),
    ObjectPlacement(size="min", bates=-3),
    ObjectPlacement(size="keep", size_jitter=0.1, place="keep"),
]


@pytest.mark.parametrize("placement", OBJECTS, ids=lambda each: f"{each.size}-{each.place}-{each.bates}")
@pytest.mark.parametrize("pair_draw", ["independent", "same"])
def test_draws_are_those_of_the_restatement(placement: ObjectPlacement, pair_draw: str) -> None:
    a_plan, mask_HW = plan(object=placement, pair_draw=pair_draw), disc()
    mask_HW[30:33, 40:58] = 1  # a second component
    for row, record_V in enumerate(drawn(a_plan, mask_HW, 25)):
        for number, (view, record) in enumerate(zip(a_plan.views, record_V, strict=True)):
            donor = int(np.searchsorted(DONORS.row, record["donor_row"]))
            key, common = (1, 0, row, number), (1, 0, row, 0 if pair_draw == "same" and number < 2 else number)
            expected = reference.draw_view(
                mask_HW, view, placement, SHARES[donor], tuple(SIZES[donor].tolist()), key=key, common_key=common
            )
            assert box(record, "donor_") == expected["donor_box"]
            assert box(record) == expected["box"]
            assert record["edge_sigma_px"] == pytest.approx(expected["edge_sigma_px"], rel=1e-6)
            assert record["foreground_fraction"] == pytest.approx(expected["foreground_fraction"], rel=1e-6)
            assert record["donor_is_flipped"] == record["is_flipped"]


def test_compiled_and_plain_python_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    mask_HW = disc()
    plans = [
        plan(object=OBJECTS[0], pair_draw="same"),
        plan(object=OBJECTS[3], pair_draw="coupled", applies_to="key"),
        replace(plan(object=OBJECTS[4]), crop_proposal="centroid", crop_fallback="bbox", pair_constraint=True),
        replace(plan(object=OBJECTS[2]), crop_fallback="best"),
    ]
    compiled = [drawn(each, mask_HW, 12) for each in plans]
    for module in (kernels, placement_kernels):
        for name, kernel in vars(module).items():
            if hasattr(kernel, "py_func") and name not in ("count_box", "popcount", "measure"):
                monkeypatch.setattr(module, name, kernel.py_func)
    monkeypatch.setattr(crops, "draw_row", kernels.draw_row)
    for each, expected in zip(plans, compiled, strict=True):
        assert drawn(each, mask_HW, 12).tobytes() == expected.tobytes()


@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(st.integers(4, 60), st.integers(4, 60)), canvas=st.tuples(st.integers(4, 90), st.integers(4, 90)),
    share=st.floats(0.0, 1.0), seed=st.integers(0, 10_000), placement=st.sampled_from(OBJECTS),
    proposal=st.sampled_from(["uniform", "centroid"]), fallback=st.sampled_from(["center", "bbox", "best"]),
)  # fmt: skip
def test_whatever_the_sizes_boxes_lie_on_the_background_and_show_the_object_to_scale(
    size: tuple[int, int], canvas: tuple[int, int], share: float, seed: int, placement: ObjectPlacement, proposal: str,
    fallback: str,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    mask_HW = np.zeros(size, np.uint8)
    (top, bottom), (left, right) = (np.sort(rng.integers(0, side, 2)) for side in size)
    mask_HW[top : bottom + 1, left : right + 1] = rng.random((bottom - top + 1, right - left + 1)) < 0.7
    if not 0 < mask_HW.sum() < mask_HW.size:
        mask_HW[0, :2] = 0, 1
    donors = crops.donors(np.array([7]), np.array([canvas[0]]), np.array([canvas[1]]), np.array([share]))
    a_plan = replace(plan(object=placement), crop_proposal=proposal, crop_fallback=fallback, pair_constraint=True)
    own = reference.object_box(mask_HW)
    mask = crops.foreground(np.packbits(mask_HW, axis=1), size[1])
    for number, record in enumerate(crops.draw_views(a_plan, mask, donors, seed=seed, epoch=0, row=0)):
        at, shown = box(record, "donor_"), box(record)
        assert 0 <= at[0] < at[0] + at[2] <= canvas[0]
        assert 0 <= at[1] < at[1] + at[3] <= canvas[1]
        placed = reference.placed_box(mask_HW, share, canvas, placement, (seed, 0, 0, number))
        assert shown == reference.shown_of_image(at, placed, own)
        for axis in (0, 1):  # wholly on the background, or all over it
            room = canvas[axis] - placed[axis + 2]
            assert min(room, 0) <= placed[axis] <= max(room, 0)
        assert 0 <= record["foreground_fraction"] <= 1
        assert reference.foreground_in(mask_HW, shown) == pytest.approx(record["foreground_fraction"] * mask_HW.sum())


def test_the_object_covers_what_the_rule_says_anywhere() -> None:
    """What is drawn, read back from the records: shares of the background and middles of the object."""
    mask_HW = disc(80, 80, centre=(20, 20), radius=12)
    donors = crops.donors(*np.array([[9999], [400], [400]]), np.array([0.3]))
    own = mask_HW.mean()
    whole = View(size_px=64, scale=(1.0, 1.0), aspect_ratio=(1.0, 1.0))
    shares, middles = {}, {}
    for placement in (ObjectPlacement(), ObjectPlacement(size="keep", size_jitter=0.0, bates=0)):
        records = drawn(plan((whole,), object=placement), mask_HW, 300, donors)[:, 0]
        # The view shows the whole background: its box in the image is the background at the image's scale.
        shares[placement.size] = mask_HW.sum() / (records["height"].astype(float) * records["width"])
        middles[placement.size] = (20 - records["top"] + 0.5) / records["height"]
        assert (records["foreground_fraction"] == 1).all()
    assert shares["range"].min() >= 0.98 * 0.7 * own
    assert shares["range"].max() <= 1.02 * 1.3 * 0.3
    assert shares["range"].mean() == pytest.approx((0.7 * own + 1.3 * 0.3) / 2, rel=0.1)
    assert shares["keep"] == pytest.approx(own, rel=0.05)
    assert middles["keep"] == pytest.approx(0.5, abs=0.02)
    assert middles["range"].std() > 0.1
    assert middles["range"].mean() == pytest.approx(0.5, abs=0.05)


def test_query_and_key_may_share_background_size_and_place() -> None:
    whole = View(size_px=64, scale=(1.0, 1.0), aspect_ratio=(1.0, 1.0))
    both = drawn(plan((whole, whole), pair_draw="same"), disc(), 30)
    alone = drawn(plan((whole, whole)), disc(), 30)
    for name in ("donor_row", "top", "left", "height", "edge_sigma_px"):
        assert (both[name][:, 0] == both[name][:, 1]).all()
        assert (alone[name][:, 0] != alone[name][:, 1]).any()
    local = plan((LOCAL, LOCAL), pair_draw="same")
    records = drawn(local, disc(), 30)
    assert (records["donor_top"][:, 0] != records["donor_top"][:, 1]).any(), "each its own crop"


def test_rows_whose_object_filled_the_image_lend_nothing() -> None:
    fraction = np.array([0.1, 0.8, 0.79, 1.0])
    assert crops.lends_to(plan(), fraction).tolist() == [True, False, True, False]
    assert crops.lends_to(plan(object=ObjectPlacement(max_donor_foreground=1.0)), fraction).all()
    assert crops.lends_to(plan(name="random"), fraction).all()


def test_probabilities_fade_as_fornets_originals_rise() -> None:
    fading = {"probability": 0.8, "fade_epochs": 10}
    cosine = [crops.epoch_code(plan(**fading), epoch).background_probability for epoch in (0, 5, 10, 40)]
    assert cosine == pytest.approx([0.8, 0.8 * math.cos(math.pi / 4), 0, 0])
    linear = [crops.epoch_code(plan(**fading, fade="linear"), epoch).background_probability for epoch in (0, 5, 10, 40)]
    assert linear == pytest.approx([0.8, 0.4, 0, 0])
    assert crops.epoch_code(plan(probability=0.8), 400).background_probability == 0.8


@pytest.mark.parametrize(
    ("placement", "words"),
    [
        ({"size": "large"}, "background.object.size='large' is unknown; allowed: range, mean, max, min, keep"),
        ({"bates": 40}, r"object.bates=40 must be in \[-16, 16\]"),
        ({"edge_sigma": (0.01, 0.001)}, "rising numbers"),
        ({"max_donor_foreground": 0.0}, "above 0"),
        ({"size_jitter": 1.0}, r"must be in \[0, 0.95\]"),
    ],
)
def test_what_cannot_be_done_is_refused(placement: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        crops.epoch_code(plan(object=ObjectPlacement(**placement)), 0)


# ---------------------------------------------------------------------------------------- boxes that reach out, cut

reaching = st.tuples(st.integers(-60, 60), st.integers(-60, 60), st.integers(1, 120), st.integers(1, 120))


@settings(deadline=None, max_examples=100)
@given(
    a_box=reaching, size=st.tuples(st.integers(1, 40), st.integers(1, 70)), side=st.integers(1, 40),
    is_flipped=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_beyond_the_image_is_black_and_within_all_three_ways_agree(
    a_box: tuple[int, ...], size: tuple[int, int], side: int, is_flipped: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    planes = random_planes(*size, (2, 2), False, seed)
    mask_HW = (rng.random(size) < 0.5).astype(np.uint8)
    ours = crop(planes, a_box, side, is_flipped)
    expected = crop_image(plane_arrays(planes), a_box, 1, side, is_flipped)
    assert np.abs(ours.astype(int) - expected).max() <= 1
    is_inside = crop_mask(np.ones(size, np.uint8), a_box, side, is_flipped) != 0
    assert (ours[~is_inside] == 0).all()
    assert (ours[is_inside] > 0).all()

    out = masks.crop(mask_HW, a_box, side, is_flipped)
    expected_mask = crop_mask(mask_HW, a_box, side, is_flipped)
    assert (np.unpackbits(out, axis=1, count=side) == expected_mask).all()

    place = (size[0] + 3, size[1] + 9)  # what lies beside an image in a batch of whole ones is undefined
    luma_HW = rng.integers(0, 256, place, dtype=np.uint8)
    luma_HW[: size[0], : size[1]] = plane_arrays(planes)[0][0]
    bits_HW = rng.integers(0, 2, (place[0], (place[1] + 63) // 64 * 64), dtype=np.uint8)
    bits_HW[: size[0], : size[1]] = mask_HW
    boxes = device_crops._Boxes(*torch.tensor(a_box).float()[:, None, None], torch.tensor([[is_flipped]]))
    no_colour_2HW = torch.full((1, 2, -(-place[0] // 2), -(-place[1] // 2)), 128, dtype=torch.uint8)
    batch = PlaneBatch(
        luma_BHW=torch.from_numpy(luma_HW)[None], colour_B2HW=no_colour_2HW, size_B2=np.array([size], np.int64)
    )
    moved = device_crops._moved(batch, torch.device("cpu"))
    pixels = device_crops._cut_pixels(moved, boxes, side)
    assert np.abs(pixels[0].numpy().astype(int) - expected).max() <= 1
    mask = device_crops._cut_mask(torch.from_numpy(np.packbits(bits_HW, axis=1))[None], boxes, side, moved)
    assert (np.unpackbits(mask[0].numpy(), axis=1, count=side) == expected_mask).all()


@settings(deadline=None, max_examples=40)
@given(
    a_box=reaching, size=st.tuples(st.integers(1, 40), st.integers(1, 70)), side=st.integers(1, 40),
    sub=st.sampled_from([(1, 1), (1, 2), (2, 2), (1, 4)]), seed=st.integers(0, 99),
)  # fmt: skip
def test_colour_beyond_the_image_is_black_too(
    a_box: tuple[int, ...], size: tuple[int, int], side: int, sub: tuple[int, int], seed: int
) -> None:
    planes = random_planes(*size, sub, True, seed)
    expected = crop_image(plane_arrays(planes), a_box, 1, side, False)
    assert np.abs(crop(planes, a_box, side, False).astype(int) - expected).max() <= 1


# ------------------------------------------------------------------------------------------------------- soft edges


def test_edges_are_soft_inside_the_mask_alone() -> None:
    mask_HW = disc(16, 19, centre=(6, 8), radius=5)
    mask_HW[6, 8] = 0  # a hole stays one
    sigmas = [0.0, 0.4, 1.3, 2.5]
    masks = torch.from_numpy(np.repeat(mask_HW[None, None], 4, axis=0)).bool()
    soft = compositing.opacity(masks, torch.tensor(sigmas), 15)
    for made, sigma_px in zip(soft[:, 0].numpy(), sigmas, strict=True):
        np.testing.assert_allclose(made, reference.opacity(mask_HW, sigma_px, 7), atol=2e-6)
        assert (made[mask_HW == 0] == 0).all()
    assert (soft[0] == masks[0]).all()
    assert soft[3].sum() < soft[2].sum() < soft[1].sum() <= soft[0].sum()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_blended_pixels_lie_between_and_opaque_ones_stay_bit_for_bit(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    image, other = torch.randint(0, 256, (2, 5, 3, 6, 7), generator=generator).to(dtype)
    opacity = torch.rand(5, 1, 6, 7, generator=generator).round(decimals=1)
    made = compositing.blend(image, opacity, other)
    assert made.dtype == dtype
    opaque, gone = (opacity == 1).expand_as(image), (opacity == 0).expand_as(image)
    assert torch.equal(made[opaque], image[opaque])
    assert torch.equal(made[gone], other[gone])
    exact = opacity.double() * image.double() + (1 - opacity.double()) * other.double()
    assert (made.double() - exact).abs().max() <= (0.5 + 1e-4 if dtype == torch.uint8 else 1e-4)
