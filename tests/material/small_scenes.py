"""A folder of a few generated images of every kind the exporter treats differently, with masks, and its store."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from backdrop.pipeline.build.masks_and_backgrounds import BuildSettings, build_store
from backdrop.stores.datasets import open_index
from backdrop.stores.indexes.dataset_index import DatasetIndex

NUM_IMAGES = 22
NO_MASK, DAMAGED, EMPTY, FULL, GREY, ROTATED, PROGRESSIVE, LARGE, PNG = 3, 5, 6, 8, 9, 10, 11, 12, 13


def photograph(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth colours and edges, as a JPEG likes them; uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    cv2.circle(image, (width // 2, height // 3), min(height, width) // 4, rng.integers(0, 256, 3).tolist(), -1)
    return image


def mask_of(height: int, width: int, number: int) -> np.ndarray:
    """uint8 (H, W) in {0, 255}."""
    if number in (EMPTY, FULL):
        return np.full((height, width), 255 * (number == FULL), dtype=np.uint8)
    mask = np.zeros((height, width), dtype=np.uint8)
    cv2.ellipse(mask, (width // 2, height // 3), (width // 5, height // 4), 0, 0, 360, 255, -1)
    return mask


def write_folder(folder: Path) -> tuple[Path, Path]:
    """Write images and masks; returns their folders."""
    images, masks = folder / "images", folder / "masks"
    for number in range(NUM_IMAGES):
        height, width = (700, 300) if number == LARGE else (80 + 5 * number, 150 - 3 * number)
        pixels = photograph(height, width, number)
        suffix = "png" if number == PNG else "jpg"
        path = images / f"class{number % 2}" / f"{number:03d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, pixels, number)
        if number == DAMAGED:
            path.write_bytes(path.read_bytes()[:200])
        if number == NO_MASK:
            continue
        upright = (width, height) if number == ROTATED else (height, width)
        mask_path = masks / f"class{number % 2}" / f"{number:03d}.png"
        mask_path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask_of(*upright, number)).save(mask_path)
    return images, masks


def write_image(path: Path, pixels: np.ndarray, number: int) -> None:
    image = Image.fromarray(pixels)
    if number == PNG:
        image.save(path)
        return
    exif = Image.Exif()
    if number == ROTATED:
        exif[0x0112] = 6
    image = image.convert("L") if number == GREY else image
    image.save(path, quality=92, progressive=number == PROGRESSIVE, exif=exif)


def build(folder: Path) -> tuple[Path, DatasetIndex]:
    """Build a store of the folder's images from its masks."""
    images, masks = write_folder(folder)
    index = open_index("folder", root=images)
    store = folder / "store"
    build_store(index, f"masks:{masks}", store, BuildSettings(), num_workers=1)
    return store, index
