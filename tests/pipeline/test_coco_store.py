"""A store of COCO fits `cast_coco` by itself: DeepUSPS's masks cut at 0.5, images as they are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backdrop.pipeline.beton.reader import read_sidecar
from backdrop.pipeline.build.masks_and_backgrounds import default_threshold
from backdrop.saliency.detector import Detector, Threshold
from backdrop.saliency.detectors import open_detector
from backdrop.stores.datasets import open_index
from backdrop.stores.format.reader import open_store
from backdrop.stores.images.image_codec import encode_jpeg
from tests.material.command_line import run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images as wide as COCO's widest: a disc before noise."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "train2017").mkdir()
    y, x = np.mgrid[:480, :640]
    for number in range(2):
        image_HWC = np.random.default_rng(number).integers(90, 110, (480, 640, 3), dtype=np.uint8)
        image_HWC[(y - 240) ** 2 + (x - 300) ** 2 < 80**2] = (220, 40, 30)
        (folder / "train2017" / f"{number:012d}.jpg").write_bytes(encode_jpeg(image_HWC))
    return folder


def built(root: Path, out: Path, *words: str) -> Path:
    command = ["build-store", "--dataset", "coco", "--root", str(root), "--detector", "rbd", "--out", str(out)]
    run(*command, "--workers", "1", *words)
    return out


class Named(Detector):
    """One of a name, with the papers' threshold."""

    threshold = Threshold(value=0.9, source="a paper")

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": self.name}

    def __call__(self, image_HWC: np.ndarray, key: str = "") -> np.ndarray:
        return np.zeros(image_HWC.shape[:2], np.float32)


def test_the_release_says_where_deepusps_is_cut_and_every_other_detector_itself(root: Path, tmp_path: Path) -> None:
    coco = open_index("coco", root=root)
    assert default_threshold(coco, Named("deepusps")).value == 0.5
    assert "CAST" in default_threshold(coco, Named("deepusps")).source
    assert default_threshold(coco, Named("mine")).value == 0.9
    assert default_threshold(coco, "rbd") == open_detector("rbd").threshold
    folder = open_index("folder", root=root)
    assert default_threshold(folder, Named("deepusps")).value == 0.9


def test_its_images_are_kept_as_they_are(root: Path, tmp_path: Path) -> None:
    out = built(root, tmp_path / "coco.zarr")
    assert open_store(out).identity["mask"]["threshold"] == str(open_detector("rbd").threshold.value)
    beton = out.with_suffix(".beton")
    assert read_sidecar(beton)["settings"]["max_side_px"] == 640
    content = beton.read_bytes()
    assert all(path.read_bytes() in content for path in sorted((root / "train2017").iterdir()))


def test_another_threshold_and_size_of_backgrounds_are_taken(root: Path, tmp_path: Path) -> None:
    out = built(root, tmp_path / "other.zarr", "--threshold", "0.3", "--background-px", "128", "--no-beton")
    identity = open_store(out).identity
    assert identity["mask"]["threshold"] == "0.3"
    assert identity["background"]["max_side_px"] == 128
