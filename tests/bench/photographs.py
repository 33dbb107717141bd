"""500 x 375 photographs at JPEG quality 90 with blob masks: what every measurement works on."""

from pathlib import Path

import cv2
import numpy as np
import skimage.data

from backdrop.pipeline.beton.writer import export_beton
from backdrop.pipeline.build.masks_and_backgrounds import BuildSettings, build_store
from backdrop.stores.datasets import open_index
from backdrop.stores.format.reader import open_store
from backdrop.stores.images.image_codec import encode_jpeg
from backdrop.stores.indexes.dataset_index import DatasetIndex

HEIGHT, WIDTH = 375, 500
JPEG_QUALITY = 90


def photograph(number: int) -> np.ndarray:
    """Return a 375 x 500 crop of one of scikit-image's bundled photographs, uint8 RGB, decided by `number`."""
    sources = (skimage.data.astronaut, skimage.data.coffee, skimage.data.chelsea, skimage.data.rocket)
    source_HWC = sources[number % len(sources)]()
    rng = np.random.default_rng(number)
    scale = max(HEIGHT / source_HWC.shape[0], WIDTH / source_HWC.shape[1]) * rng.uniform(1.0, 1.3)
    resized_HWC = cv2.resize(source_HWC, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    top = rng.integers(resized_HWC.shape[0] - HEIGHT + 1)
    left = rng.integers(resized_HWC.shape[1] - WIDTH + 1)
    crop_HWC = resized_HWC[top : top + HEIGHT, left : left + WIDTH]
    return np.ascontiguousarray(crop_HWC[:, ::-1] if number % 2 else crop_HWC)


def blob_mask(number: int) -> np.ndarray:
    """Return a 375 x 500 mask of a frayed ellipse of about a fifth of the image, uint8, 1 = foreground."""
    rng = np.random.default_rng(1_000_000 + number)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    centre = rng.uniform((0.35 * HEIGHT, 0.35 * WIDTH), (0.65 * HEIGHT, 0.65 * WIDTH))
    radius = rng.uniform((0.2 * HEIGHT, 0.2 * WIDTH), (0.35 * HEIGHT, 0.35 * WIDTH))
    distance = ((rows - centre[0]) / radius[0]) ** 2 + ((columns - centre[1]) / radius[1]) ** 2
    fray = cv2.GaussianBlur(rng.normal(size=(HEIGHT, WIDTH)), (0, 0), 3) * 2
    return (distance + fray < 1).astype(np.uint8)


def write_dataset(root: Path, num_images: int) -> None:
    """Write images/NNNN.jpg and masks/NNNN.png below `root`."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(num_images):
        (root / "images" / f"{number:04d}.jpg").write_bytes(encode_jpeg(photograph(number), JPEG_QUALITY))
        assert cv2.imwrite(str(root / "masks" / f"{number:04d}.png"), blob_mask(number) * 255)


def write_beton(folder: Path, num_images: int) -> tuple[Path, DatasetIndex]:
    """Write a data set, its store and the .beton of that below `folder`; returns the last, and the images."""
    write_dataset(folder / "data", num_images)
    index = open_index("folder", root=folder / "data" / "images")
    build_store(index, f"masks:{folder / 'data' / 'masks'}", folder / "s.zarr", BuildSettings(), num_workers=None)
    return export_beton(open_store(folder / "s.zarr"), index, folder / "s.beton"), index
