"""The study's data sets, all in the sample's layout, with stores of their masks.

ROOT/{train,val}/<class>/*.jpg    ROOT/masks/{train,val}/<class>/*.png    ROOT/variants/<variant>/<class>/*.jpg
"""

import csv
import os
import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from backdrop.errors import UserError
from backdrop.pipeline.beton.writer import export_beton
from backdrop.pipeline.build.masks_and_backgrounds import BuildSettings, build_store
from backdrop.saliency.deepusps2.deepusps import train
from backdrop.saliency.deepusps2.settings import choose_settings
from backdrop.stores.datasets import open_index
from backdrop.stores.drawn_sample import background_variants
from backdrop.stores.drawn_sample.background_variants import can_be_tiled, choose_donor, make_variant, tiled_background
from backdrop.stores.drawn_sample.sample_dataset import VARIANT_QUALITY, SampleSettings, draw_if_absent
from backdrop.stores.format.reader import open_store
from backdrop.stores.images.image_codec import decode_grey, decode_rgb, encode_jpeg

# The sample with its own share of pictures that betray their class by the background (0.7), and with others.
CORRELATIONS = {"sample": 0.7, "sample-0": 0.0, "sample-0.95": 0.95}
SCENES = "scenes"
NAMES = (*CORRELATIONS, SCENES)
# Where soft maps are cut, but where the detector's own threshold is right: a tiny run was trained on no photographs to
# choose one on.
_THRESHOLDS = {"true": 0.5, "deepusps2": 0.9}
# Every so many images of a class are held out.
_HELD_OUT = 5


def prepared(name: str, folder: Path, scenes: Path | None) -> Path:
    """Return a data set's folder, made if it is not there. Args: scenes: photographs with true masks, labels.csv."""
    root = folder / name
    if name == SCENES:
        if not root.exists():
            _arrange_scenes(scenes, root)
    else:
        draw_if_absent(root, SampleSettings(background_correlation=CORRELATIONS[name]))
    return root


def store_path(root: Path, masks: str, split: str = "train") -> Path:
    """Return where the store of a data set's masks is.

    Args: root: the data set. masks: true, rbd or deepusps2; all others are true ones, perturbed when they are used.
    """
    return root.parent / f"{root.name}-{split}-{_source(masks)}.zarr"


def _source(masks: str) -> str:
    return masks if masks in ("rbd", "deepusps2") else "true"


def build_if_absent(root: Path, masks: str, split: str) -> None:
    """Build the store of `store_path` with its .beton. Args: as there."""
    store, source = store_path(root, masks, split), _source(masks)
    index = open_index("folder", root=root / split, split=split)
    detector = {"rbd": "rbd", "deepusps2": str(root.parent / f"{root.name}-detector")}.get(
        source, f"masks:{root / 'masks' / split}"
    )
    if source == "deepusps2":
        train(open_index("folder", root=root / "train"), Path(detector), choose_settings("tiny"), seed=0)
    build_store(index, detector, store, BuildSettings(threshold=_THRESHOLDS.get(source)), num_workers=None)
    if not store.with_suffix(".beton").exists():
        export_beton(open_store(store), index, store.with_suffix(".beton"))


def _arrange_scenes(scenes: Path | None, root: Path) -> None:
    """Copy photographs with masks into the sample's layout, and make the variants of those held out."""
    if scenes is None or not (scenes / "labels.csv").is_file():
        raise UserError(
            f"there are no photographs with masks at {scenes}; name a folder with labels.csv, images/ and masks/ with "
            "--scenes, or leave its cells out with --data sample"
        )
    stage = root.with_name(f"{root.name}.partial")
    shutil.rmtree(stage, ignore_errors=True)
    held_out: dict[str, list[str]] = {}
    for class_name, stems in sorted(_stems_of_class(scenes).items()):
        for number, stem in enumerate(sorted(stems)):
            split = "val" if number % _HELD_OUT == 0 else "train"
            _place(scenes / "images" / f"{stem}.jpg", stage / split / class_name)
            _place(scenes / "masks" / f"{stem}.png", stage / "masks" / split / class_name)
            if split == "val":
                held_out.setdefault(class_name, []).append(stem)
    _make_variants(stage, held_out)
    os.rename(stage, root)


def _stems_of_class(scenes: Path) -> dict[str, list[str]]:
    stems: dict[str, list[str]] = {}
    with (scenes / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            stems.setdefault(row["in9_class"], []).append(row["image"])
    return stems


def _place(file: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / file.name)


def _make_variants(root: Path, held_out: dict[str, list[str]]) -> None:
    """Draw the eight variants of ImageNet-9 of every held-out image that can have them all."""
    names = sorted(held_out)
    pairs = {
        (number, stem): pair
        for number, name in enumerate(names)
        for stem in held_out[name]
        if can_be_tiled((pair := _read(root, name, stem))[1])
    }
    lenders = list(pairs.values())
    class_N = np.array([number for number, _ in pairs])
    for row, ((number, stem), (image_HWC, mask_HW)) in enumerate(pairs.items()):
        for code, variant in enumerate(background_variants.NAMES):
            rng = np.random.default_rng([code, row])
            donor = _donor(rng, variant, row, class_N, len(names))
            lent = partial(_lent, lenders[donor], image_HWC.shape[:2])
            made_HWC = make_variant(variant, image_HWC, mask_HW, lent)
            file = root / "variants" / variant / names[number] / f"{stem}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode_jpeg(made_HWC, VARIANT_QUALITY))


def _read(root: Path, name: str, stem: str) -> tuple[np.ndarray, np.ndarray]:
    image_HWC = decode_rgb((root / "val" / name / f"{stem}.jpg").read_bytes())
    mask_HW = decode_grey((root / "masks" / "val" / name / f"{stem}.png").read_bytes())
    return image_HWC, (mask_HW > 127).astype(np.uint8)


def _donor(rng: np.random.Generator, variant: str, row: int, class_N: np.ndarray, num_classes: int) -> int:
    """Whose background a mixed variant takes; any other image's where the class wanted has none."""
    donor = choose_donor(rng, variant, row, class_N, num_classes)
    return int(rng.choice(np.delete(np.arange(len(class_N)), row))) if donor is None else donor


def _lent(pair: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """A donor's tiled background at the size of the image that takes it."""
    return cv2.resize(tiled_background(*pair), shape[::-1], interpolation=cv2.INTER_AREA)
