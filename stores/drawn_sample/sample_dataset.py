"""A small data set that needs no download: drawn at first use by the command that takes it, with true masks
and backgrounds that betray the class.

    ROOT/{train,val}/<class>/<class>_0001.jpg
    ROOT/masks/{train,val}/<class>/<class>_0001.png        255 = foreground
    ROOT/variants/<variant>/<class>/<class>_0001.jpg       of val: `background_variants.NAMES`
    ROOT/sample.json                                       settings; written last

A picture depends on the seed, the split and its number only. The whole is drawn in a folder beside ROOT and renamed, so
that a killed draw leaves nothing half done at ROOT, and of two processes drawing at once one wins and the other uses
its work.
"""

import dataclasses
import errno
import io
import json
import os
import shutil
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image

from backdrop.disk_errors import disk_errors
from backdrop.errors import UserError
from backdrop.progress import stage_bar
from backdrop.settings import SEEDS, at_least, within
from backdrop.stores.datasets.sample import RECORD
from backdrop.stores.drawn_sample import background_variants
from backdrop.stores.drawn_sample.background_variants import choose_donor, make_variant, tiled_background
from backdrop.stores.drawn_sample.drawing import BACKGROUNDS, CLASSES, draw
from backdrop.stores.format.provenance import canonical_json
from backdrop.stores.images.image_codec import decode_grey, decode_rgb, encode_jpeg

DRAWING_VERSION = 1
SPLITS = ("train", "val")
JPEG_QUALITY = 90
VARIANT_QUALITY = 95


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """What decides the pictures."""

    seed: Annotated[int, SEEDS, "Decides every picture"] = 0
    num_train: Annotated[int, at_least(1), "Pictures of the train split; a tenth of each class"] = 800
    num_val: Annotated[int, at_least(1), "Pictures of the val split"] = 200
    side_px: Annotated[int, at_least(1), "Side of a picture"] = 160
    background_correlation: Annotated[
        float,
        within(0, 1),
        "With this probability a picture has its class's own background, otherwise any of the ten; in both splits",
    ] = 0.7


def draw_if_absent(root: Path, settings: SampleSettings | None = None) -> None:
    """Draw the sample data set unless it is there.

    Args:
        root: its folder.
        settings: None = whatever is there, else the defaults.

    Raises:
        UserError: the folder holds something else, or a sample of other settings; or it cannot be written.
    """
    root = Path(root)
    if (root / RECORD).exists():
        _check_record(root, settings)
        return
    if root.exists() and (not root.is_dir() or any(root.iterdir())) and not (root / RECORD).exists():
        raise UserError(f"{root} holds something other than the sample data set; give another folder with --root")
    stage = root.parent / f"{root.name}.drawing-{uuid.uuid4().hex}"
    try:
        with disk_errors(root):
            _draw_all(stage, settings or SampleSettings())
            os.sync()
            os.rename(stage, root)
            for leftover in root.parent.glob(f"{root.name}.drawing-*"):  # of killed draws, or of a slower racer
                shutil.rmtree(leftover, ignore_errors=True)
    except OSError as error:
        raced = error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT)
        if not (raced and (root / RECORD).exists()):
            raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def draw_picture(settings: SampleSettings, split: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture `number` of a split, counted from 0; its class is `number % 10`.

    Returns:
        image_HWC: uint8 RGB.
        mask_HW: uint8, 1 = foreground.
    """
    rng = np.random.default_rng([settings.seed, SPLITS.index(split), number])
    class_number = number % len(CLASSES)
    other = int(rng.integers(len(BACKGROUNDS)))
    family = class_number if rng.random() < settings.background_correlation else other
    return draw(rng, class_number, BACKGROUNDS[family], settings.side_px)


def picture_key(number: int) -> str:
    """Path of a picture below its split, without the suffix."""
    name = CLASSES[number % len(CLASSES)]
    return f"{name}/{name}_{number // len(CLASSES) + 1:04d}"


def _draw_all(stage: Path, settings: SampleSettings) -> None:
    counts = {"train": settings.num_train, "val": settings.num_val}
    total = sum(counts.values()) + settings.num_val * len(background_variants.NAMES)
    with stage_bar(total=total, unit="img", stage="draw the sample data set") as bar:
        for split in SPLITS:
            for number in range(counts[split]):
                image_HWC, mask_HW = draw_picture(settings, split, number)
                _write(stage / split / f"{picture_key(number)}.jpg", encode_jpeg(image_HWC, JPEG_QUALITY))
                _write(stage / "masks" / split / f"{picture_key(number)}.png", _encode_png(mask_HW * 255))
                bar.update()
        for number in range(settings.num_val):
            for name, image_HWC in _variants(stage, settings, number).items():
                data = encode_jpeg(image_HWC, VARIANT_QUALITY)
                _write(stage / "variants" / name / f"{picture_key(number)}.jpg", data)
                bar.update()
    _write(stage / RECORD, _record(settings))


def _variants(root: Path, settings: SampleSettings, number: int) -> dict[str, np.ndarray]:
    """All variants of a picture of val."""
    image_HWC, mask_HW = _read_val(root, number)
    made = {}
    for code, name in enumerate(background_variants.NAMES):
        rng = np.random.default_rng([settings.seed, len(SPLITS) + code, number])
        donor = choose_donor(rng, name, number, np.arange(settings.num_val) % len(CLASSES), len(CLASSES))
        if donor is None:
            donor = (number + 1) % settings.num_val
        made[name] = make_variant(name, image_HWC, mask_HW, partial(_lent_background, root, donor))
    return made


def _lent_background(root: Path, number: int) -> np.ndarray:
    return tiled_background(*_read_val(root, number))


def _read_val(root: Path, number: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture of val and its mask as they lie on disk."""
    image = (root / "val" / f"{picture_key(number)}.jpg").read_bytes()
    mask = (root / "masks" / "val" / f"{picture_key(number)}.png").read_bytes()
    return decode_rgb(image), decode_grey(mask) // 255


def _record(settings: SampleSettings) -> bytes:
    return canonical_json({"drawing_version": DRAWING_VERSION, "classes": CLASSES, **dataclasses.asdict(settings)})


def _check_record(root: Path, settings: SampleSettings | None) -> None:
    if settings is not None and (root / RECORD).read_bytes() != _record(settings):
        there = json.loads((root / RECORD).read_bytes())
        raise UserError(f"{root} holds a sample data set of other settings ({there}); give another folder with --root")


def _encode_png(grey_HW: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(grey_HW).save(out, "PNG")
    return out.getvalue()


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
