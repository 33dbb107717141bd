"""What is drawn for each option of the background augmentations, and what comes of it."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.errors import UserError
from backdrop.pipeline.views import backgrounds, crops, photometric
from backdrop.pipeline.views import crop_kernels as kernels
from backdrop.pipeline.views.batch import Batch, ViewBatch
from backdrop.pipeline.views.device_stage import DeviceStage
from backdrop.pipeline.views.view_plan import VIEW_DTYPE, Background, MaskPerturbation, View, ViewPlan
from tests.reference import recombination as reference

SOME_DONORS = crops.donors(np.array([1, 4, 5, 9]), np.array([100, 200, 256, 40]), np.array([256, 100, 256, 256]))
NUM_ROWS = 400
LOCAL = View(scale=(0.05, 0.14), is_global=False)
PERTURBED = MaskPerturbation(
    max_rotation_degrees=25, max_shear_degrees=15, max_shift_fraction=0.25, flip_probability=0.5, is_box=True
)


def disc(height: int, width: int, case: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    centre = height * (0.3 + 0.04 * (case % 10)), width * (0.2 + 0.06 * (case % 11))
    radius = min(height, width) * (0.1 + 0.03 * (case % 7))
    return ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2).astype(np.uint8)


def foreground(mask_HW: np.ndarray) -> crops.Foreground:
    return crops.foreground(np.packbits(mask_HW, axis=1), mask_HW.shape[1])


def plan(views: tuple[View, ...] = (View(), View(), LOCAL), **background: object) -> ViewPlan:
    options = {"name": "swaps", "probability": 0.5, "negative_probability": 0.5} | background
    return ViewPlan(views=views, background=Background(**options))  # type: ignore[arg-type]


def drawn(a_plan: ViewPlan, num_rows: int = NUM_ROWS) -> np.ndarray:
    """(rows, V) of VIEW_DTYPE, all of one mask."""
    mask = foreground(disc(40, 60, 3))
    return np.stack([crops.draw_views(a_plan, mask, SOME_DONORS, seed=1, epoch=0, row=row) for row in range(num_rows)])


# The digests were taken before any of the options was there, and anew when a proposal that does not fit into the image
# was no longer counted as one of ten tries but drawn again: the rows with such a proposal moved.
@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("none", "eb39c1efd25e5cfb"),
        ("rm", "9e61696e6e90e375"),
        ("random", "5ce13f58de70f33f"),
        ("swaps", "9476593d191f9b49"),
    ],
)
def test_without_options_the_draws_are_what_they_were(name: str, digest: str) -> None:
    view = View(min_foreground=0.1)
    a_plan = plan((view, replace(view, solarise_probability=0.2), LOCAL), name=name, probability=0.4,
                  negative_probability=0.3)  # fmt: skip
    total = hashlib.sha256()
    for row in range(60):
        mask = foreground(disc(40 + row, 90 - row, row))
        record_V = crops.draw_views(a_plan, mask, SOME_DONORS, seed=3, epoch=row % 3, row=row)
        for field in FIRST_FIELDS:
            values = record_V[field]
            is_float = values.dtype.kind == "f"
            total.update(
                (np.round(values.astype(np.float64), 5) if is_float else np.ascontiguousarray(values)).tobytes()
            )
    assert total.hexdigest()[:16] == digest


FIRST_FIELDS = (
    "top", "left", "height", "width", "is_flipped", "tries", "is_fallback", "is_jittered", "jitter_order", "is_grey",
    "is_solarised", "has_background", "is_negative_matched", "donor_is_flipped", "brightness", "contrast",
    "saturation", "hue", "blur_sigma_px", "background_grey", "foreground_fraction", "donor_row", "donor_top",
    "donor_left", "donor_height", "donor_width", "negative_source",
)  # fmt: skip


@pytest.mark.parametrize(
    ("applies_to", "expected"),
    [("global", [1, 1, 0]), ("query", [1, 0, 0]), ("key", [0, 1, 0]), ("all", [1, 1, 1])],
)
def test_the_chosen_views_alone_get_a_background(applies_to: str, expected: list[int]) -> None:
    a_plan = plan(applies_to=applies_to, probability=1.0)
    assert drawn(a_plan, 20)["has_background"].all(axis=0).tolist() == [bool(each) for each in expected]
    assert drawn(a_plan, 20)["has_background"].any(axis=0).tolist() == [bool(each) for each in expected]
    assert [crops.takes_donor(a_plan, view) for view in range(3)] == [bool(each) for each in expected]


def test_query_and_key_draw_alone_together_or_the_same() -> None:
    records = {draw: drawn(plan(pair_draw=draw)) for draw in ("independent", "coupled", "same")}
    for draw, record in records.items():
        has = record["has_background"][:, :2] != 0
        assert has.mean(axis=0) == pytest.approx(0.5, abs=0.08), draw
        agree = (has[:, 0] == has[:, 1]).mean()
        assert agree == pytest.approx(0.5, abs=0.08) if draw == "independent" else agree == 1.0
        both = record[has.all(axis=1)]
        is_same = both["donor_row"][:, 0] == both["donor_row"][:, 1]
        assert is_same.all() if draw == "same" else is_same.mean() == pytest.approx(1 / 4, abs=0.12)
        assert (both["donor_left"][:, 0] != both["donor_left"][:, 1]).mean() > 0.5, "each its own crop"
    grey = drawn(plan(name="rm", pair_draw="same", probability=1.0), 20)["background_grey"]
    assert (grey[:, 0] == grey[:, 1]).all()
    assert np.ptp(grey[:, 0]) > 0.5
    # The query is as it is without its partner.
    for draw in ("coupled", "same"):
        assert records[draw][:, 0].tobytes() == records["independent"][:, 0].tobytes()


def test_negatives_draw_by_their_own_probability_or_follow_their_view() -> None:
    alone, coupled = drawn(plan(negative_probability=0.2)), drawn(plan(negative_draw="coupled"))
    matched, has = alone["is_negative_matched"][:, :2], alone["has_background"][:, :2]
    assert matched.mean(axis=0) == pytest.approx(0.2, abs=0.06)
    assert abs(np.corrcoef(matched[:, 0], has[:, 0])[0, 1]) < 0.15
    assert (coupled["is_negative_matched"] == coupled["has_background"]).all()
    assert (coupled["negative_source"] == alone["negative_source"]).all()
    assert not alone["is_negative_matched"][:, 2].any()


def test_before_the_others_the_background_is_cut_as_its_image() -> None:
    records = drawn(plan(order="before", probability=1.0))[:, :2].reshape(-1)
    sizes = dict(zip(SOME_DONORS.row, zip(SOME_DONORS.height, SOME_DONORS.width, strict=True), strict=True))
    assert (records["donor_is_flipped"] == records["is_flipped"]).all()
    for record in records[:100]:
        height, width = sizes[record["donor_row"]]
        for start, length, new, old in (("top", "height", height, 40), ("left", "width", width, 60)):
            ends = np.array([record[start], record[start] + record[length]]) * new / old
            donor_ends = record[f"donor_{start}"], record[f"donor_{start}"] + record[f"donor_{length}"]
            assert np.abs(ends - donor_ends).max() <= 1


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 499), st.integers(1, 500))
def test_a_stretched_interval_lies_inside(side: int, new_side: int, start: int, length: int) -> None:
    start = min(start, side - 1)
    length = min(length, side - start)
    new_start, new_length = kernels._stretched(start, length, side, new_side)
    assert new_length >= 1
    assert 0 <= new_start <= new_start + new_length <= new_side


def test_masks_are_perturbed_within_their_strengths() -> None:
    perturbed, plain = drawn(plan(mask=PERTURBED)), drawn(plan())
    for name, strength in (
        ("mask_rotation_degrees", 25), ("mask_row_shear_degrees", 15), ("mask_column_shear_degrees", 15),
        ("mask_shift_rows", 0.25), ("mask_shift_columns", 0.25),
    ):  # fmt: skip
        values = perturbed[name]
        assert np.abs(values).max() <= strength
        assert values.std() == pytest.approx(strength / np.sqrt(3), rel=0.06), name
        assert not plain[name].any()
        assert abs(np.corrcoef(values[:, 0], values[:, 1])[0, 1]) < 0.15, "each use has its own"
    assert perturbed["mask_is_flipped"].mean() == pytest.approx(0.5, abs=0.06)
    for field in FIRST_FIELDS:
        assert (perturbed[field] == plain[field]).all(), "crops see the good mask"


def test_compiled_and_plain_python_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    options = [
        {"order": "before", "pair_draw": "same", "negative_draw": "coupled", "mask": PERTURBED, "applies_to": "all"},
        {"order": "after", "pair_draw": "coupled", "applies_to": "key", "name": "random"},
    ]
    plans = [plan(**each) for each in options]
    compiled = [drawn(each, 12) for each in plans]
    for name, kernel in vars(kernels).items():
        if hasattr(kernel, "py_func") and name not in ("count_box", "popcount", "measure"):
            monkeypatch.setattr(kernels, name, kernel.py_func)
    monkeypatch.setattr(crops, "draw_row", kernels.draw_row)
    for a_plan, expected in zip(plans, compiled, strict=True):
        assert drawn(a_plan, 12).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"applies_to": "local"}, "background.applies_to='local' is unknown; allowed: global, query, key, all"),
        ({"pair_draw": "both"}, "independent, coupled, same"),
        ({"negative_matches": "q"}, "query, key"),
        ({"negative_draw": "never"}, "independent, coupled"),
        ({"negative_draw": "coupled", "applies_to": "key"}, "set background.negative_matches=key"),
        ({"order": "first"}, "after, before"),
        ({"num_negatives": 0}, r"num_negatives=0 must be in \[1, 64\]"),
        ({"warmup_epochs": -1.0}, "0 or more"),
        (
            {"mask": MaskPerturbation(max_shear_degrees=80)},
            r"mask.max_shear_degrees=80 must be in \[0, 60\]",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(change: dict, words: str) -> None:
    for attempt in (lambda: crops.epoch_code(plan(**change), 0), lambda: DeviceStage(plan(**change), device="cpu")):
        with pytest.raises(UserError, match=words):
            attempt()


# ------------------------------------------------------------------------------------------------- what comes of them

B, SIZE = 6, 14


def crops_of(a_plan: ViewPlan, seed: int = 0) -> Batch:
    """Random pixels and masks with drawn records, jitter, grey and blur among them."""
    rng = np.random.default_rng(seed)
    views = []
    for number in range(len(a_plan.views)):
        pixels = torch.from_numpy(rng.integers(0, 256, (2, B, SIZE, SIZE, 3), dtype=np.uint8))
        views.append(
            ViewBatch(
                image_BHWC=pixels[0],
                mask_BHP=torch.from_numpy(np.packbits(rng.integers(0, 2, (B, SIZE, SIZE), dtype=np.uint8), axis=-1)),
                donor_BHWC=pixels[1] if crops.takes_donor(a_plan, number) else None,
                record_B=np.ascontiguousarray(drawn(a_plan, B)[:, number]),
            )
        )
    return Batch(views=tuple(views), row_B=torch.arange(B), label_B=torch.zeros(B).long(), epoch=0, step=0)


def unpacked(view: ViewBatch) -> np.ndarray:
    return np.unpackbits(view.mask_BHP.numpy(), axis=-1, count=SIZE)[..., None].astype(bool)


def augmented(image_HWC: np.ndarray, record: np.void) -> torch.Tensor:
    image_BCHW = torch.from_numpy(image_HWC).permute(2, 0, 1)[None].float() / 255
    return photometric.augment(image_BCHW, np.array([record], VIEW_DTYPE), View(size_px=SIZE))[0]


def stage(a_plan: ViewPlan) -> DeviceStage:
    return DeviceStage(a_plan, device="cpu", mean=(0, 0, 0), std=(1, 1, 1))


@pytest.mark.parametrize("name", backgrounds.NAMES)
def test_before_the_others_the_composite_goes_through_the_photometrics(name: str) -> None:
    view = View(size_px=SIZE)
    a_plan = plan((view, view), name=name, order="before", num_negatives=2, negative_probability=0.6)
    batch = crops_of(a_plan)
    before = [(each.image_BHWC.clone(), each.mask_BHP.clone()) for each in batch.views]
    made = stage(a_plan)(batch)
    query, composites = batch.views[0], []
    plain_BHWC = query.image_BHWC.numpy()
    for row, record in enumerate(query.record_B):
        grey = np.full_like(plain_BHWC[row], round(float(record["background_grey"]) * 255))
        other = grey if query.donor_BHWC is None else query.donor_BHWC[row].numpy()
        opacity_HW1 = (unpacked(query)[row] | (not record["has_background"])).astype(float)
        if record["edge_sigma_px"] > 0:
            reach = math.ceil(3 * 0.008 * SIZE / math.sqrt(view.scale[0]))
            opacity_HW1 = reference.opacity(unpacked(query)[row][..., 0], record["edge_sigma_px"], reach)[..., None]
        mixed = opacity_HW1 * plain_BHWC[row] + (1 - opacity_HW1) * other
        composites.append(np.floor(mixed + 0.5).astype(np.uint8))
        torch.testing.assert_close(made.images[0][row], augmented(composites[-1], record), atol=1e-5, rtol=0)
    assert [torch.equal(each.image_BHWC, image) for each, (image, _) in zip(batch.views, before, strict=True)] == [1, 1]
    if name != "swaps":
        assert made.negative is None
        return
    assert query.record_B["has_background"].any()
    assert 0 < query.record_B["is_negative_matched"].sum() < B
    for row, record in enumerate(query.record_B):
        for number in range(2):
            step = (int(record["negative_source"] * (B - 1)) + number) % (B - 1)
            source = (row + 1 + step) % B
            if record["is_negative_matched"]:
                pixels = np.where(unpacked(query)[row], plain_BHWC[source], composites[row])
                expected = augmented(pixels, record)
            else:
                expected = augmented(plain_BHWC[source], query.record_B[source])
            torch.testing.assert_close(made.negative[number * B + row], expected, atol=1e-5, rtol=0)


def test_negatives_may_match_the_key() -> None:
    view = View(size_px=SIZE)
    a_plan = plan((view, view), negative_matches="key", negative_probability=0.6)
    batch = crops_of(a_plan)
    made = stage(a_plan)(batch)
    key = batch.views[1]
    plain = torch.stack([augmented(image, record) for image, record in zip(key.image_BHWC.numpy(), key.record_B,
                                                                          strict=True)])  # fmt: skip
    assert made.negative is not None
    assert 0 < key.record_B["is_negative_matched"].sum() < B
    for row, record in enumerate(key.record_B):
        source = (row + 1 + int(record["negative_source"] * (B - 1))) % B
        mask = torch.from_numpy(unpacked(key)[row]).permute(2, 0, 1) | (not record["is_negative_matched"])
        expected = torch.where(mask, plain[source], made.images[1][row])
        torch.testing.assert_close(made.negative[row], expected, atol=1e-5, rtol=0)


def test_perturbed_masks_decide_what_is_replaced_and_what_is_handed_over_stays_good() -> None:
    view = View(size_px=SIZE, jitter_probability=0.0, greyscale_probability=0.0, blur_probability=0.0)
    a_plan = plan((view, view), name="rm", probability=1.0, mask=MaskPerturbation(is_box=True))
    batch = crops_of(a_plan)
    for each in batch.views:
        bits = np.zeros((B, SIZE, SIZE), np.uint8)
        bits[:, 3:9, 2], bits[:, 5, 2:8] = 1, 1
        each.mask_BHP[:] = torch.from_numpy(np.packbits(bits, axis=-1))
    made = stage(a_plan)(batch)
    change = (made.images[0] - batch.views[0].image_BHWC.permute(0, 3, 1, 2) / 255).abs()
    kept = (change < 1e-6).all(dim=1)
    assert kept[:, 3:9, 2:8].all()
    assert kept.float().mean() < 0.3
    assert made.masks[0].sum() == B * 11
