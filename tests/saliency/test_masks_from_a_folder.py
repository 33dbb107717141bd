"""Masks made by somebody else, PNGs in a folder, train like those of a detector, with every option of backgrounds."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backdrop import cli
from backdrop.stores.format.reader import open_store

NUM_IMAGES = 8
SMALL = (
    "epochs=1", "batch_size=4", "views.size_px=32", "algorithm.queue_size=8", "algorithm.shuffle_bn_group=0",
    "background.probability=1.0", "background.negative_probability=0.5", "background.num_negatives=2",
    "background.negative_matches=key", "background.order=before", "background.pair_draw=coupled",
    "background.mask.max_rotation_degrees=10", "background.mask.flip_probability=0.5",
)  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:tensorboard")


def run(*words: str | Path) -> None:
    cli.main([str(word) for word in words], standalone_mode=False)


def make_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for number in range(NUM_IMAGES):
        mask_HW = np.zeros((60, 80), np.uint8)
        mask_HW[10 + number : 40, 20:60] = 255
        pixels = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.jpg")
        Image.fromarray(mask_HW).save(folder / "masks" / f"{number}.png")


@pytest.mark.slow
def test_a_store_of_foreign_masks_trains(tmp_path: Path) -> None:
    make_images(tmp_path)
    store, out = tmp_path / "store.zarr", tmp_path / "run"
    run("build-store", "--dataset", "folder", "--root", tmp_path / "images", "--threshold", "0.5",
        "--detector", f"masks:{tmp_path / 'masks'}", "--out", store)  # fmt: skip
    opened = open_store(store)
    assert list(opened.status) == [0] * NUM_IMAGES
    assert opened.mask(3)[13:40, 20:60].all()
    assert opened.mask(3).sum() == 27 * 40
    run("pretrain", "--method", "moco", "--bg", "swaps", "--store", store, "--recipe", "smoke", "--out", out,
        *(word for setting in SMALL for word in ("--set", setting)))  # fmt: skip
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) == NUM_IMAGES // 4
    assert all(np.isfinite(step["loss"]) for step in steps)
    saved = json.loads(next(out.glob("settings*.json")).read_text())
    assert "num_negatives" in json.dumps(saved)
