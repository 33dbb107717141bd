"""Maps whose files are named after their images in another way than `x.png`."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backdrop.errors import UserError
from backdrop.saliency.detector import MaskError
from backdrop.saliency.detectors import open_detector

IMAGE_HWC = np.zeros((24, 32, 3), np.uint8)
KEYS = ("a/x.jpg", "a/y.JPEG", "b/z.jpg")


def write(folder: Path, *names: str, value: int = 255) -> str:
    """Maps whose left half is `value`; returns the detector's name."""
    map_HW = np.zeros((24, 32), np.uint8)
    map_HW[:, :16] = value
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(map_HW).save(folder / name)
    return f"masks:{folder}"


NAMINGS = {
    "whole": ("a/x.jpg.png", "a/y.JPEG.png", "b/z.jpg.png"),
    "whole, flat": ("x.jpg.png", "y.JPEG.png", "z.jpg.png"),
    "mask": ("a/x_mask.png", "a/y_mask.png", "b/z_mask.png"),
    "gt, flat": ("x_gt.png", "y_gt.png", "z_gt.png"),
    "PNG": ("a/x.PNG", "a/y.PNG", "b/z.PNG"),
    "jpg": ("a/x.jpg", "a/y.jpg", "b/z.jpg"),
    "mask, jpg": ("a/x_mask.jpg", "a/y_mask.jpg", "b/z_mask.jpg"),
    "bmp": ("x.bmp", "y.bmp", "z.bmp"),
    "whole, PNG": ("a/x.jpg.PNG", "a/y.JPEG.PNG", "b/z.jpg.PNG"),
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_maps_that_are_all_named_in_one_way_are_found(naming: str, tmp_path: Path) -> None:
    detector = open_detector(write(tmp_path / "m", *NAMINGS[naming]))
    for key in KEYS:
        assert not detector.why_no_map(key)
        np.testing.assert_array_equal((detector(IMAGE_HWC, key) > 0.5).any(axis=0), np.arange(32) < 16)


def test_images_beside_their_masks_are_not_taken_for_them(tmp_path: Path) -> None:
    name = write(tmp_path / "m", "x_mask.png", "y_mask.png")
    write(tmp_path / "m", "x.jpg", "y.jpg", value=0)
    assert open_detector(name)(IMAGE_HWC, "x.jpg").max() == 1
    name = write(tmp_path / "n", "x.PNG")
    write(tmp_path / "n", "x.jpg", value=0)
    assert open_detector(name)(IMAGE_HWC, "x.jpg").max() == 1


@pytest.mark.parametrize(
    "names",
    [("x_mask.png", "y.png"), ("x_mask.png", "y_gt.png"), ("x.jpg.png", "y_mask.png"), ("x.jpg", "y.bmp"), ()],
)
def test_where_it_is_not_one_way_no_other_name_is_guessed(names: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    detector = open_detector(write(tmp_path / "m", *names))
    with pytest.raises(MaskError, match=r"x\.jpg: no x\.png or x\.png in the folder"):
        detector(IMAGE_HWC, "x.jpg")
    there = r"x|y" if names else "no file"
    assert re.search(rf"no x\.png .* which holds ({there})", detector.why_no_map("x.jpg"))


def test_the_usual_name_comes_first_and_the_identity_is_of_the_files_that_count(tmp_path: Path) -> None:
    detector = open_detector(write(tmp_path / "m", "a/x.png", "x.jpg"))
    before = detector.identity
    write(tmp_path / "m", "x.jpg", value=9)
    assert open_detector(f"masks:{tmp_path / 'm'}").identity == before
    others = [open_detector(write(tmp_path / str(value), "x.jpg", value=value)).identity for value in (200, 255)]
    assert others[0] != others[1]


def test_a_folder_of_masks_that_is_gone_is_no_missing_mask(tmp_path: Path) -> None:
    detector = open_detector(write(tmp_path / "m", "x.png"))
    (tmp_path / "m").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is gone") as caught:
        detector(IMAGE_HWC, "x.jpg")
    assert not isinstance(caught.value, MaskError)
