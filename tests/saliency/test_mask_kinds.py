"""Masks made elsewhere that are not grey with 255 = foreground: recognised, and read as the detector's name says."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backdrop.errors import UserError
from backdrop.saliency.detectors import open_detector
from backdrop.saliency.scoring.metrics import evaluate_folder

IMAGE_HWC = np.zeros((24, 32, 3), np.uint8)
FOREGROUND_HW = np.zeros((24, 32), bool)
FOREGROUND_HW[8:16, 10:20] = True
INSTANCES_HW = FOREGROUND_HW.astype(np.uint8)
INSTANCES_HW[8:16, 15:20] = 2


def _palette(colours: list[int]) -> Image.Image:
    image = Image.fromarray(INSTANCES_HW, "P")
    image.putpalette(colours)
    return image


def _coloured(*colour: int) -> Image.Image:
    return Image.fromarray((FOREGROUND_HW[..., None] * np.array(colour)).astype(np.uint8))


def _with_alpha(grey: int) -> Image.Image:
    alpha_HW = 255 * FOREGROUND_HW.astype(np.uint8)
    return Image.fromarray(np.dstack([np.full((24, 32, 3), grey, np.uint8), alpha_HW]))


# What a mask of FOREGROUND_HW looks like, with the words that read it.
KINDS: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "zero and one": (lambda: Image.fromarray(FOREGROUND_HW.astype(np.uint8)), "instances"),
    "instances": (lambda: Image.fromarray(INSTANCES_HW), "instances"),
    "16-bit instances": (lambda: Image.fromarray(INSTANCES_HW.astype(np.uint16) * 300), "instances"),
    "dark palette": (lambda: _palette([0, 0, 0, 128, 0, 0, 0, 128, 0]), "instances"),
    "grey palette": (lambda: _palette([0, 0, 0, 1, 1, 1, 2, 2, 2]), "instances"),
    "palette, one entry bright": (lambda: _palette([0, 0, 0, 192, 128, 128, 0, 0, 128]), "instances"),
    "red": (lambda: _coloured(255, 0, 0), "red"),
    "blue": (lambda: _coloured(0, 0, 255), "blue"),
    "dark red": (lambda: _coloured(128, 0, 0), "instances"),
    "alpha over black": (lambda: _with_alpha(0), "alpha"),
    "alpha over white": (lambda: _with_alpha(255), "alpha"),
    "inverted": (lambda: Image.fromarray(255 * (~FOREGROUND_HW).astype(np.uint8)), "inverted"),
}


def folder_of(image: Image.Image, folder: Path, num_files: int = 4) -> Path:
    folder.mkdir()
    for number in range(num_files):
        image.save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_recognised_and_read_as_the_name_says(kind: str, tmp_path: Path) -> None:
    make, word = KINDS[kind]
    name = f"masks:{folder_of(make(), tmp_path / 'masks')}"
    with pytest.raises(UserError, match=f"the maps of .* Write .*:{word}"):
        open_detector(name)
    detector = open_detector(f"{name}:{word}")
    np.testing.assert_array_equal(detector(IMAGE_HWC, "1.jpg") > 0.5, FOREGROUND_HW)
    assert detector.identity["reading"] == word


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(255 * FOREGROUND_HW.astype(np.uint8)),
        Image.fromarray(FOREGROUND_HW),
        Image.fromarray(np.zeros((24, 32), np.uint8)),
        Image.fromarray(np.full((24, 32), 255, np.uint8)),
        Image.fromarray(np.tile(np.arange(0, 96, 3, dtype=np.uint8), (24, 1)) + np.arange(24, dtype=np.uint8)[:, None]),
        _coloured(255, 255, 255),
        _coloured(0, 255, 0),
        _palette([0, 0, 0, 255, 255, 255, 255, 255, 0]),
        Image.fromarray(np.dstack([255 * FOREGROUND_HW.astype(np.uint8)] * 4)),
    ],
    ids=["0-255", "1 bit", "black", "white", "dim soft", "RGB", "green", "bright palette", "alpha alike"],
)
def test_what_reads_rightly_as_grey_is_taken_as_it_always_was(image: Image.Image, tmp_path: Path) -> None:
    assert "reading" not in open_detector(f"masks:{folder_of(image, tmp_path / 'masks')}").identity


def test_two_maps_along_their_borders_may_be_what_they_are(tmp_path: Path) -> None:
    open_detector(f"masks:{folder_of(KINDS['inverted'][0](), tmp_path / 'masks', num_files=2)}")


def test_grey_says_that_they_are_maps_all_the_same_and_is_the_same_detector(tmp_path: Path) -> None:
    folder = folder_of(KINDS["inverted"][0](), tmp_path / "masks", num_files=2)
    plain, said = open_detector(f"masks:{folder}"), open_detector(f"masks:{folder}:grey")
    assert said.identity == plain.identity
    folder_of(KINDS["instances"][0](), tmp_path / "numbers")
    assert open_detector(f"masks:{tmp_path / 'numbers'}:grey")(IMAGE_HWC, "0.jpg").max() < 0.01


def test_words_go_together_in_any_order_and_a_folder_of_that_name_comes_first(tmp_path: Path) -> None:
    folder = folder_of(KINDS["alpha over white"][0](), tmp_path / "masks")
    for words in ("alpha:inverted", "inverted:alpha"):
        detector = open_detector(f"masks:{folder}:{words}")
        np.testing.assert_array_equal(detector(IMAGE_HWC, "1.jpg") > 0.5, ~FOREGROUND_HW)
        assert detector.identity["reading"] == "alpha, inverted"
    with pytest.raises(UserError, match="cannot be both"):
        open_detector(f"masks:{folder}:alpha:red")
    named = folder_of(Image.fromarray(255 * FOREGROUND_HW.astype(np.uint8)), tmp_path / "masks:alpha")
    np.testing.assert_array_equal(open_detector(f"masks:{named}")(IMAGE_HWC, "1.jpg") > 0.5, FOREGROUND_HW)


def test_true_masks_are_asked_and_read_alike(tmp_path: Path) -> None:
    truths = folder_of(KINDS["alpha over black"][0](), tmp_path / "truths")
    maps = folder_of(Image.fromarray(255 * FOREGROUND_HW.astype(np.uint8)), tmp_path / "maps")
    images = folder_of(Image.fromarray(IMAGE_HWC), tmp_path / "images")
    with pytest.raises(UserError, match="Write :alpha"):
        evaluate_folder(images, truths, f"masks:{maps}")
    assert evaluate_folder(images, f"{truths}:alpha", f"masks:{maps}")["iou"] == 1
