"""Data sets of one image, of one class, of fewer than a batch or the workers: done, or a sentence that says why."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.material.hostile_cells import Allowed, cells, done, refused, run_cell

# name -> images of each class
SETS = {"no image": {}, "one image": {"a": 1}, "one of each class": {"a": 1, "b": 1}, "one class": {"a": 5}}
# command -> words; what may come of it with no image, with some
COMMANDS: dict[str, tuple[Callable[[Path], list[object]], Allowed, Allowed]] = {
    "build": (lambda at: build(at, 1), refused("no image found"), done('"num_rows"')),
    "build by many": (lambda at: build(at, 16), refused("no image found"), done('"num_rows"')),
    "plan": (lambda at: [*build(at, 1), "--plan"], refused("no image found"), done()),
    "predict": (
        lambda at: ["saliency", "predict", "--images", at / "images", "--detector", f"masks:{at / 'masks'}",
                    "--out", at / "out"],
        refused("no image found"), done(),
    ),
    "score": (
        lambda at: ["saliency", "evaluate", "--images", at / "images", "--masks", at / "masks",
                    "--detector", f"masks:{at / 'masks'}"],
        refused("no image"), done(),
    ),
    "calibrate": (
        lambda at: ["saliency", "calibrate", "--images", at / "images", "--masks", at / "masks",
                    "--detector", f"masks:{at / 'masks'}"],
        refused("no image"), done(),
    ),
    "train a detector": (
        lambda at: ["saliency", "train", "--images", at / "images", "--preset", "tiny", "--out", at / "run"],
        refused("no image found"), done("sanity: "),
    ),
    "status": (lambda at: ["store", "status", at / "none.zarr"], refused("none.zarr"), refused("none.zarr")),
}  # fmt: skip


def build(at: Path, num_workers: int) -> list[object]:
    words = ["build-store", "--dataset", "folder", "--root", at / "images", "--detector", f"masks:{at / 'masks'}"]
    return [*words, "--json", "--no-beton", "--workers", num_workers, "--out", at / "s.zarr"]


@cells(SETS, COMMANDS, {("one image", "score"), ("no image", "build"), ("one image", "calibrate")})
def test_a_small_data_set_is_done_or_refused(given: str, command: str, tmp_path: Path) -> None:
    mask_HW = np.zeros((24, 32), np.uint8)
    mask_HW[5:15, 10:20] = 255
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for class_name, num_images in SETS[given].items():
        for number in range(num_images):
            for name, pixels, suffix in (
                ("images", np.full((24, 32, 3), 90, np.uint8), "jpg"),
                ("masks", mask_HW, "png"),
            ):
                place = tmp_path / name / class_name / f"{number}.{suffix}"
                place.parent.mkdir(exist_ok=True)
                Image.fromarray(pixels).save(place)
    words, without, allowed = COMMANDS[command]
    run_cell(words(tmp_path), allowed if SETS[given] else without, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("changes", ["batch_size=1", "batch_size=1000", "batch_size=21"])
@pytest.mark.parametrize("method", ["moco", "byol", "swav", "supervised"])
def test_a_batch_that_the_images_do_not_fill_is_said(method: str, changes: str, scenes: Path, tmp_path: Path) -> None:
    words = ["pretrain", "--method", method, "--recipe", "smoke", "--store", scenes, "--out", tmp_path / "run"]
    words += ["--set", changes, "--set", "epochs=1"]
    run_cell(words, refused("batch"), tmp_path)
    assert not (tmp_path / "run" / "settings.json").exists()
