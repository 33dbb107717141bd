"""Builds in which nearly all rows would have no mask, and data sets that go away under a build."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from backdrop import cli
from backdrop.errors import UserError
from backdrop.pipeline.build.masks_and_backgrounds import BuildSettings, build_store
from backdrop.pipeline.build.plan import plan_store
from backdrop.saliency.detectors import open_detector
from backdrop.stores.datasets import open_index
from backdrop.stores.format.reader import open_store

NUM_IMAGES = 24


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images and masks that belong together."""
    mask_HW = np.zeros((20, 30), np.uint8)
    mask_HW[5:15, 10:20] = 255
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(NUM_IMAGES):
        Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / "images" / f"{number:02}.jpg")
        Image.fromarray(mask_HW).save(tmp_path / "masks" / f"{number:02}.png")
    return tmp_path


def build(folder: Path, out: str = "s.zarr") -> None:
    index = open_index("folder", root=folder / "images")
    build_store(index, f"masks:{folder / 'masks'}", folder / out, BuildSettings(), num_workers=0)


def foreign_names(folder: Path) -> None:
    """Half of the maps end in _a, half in _b."""
    for number, mask in enumerate(sorted((folder / "masks").iterdir())):
        mask.rename(mask.with_name(f"{mask.stem}_{'ab'[number % 2]}.png"))


def broken_images(folder: Path) -> None:
    """All images but the first are cut off."""
    for image in sorted((folder / "images").iterdir())[1:]:
        image.write_bytes(image.read_bytes()[:200])


def no_masks(folder: Path) -> None:
    """The folder is empty."""
    shutil.rmtree(folder / "masks")
    (folder / "masks").mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (foreign_names, r"16 of 16 images .* 00\.jpg: no 00\.png or 00\.png in the folder of masks, which holds \d\d_"),
        (broken_images, r"15 of 16 images .* 0\d\.jpg: cannot be decoded"),
        (no_masks, r"16 of 16 images .* which holds no file"),
    ],
)
def test_a_build_in_which_nearly_all_rows_would_fail_is_not_begun(
    spoil: Callable[[Path], None], words: str, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(UserError, match=words):
        build(folder)
    with pytest.raises(UserError, match=words):
        plan_store(
            open_index("folder", root=folder / "images"),
            f"masks:{folder / 'masks'}", folder / "s.zarr", BuildSettings(), num_workers=0,
        )  # fmt: skip
    assert not (folder / "s.zarr").exists()


def test_some_rows_that_fail_are_built_and_said(folder: Path) -> None:
    for number in range(0, NUM_IMAGES, 3):
        (folder / "masks" / f"{number:02}.png").unlink()
    words = ["build-store", "--dataset", "folder", "--root", str(folder / "images"), "--no-beton", "--workers", "1",
             "--detector", f"masks:{folder / 'masks'}", "--out", str(folder / "s.zarr")]  # fmt: skip
    built = CliRunner().invoke(cli.main, words)
    assert built.exit_code == 0, built.output
    assert built.stdout.splitlines() == [
        f"store: 16 of 24 images have a foreground and a background; in {folder / 's.zarr'}",
        f"its page: python cli.py store view {folder / 's.zarr'} --root {folder / 'images'}",
    ]
    assert f"warning: 8 of 24 rows have no mask. The reason of each: python cli.py store view {folder}" in built.stderr


@pytest.mark.parametrize("is_all", [True, False])
def test_an_image_that_was_listed_and_is_gone_stops_the_build_which_then_resumes(is_all: bool, folder: Path) -> None:
    build(folder, "whole.zarr")
    gone = folder / "images" if is_all else folder / "images" / "07.jpg"
    index = open_index("folder", root=folder / "images")

    class Vanishing(type(open_detector(f"masks:{folder / 'masks'}"))):
        """Its data set is taken away at its first map."""

        def __call__(self, image_HWC: np.ndarray, key: str = "") -> np.ndarray:
            if gone.exists():
                gone.rename(folder / "away")
            return super().__call__(image_HWC, key)

    with pytest.raises(UserError, match=r"\d\d\.jpg was there when .* listed and is gone .*goes on where"):
        build_store(index, Vanishing(folder / "masks"), folder / "s.zarr", BuildSettings(), num_workers=0)
    assert not (folder / "s.zarr" / "MANIFEST.json").exists()
    (folder / "away").rename(gone)
    build(folder)
    assert open_store(folder / "s.zarr").store_id == open_store(folder / "whole.zarr").store_id
