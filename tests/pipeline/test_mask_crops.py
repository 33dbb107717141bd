"""Masks are cut to the pixel under each centre, the same compiled and as plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.pipeline.loader import _mask_kernels as kernels
from backdrop.pipeline.loader.reference_loader import crop_mask
from tests.material.masks import crop

boxes = st.tuples(st.integers(-40, 60), st.integers(-150, 150), st.integers(1, 90), st.integers(1, 200))


@settings(deadline=None, max_examples=80)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 150)), box=boxes, side=st.sampled_from([1, 7, 64, 70, 256, 257]),
    is_flipped=st.booleans(), seed=st.integers(0, 99), density=st.sampled_from([0.02, 0.5, 0.98]),
)  # fmt: skip
def test_crops_take_the_pixel_under_each_centre(
    size: tuple[int, int], box: tuple[int, ...], side: int, is_flipped: bool, seed: int, density: float
) -> None:
    """Boxes within the mask, beyond it and beside it."""
    mask_HW = (np.random.default_rng(seed).random(size) < density).astype(np.uint8)
    out = crop(mask_HW, box, side, is_flipped)
    assert (np.unpackbits(out, axis=1, count=side) == crop_mask(mask_HW, box, side, is_flipped)).all()
    assert not np.unpackbits(out, axis=1)[:, side:].any()


@pytest.mark.parametrize("width", [64, 128, 100])
@pytest.mark.parametrize("value", [0, 1])
def test_runs_may_go_on_from_row_to_row(width: int, value: int) -> None:
    """Where rows have no padding, all of a mask that is full is one run."""
    mask_HW = np.full((9, width), value, np.uint8)
    mask_HW[4, 10:20] ^= 1
    mask_HW[6, width - 5 :] ^= 1
    for box in ((0, 0, 9, width), (3, 5, 4, 40), (-2, -3, 20, 2 * width)):
        out = np.unpackbits(crop(mask_HW, box, 33, False), axis=1, count=33)
        assert (out == crop_mask(mask_HW, box, 33, False)).all()


def test_a_crop_by_hand() -> None:
    """Four pixels of 1 x 8 become eight, the other way round."""
    mask_HW = np.array([[0, 0, 1, 1, 0, 1, 0, 0]], np.uint8)
    assert crop(mask_HW, (0, 2, 1, 4), 8, False).tolist() == [[0b11110011]] * 8
    assert crop(mask_HW, (0, 2, 1, 4), 8, True).tolist() == [[0b11001111]] * 8


def test_compiled_and_plain_crops_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    masks = [
        rng.random((9, 150)) < 0.5,
        np.ones((9, 150)),
        np.zeros((9, 150)),
        np.arange(1350).reshape(9, 150) % 40 < 20,
    ]
    cases = [
        (mask.astype(np.uint8), box, side, is_flipped)
        for mask in masks
        for box in ((0, 0, 9, 150), (2, 60, 5, 70), (8, 63, 1, 2), (-1, -3, 30, 200))
        for side in (1, 13, 32)
        for is_flipped in (False, True)
    ]
    compiled = [crop(*case) for case in cases]
    for name in ("edges_of", "crop_mask", "_fill_tails", "_toggle", "_cut_row", "_column"):
        monkeypatch.setattr(kernels, name, getattr(kernels, name).py_func)
    for case, out in zip(cases, compiled, strict=True):
        assert (out == crop(*case)).all()
