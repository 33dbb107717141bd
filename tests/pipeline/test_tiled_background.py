"""Backgrounds: the tiling of ImageNet-9 against its pixel-by-pixel form, its guards, and OpenCV's fills."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.errors import UserError
from backdrop.pipeline.build.tiled_background import FILLS, encode_background, fill_background, parameters, shrink
from backdrop.stores.drawn_sample.background_variants import NAMES, make_variant, tiled_background
from backdrop.stores.images.image_codec import decode_rgb
from backdrop.stores.images.tiling import bounding_box
from tests.reference.tiling import tile_fill


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box_mask(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    mask_HW = np.zeros((height, width), np.uint8)
    mask_HW[box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = 1
    return mask_HW


@settings(deadline=None, max_examples=60)
@given(st.integers(9, 40), st.integers(9, 40), st.data())
def test_tile_is_the_pixel_by_pixel_form(height: int, width: int, data: st.DataObject) -> None:
    box_height, box_width = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    box = (data.draw(st.integers(0, height - box_height)), data.draw(st.integers(0, width - box_width)))
    box = (*box, box_height, box_width)
    image_HWC, mask_HW = noise(height, width), box_mask(height, width, box)
    filled_HWC = fill_background(image_HWC, mask_HW)
    expected_HWC = tile_fill(image_HWC, box, 8)
    if expected_HWC is None or box_height * box_width >= 0.9 * height * width:
        assert filled_HWC is None
    else:
        np.testing.assert_array_equal(filled_HWC, expected_HWC)
    thin_HWC = tile_fill(image_HWC, box, 1)
    if thin_HWC is not None:
        np.testing.assert_array_equal(tiled_background(image_HWC, mask_HW), thin_HWC)


def test_tile_by_hand() -> None:
    """Columns 0..19 hold their number; the box is columns 10..17, the strip columns 0..9, so 10..17 repeat 0..7."""
    image_HWC = np.broadcast_to(np.arange(20, dtype=np.uint8)[None, :, None], (12, 20, 3)).copy()
    mask_HW = np.zeros((12, 20), np.uint8)
    mask_HW[3, 10] = mask_HW[8, 17] = 1
    filled_HWC = fill_background(image_HWC, mask_HW)
    assert filled_HWC[3, :, 0].tolist() == [*range(10), *range(8), 18, 19]
    assert filled_HWC[2, :, 0].tolist() == list(range(20))
    assert filled_HWC[9, :, 0].tolist() == list(range(20))


def test_ties_go_top_bottom_left_right() -> None:
    image_HWC = noise(30, 30)
    mask_HW = box_mask(30, 30, (10, 10, 10, 10))
    rows = np.arange(10, 20) % 10
    expected_HWC = image_HWC.copy()
    expected_HWC[10:20, 10:20] = image_HWC[rows][:, 10:20]
    np.testing.assert_array_equal(fill_background(image_HWC, mask_HW), expected_HWC)


@pytest.mark.parametrize("fill", FILLS)
def test_rows_that_cannot_lend_a_background(fill: str) -> None:
    image_HWC = noise(40, 50)
    assert fill_background(image_HWC, np.ones((40, 50), np.uint8), fill) is None
    assert fill_background(image_HWC, box_mask(40, 50, (1, 1, 38, 48)), fill) is None
    assert fill_background(image_HWC[:7], box_mask(7, 50, (2, 2, 2, 2)), fill) is None
    assert encode_background(image_HWC, np.ones((40, 50), np.uint8), fill, 256, 90) == b""


@pytest.mark.parametrize("fill", FILLS)
def test_without_foreground_the_image_is_its_background(fill: str) -> None:
    image_HWC = noise(40, 50)
    background_HWC = fill_background(image_HWC, np.zeros((40, 50), np.uint8), fill)
    np.testing.assert_array_equal(background_HWC, image_HWC)
    assert background_HWC is not image_HWC


@pytest.mark.parametrize("fill", FILLS)
def test_the_foreground_is_gone_and_the_far_background_kept(fill: str) -> None:
    image_HWC = np.full((60, 80, 3), 100, np.uint8)
    mask_HW = box_mask(60, 80, (20, 30, 20, 20))
    image_HWC[mask_HW > 0] = (255, 0, 0)
    before = image_HWC.copy()
    background_HWC = fill_background(image_HWC, mask_HW, fill)
    assert np.abs(background_HWC.astype(int) - 100).max() <= (0 if fill == "tile" else 5)
    np.testing.assert_array_equal(image_HWC, before)


def test_a_far_speck_does_not_cost_the_background() -> None:
    image_HWC = np.full((100, 100, 3), 100, np.uint8)
    mask_HW = box_mask(100, 100, (2, 2, 40, 40))
    mask_HW[98, 98] = 1
    image_HWC[mask_HW > 0] = (255, 0, 0)
    assert (fill_background(image_HWC, mask_HW) == 100).all()


def test_a_second_object_is_never_tiled() -> None:
    """Two large objects in opposite corners: every strip beside one of them shows the other."""
    mask_HW = box_mask(100, 100, (1, 1, 48, 48)) | box_mask(100, 100, (51, 51, 47, 47))
    assert fill_background(noise(100, 100), mask_HW) is None


def test_shrinking_never_loses_foreground() -> None:
    mask_HW = np.zeros((1000, 700), np.uint8)
    mask_HW[501, 333] = 1
    small_HWC, small_HW = shrink(noise(1000, 700), mask_HW, 100)
    assert small_HWC.shape == (100, 70, 3)
    assert 1 <= small_HW.sum() <= 4
    assert small_HW[50, 33] == 1
    same_HWC, same_HW = shrink(small_HWC, small_HW, 100)
    assert same_HWC is small_HWC
    assert same_HW is small_HW


def test_encoded_backgrounds_are_small_jpegs() -> None:
    image_HWC = np.full((300, 512, 3), 90, np.uint8)
    data = encode_background(image_HWC, box_mask(300, 512, (100, 100, 50, 50)), "tile", 256, 90)
    decoded_HWC = decode_rgb(data)
    assert decoded_HWC.shape == (150, 256, 3)
    assert np.abs(decoded_HWC.astype(int) - 90).max() <= 1


def test_unknown_fill_and_identity_of_fills() -> None:
    with pytest.raises(UserError, match="no background fill 'magic'; there are tile, telea, ns"):
        fill_background(noise(20, 20), np.zeros((20, 20), np.uint8), "magic")
    assert len({str(parameters(fill)) for fill in FILLS}) == len(FILLS)


@pytest.mark.parametrize("name", NAMES)
def test_imagenet9_variants(name: str) -> None:
    image_HWC, donor_HWC = noise(30, 40, 1), noise(30, 40, 2)
    mask_HW = box_mask(30, 40, (10, 10, 8, 9))
    mask_HW[10, 10] = 0
    inside_HW = box_mask(30, 40, bounding_box(mask_HW)).astype(bool)
    foreground_HW = mask_HW.astype(bool)
    made_HWC = make_variant(name, image_HWC, mask_HW, lambda: donor_HWC)
    assert made_HWC.dtype == np.uint8
    keeps_foreground = name in ("original", "only_fg", "mixed_same", "mixed_rand", "mixed_next")
    assert (made_HWC[foreground_HW] == image_HWC[foreground_HW]).all() == keeps_foreground
    outside = {"only_fg": np.zeros_like(image_HWC)}.get(name, donor_HWC if name.startswith("mixed") else image_HWC)
    np.testing.assert_array_equal(made_HWC[~inside_HW], outside[~inside_HW])
    corner = {"only_bg_b": 0, "only_fg": 0}.get(name)
    if corner is not None:
        assert (made_HWC[10, 10] == corner).all()
    if name == "no_fg":
        assert (made_HWC[foreground_HW] == 0).all()
        assert (made_HWC[10, 10] == image_HWC[10, 10]).all()
