"""A few tiny images in two classes with soft maps made by a formula: real builds in a tenth of a second."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

import backdrop.stores.format.writer
from backdrop.pipeline.build.masks_and_backgrounds import BuildSettings, build_store
from backdrop.saliency.detector import Detector, MaskError, Threshold
from backdrop.stores.datasets import open_index
from backdrop.stores.indexes.dataset_index import DatasetIndex

NUM_IMAGES = 11
PART_ROWS = 4
UNREADABLE = 3  # this image is damaged until `repair`


@dataclass(frozen=True)
class FormulaDetector(Detector):
    """Picklable; a float map of the image alone, with values everywhere between 0 and 1."""

    version: int = 1
    threshold: ClassVar[Threshold] = Threshold(value=0.9, source="by hand")

    @property
    def identity(self) -> dict:
        """What decides its maps."""
        return {"name": "formula", "algorithm_version": self.version}

    def __call__(self, image_HWC: np.ndarray, key: str = "") -> np.ndarray:
        """Brighter towards a point that depends on the image."""
        height, width = image_HWC.shape[:2]
        y, x = np.mgrid[:height, :width]
        centre_y, centre_x = image_HWC[0, 0, :2] / 255 * (height, width)
        distance = np.hypot((y - centre_y) / height, (x - centre_x) / width)
        return np.clip(1.05 - distance * 0.9, 0, 1).astype(np.float32)


@dataclass(frozen=True)
class BatchFormulaDetector(FormulaDetector):
    """The same in batches, and, as on a GPU, the batch moves its values a little."""

    batch_size: ClassVar[int] = 16

    def maps(self, images_HWC: Sequence[np.ndarray], keys: Sequence[str]) -> list[np.ndarray | MaskError]:
        """Maps of a batch."""
        shift = np.float32(len(images_HWC) / 100)
        return [np.clip(self(image_HWC, "") - shift, 0, 1) for image_HWC in images_HWC]


@dataclass(frozen=True)
class DeadlyDetector(FormulaDetector):
    """The same, but the first to use it dies in the middle of a part, as if out of memory."""

    died: Path = Path()

    def __call__(self, image_HWC: np.ndarray, key: str = "") -> np.ndarray:
        """Die at row 5 unless somebody has: at its second image, in the second of the parts."""
        if key == key_of(5) and not self.died.exists():
            self.died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(image_HWC, key)


def key_of(row: int) -> str:
    """Key of an image; sorted as its row."""
    return f"{'ab'[row >= NUM_IMAGES // 2]}/{row:03d}.jpg"


def make_images(root: Path) -> Path:
    """Write the images; the one of row `UNREADABLE` is no image."""
    for row in range(NUM_IMAGES):
        (root / key_of(row)).parent.mkdir(parents=True, exist_ok=True)
        repair(root, row)
    (root / key_of(UNREADABLE)).write_bytes(b"no image")
    return root


def repair(root: Path, row: int = UNREADABLE) -> None:
    """Write the image of a row as it should be."""
    rng = np.random.default_rng(row)
    image_HWC = rng.integers(0, 256, (24 + row, 33 - row, 3), dtype=np.uint8)
    Image.fromarray(image_HWC).save(root / key_of(row), quality=90)


def index_of(root: Path) -> DatasetIndex:
    """List them."""
    return open_index("folder", root=root)


def build(
    root: Path,
    out: Path,
    *,
    detector: FormulaDetector | None = None,
    engine: str = "local",
    num_workers: int = 0,
    **settings: object,
) -> dict:
    """Build a store of them, in this process unless there are workers, with soft maps."""
    chosen = BuildSettings(**{"keeps_soft_maps": True, **settings})
    finder = detector or FormulaDetector()
    return build_store(index_of(root), finder, out, chosen, num_workers=num_workers, engine=engine)


@contextmanager
def parts_of_few_rows() -> Iterator[None]:
    """Several parts of a few rows; a power cut is not what these tests are about."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        patched.setattr(backdrop.stores.format.writer, "MIN_PART_ROWS", PART_ROWS)
        yield
