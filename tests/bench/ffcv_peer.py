"""What FFCV's own users run: one `RandomResizedCrop` pipeline per view of one image field, no masks."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline import PipelineSpec
from ffcv.transforms import RandomHorizontalFlip, ToTensor
from ffcv.writer import DatasetWriter

from tests.bench.photographs import JPEG_QUALITY


class Photographs:
    """The benchmark's image files as FFCV's writer wants them: (image, label)."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
        return cv2.cvtColor(cv2.imread(str(self.paths[number])), cv2.COLOR_BGR2RGB), number


def ffcv_epoch(
    paths: list[Path], folder: Path, sizes_px: tuple[int, ...], batch_size: int, num_threads: int
) -> Callable[[], int]:
    """Return a function that loads one epoch of random resized crops with FFCV and counts the images."""
    beton = folder / f"peer-{len(sizes_px)}-{num_threads}.beton"
    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=JPEG_QUALITY), "label": IntField()}
    DatasetWriter(str(beton), fields, num_workers=1).from_indexed_dataset(Photographs(paths))
    scales = {224: (0.2, 1.0), 96: (0.05, 0.14)}
    pipelines = {
        f"view_{number}": PipelineSpec(
            "image",
            decoder=RandomResizedCropRGBImageDecoder((size_px, size_px), scale=scales[size_px]),
            transforms=[RandomHorizontalFlip(), ToTensor()],
        )
        for number, size_px in enumerate(sizes_px)
    }
    loader = Loader(
        str(beton), batch_size, num_workers=num_threads, order=OrderOption.RANDOM, seed=0, drop_last=True,
        pipelines={**pipelines, "image": None, "label": None},
    )  # fmt: skip

    def epoch() -> int:
        return sum(len(batch[0]) for batch in loader)

    return epoch
