"""What the size of stored backgrounds costs and gives: bytes, the loader's time, sharpness beside the foreground."""

import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from backdrop.pipeline.beton.reader import BetonSettings, read_records
from backdrop.pipeline.beton.writer import export_beton
from backdrop.pipeline.build.masks_and_backgrounds import BuildSettings, build_store
from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.views.view_plan import Background, View, ViewPlan
from backdrop.stores.datasets import open_index
from backdrop.stores.format.reader import open_store
from backdrop.stores.indexes.dataset_index import DatasetIndex
from tests.bench.photographs import blob_mask, write_dataset
from tests.bench.timing import row

# Longest sides of the store's JPEGs; and of the planes that a .beton makes of the default's, 384.
SIDES_PX, PLANES_PX = (256, 384, 512), (224, 288, 384)
_COCO = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco" / "train2017"
_NUM_IMAGES = 96
_PLAN = ViewPlan(views=(View(), View()), background=Background(name="random", probability=1.0))


def measure(folder: Path) -> dict[str, dict]:
    """Return bytes, seconds and sharpness of each size, on COCO's photographs (640 px) where they are at hand."""
    what = f"COCO, {_NUM_IMAGES} images" if _COCO.is_dir() else "500 x 375 px photographs"
    _write(folder)
    index = open_index("folder", root=folder / "images")
    found = {}
    for side_px in SIDES_PX:
        store = folder / f"{side_px}.zarr"
        settings = BuildSettings(background_max_side_px=side_px)
        build_store(index, f"masks:{folder / 'masks'}", store, settings, num_workers=None)
        found |= _lines(f"{side_px}px", store, index, 0, f"JPEGs; {what}")
    for side_px in PLANES_PX:
        found |= _lines(f"planes_{side_px}px", folder / "384.zarr", index, side_px, f"planes of 384-px JPEGs; {what}")
    return found


def _lines(name: str, store: Path, index: DatasetIndex, side_px: int, what: str) -> dict[str, dict]:
    """What backgrounds of a store cost and give in a .beton that keeps them so."""
    settings = BetonSettings(max_side_px=640, background_side_px=side_px)
    beton = export_beton(open_store(store), index, store.with_name(f"{name}.beton"), settings=settings)
    seconds, background, own = _views(beton)
    num_bytes = float(read_records(beton)["background_bytes"].mean())
    lines = {
        "bytes_per_row": row(num_bytes, "B", what=f"of a background; {what}"),
        "loader_ms_per_row": row(1000 * seconds, "ms", what=f"two views, both with a donor; {what}"),
        "sharpness": row(background / own, "ratio", what=f"fine share of the power: pasted over own; {what}"),
    }
    return {f"backgrounds.{name}_{line}": entry for line, entry in lines.items()}


def _write(folder: Path) -> None:
    """Photographs, and ellipses for masks."""
    if not _COCO.is_dir():
        write_dataset(folder, _NUM_IMAGES)
        return
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for number, path in enumerate(sorted(_COCO.glob("*.jpg"))[:_NUM_IMAGES]):
        image_HWC = cv2.imread(str(path))
        mask_HW = cv2.resize(blob_mask(number), image_HWC.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        (folder / "images" / path.name).write_bytes(path.read_bytes())
        cv2.imwrite(str(folder / "masks" / f"{path.stem}.png"), mask_HW * 255)


def _views(beton: Path) -> tuple[float, float, float]:
    """Seconds a row; mean share of the power in fine detail of donors, and of the images that they are pasted into."""
    with Loader(beton, _PLAN, LoaderOptions(batch_size=32, seed=0, num_threads=1)) as loader:
        donors, images, seconds = [], [], float("inf")
        for epoch in range(4):
            begun = time.perf_counter()
            num_rows = 0
            for batch in loader.epoch(epoch):
                num_rows += len(batch.row_B)
                if not epoch:
                    donors += [fine_share(view) for view in _each(batch.views[0].donor_BHWC)]
                    images += [fine_share(view) for view in _each(batch.views[0].image_BHWC)]
            if epoch:  # the first one compiles
                seconds = min(seconds, (time.perf_counter() - begun) / num_rows)
    return seconds, float(np.mean(donors)), float(np.mean(images))


def _each(view_BHWC: object) -> Iterator[np.ndarray]:
    yield from np.asarray(view_BHWC)


def fine_share(view_HWC: np.ndarray) -> float:
    """Return the share of a view's power, its mean left out, above an eighth of a cycle a pixel."""
    grey_HW = view_HWC.mean(axis=2)
    window = np.hanning(len(grey_HW))
    power = np.abs(np.fft.fft2((grey_HW - grey_HW.mean()) * window[:, None] * window)) ** 2
    frequency = np.fft.fftfreq(len(grey_HW))
    is_fine = np.hypot(frequency[:, None], frequency) > 1 / 8
    return float(power[is_fine].sum() / max(power.sum(), 1e-9))
