"""Settings and images with which a detector is trained in seconds."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from backdrop.saliency.deepusps2.settings import PRESETS
from backdrop.stores.datasets import open_index
from backdrop.stores.images.image_codec import encode_jpeg
from backdrop.stores.indexes.dataset_index import DatasetIndex

SETTINGS = replace(
    PRESETS["tiny"],
    working_size_px=32,
    methods=("rbd", "mc"),
    first_thresholds=(0.25, None),
    max_images=None,
    flip=True,
    scales=(0.75, 1.0),
    crf_in_training=True,
    crf_at_test=True,
    crf_test_size_px=48,
    stage1_epochs=2,
    averaged_epochs=1,
    stage1_learning_rates=(2e-3, 1e-3),
    stage1_batch_size=4,
    stage2_epochs=3,
    stage2_batch_size=4,
)


def draw_images(folder: Path, num_images: int = 10) -> DatasetIndex:
    """Write images of a bright box on noise, and open them."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(num_images):
        image_HWC = rng.integers(60, 100, (80, 96, 3)).astype(np.uint8)
        top, left = rng.integers(15, 30, 2)
        image_HWC[top : top + 30, left : left + 36] = (230, 60, 10 * number)
        (folder / f"{number}.jpg").write_bytes(encode_jpeg(image_HWC))
    return open_index("folder", root=folder)
