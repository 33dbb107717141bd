"""The eight variants of ImageNet-9 drawn from any images and their masks, as they are read.

Image and mask are cut to 224 px first, as ImageNet-9's are published, and `background_variants` makes the rest.
Which image lends its background is a function of seed, variant and row alone.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from backdrop.errors import ImageError, UserError
from backdrop.progress import stage_bar
from backdrop.stores.drawn_sample.background_variants import (
    NAMES,
    can_be_tiled,
    choose_donor,
    make_variant,
    tiled_background,
)
from backdrop.stores.images.image_codec import decode_rgb
from backdrop.trainer.evaluation.data.class_lists import NONE
from backdrop.trainer.evaluation.data.images import IMAGE_SUFFIXES, Images, wnid_folders
from backdrop.trainer.evaluation.data.masks import MASK_FAULT, Masks, check_size, encoded
from backdrop.trainer.evaluation.data.transforms import Transform, resize_and_crop
from backdrop.trainer.evaluation.harness.result import Result

SIZE_PX = 224
LAYOUT = "DIR/<wnid>/*.jpg, or DIR/images/*.jpg with DIR/labels.csv (columns image, imagenet_index)"


@dataclass(frozen=True)
class Variant(Images):
    """One variant of images with masks; labels are ImageNet-9's groups. variant: of NAMES. seed: of the donors."""

    masks: Masks | None = None
    variant: str = NAMES[0]
    seed: int = 0

    def read(self, row: int) -> bytes:
        """The variant of one image as an uncompressed file. Raises: ImageError: image or mask is damaged."""
        image_HWC, mask_HW = self.cut(row)
        return encoded(make_variant(self.variant, image_HWC, mask_HW, lambda: self._background(self.donor(row))))

    def _background(self, row: int) -> np.ndarray:
        """Of another image, by its mask as it was given, also where `cut` does something to masks."""
        return tiled_background(*Variant.cut(self, row))

    def stamp(self, row: int) -> tuple[int, ...]:
        """Of the image, its mask, and where its background comes from."""
        assert self.masks is not None
        code = NAMES.index(self.variant)
        return (*super().stamp(row), self.masks.stamp(self.keys[row]), code, self.donor(row))

    def donor(self, row: int) -> int:
        """The row whose background a mixed variant takes: another one where the class has another."""
        groups, group_N = np.unique(self.label_N, return_inverse=True)
        rng = np.random.default_rng([self.seed, NAMES.index(self.variant), row])
        other = choose_donor(rng, self.variant, row, group_N, len(groups))
        return row if other is None else other

    def cut(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The centre of an image, uint8 (224, 224, 3), and of its mask, (224, 224). Raises: ImageError."""
        assert self.masks is not None
        image_HWC, mask_HW = decode_rgb(super().read(row)), self.masks.mask(self.keys[row])
        check_size(image_HWC, mask_HW, self.keys[row])
        return resize_and_crop(image_HWC, SIZE_PX), cut_mask(mask_HW)


def cut_mask(mask_HW: np.ndarray) -> np.ndarray:
    """The part of a mask that the standard transform leaves of its image: uint8 (224, 224)."""
    return resize_and_crop(mask_HW, SIZE_PX, resample=Image.Resampling.NEAREST)


def made_with(transform: Transform, masks: Masks, seed: int) -> Transform:
    """Return a transform whose name also says what variants are made with: answers to others are not these."""
    return replace(transform, name=f"{transform.name}, of variants made with {masks.name}, seed {seed}")


def open_variants(data: Path, masks: Masks, group_C: np.ndarray, seed: int, result: Result) -> Iterator[Variant]:
    """Yield the eight variants of the images that can have them all.

    Args: data: see LAYOUT. masks: of its images. group_C: int64 (1000,), ImageNet-9's group of each class or NONE.
    Raises: UserError: another layout, or no image can be used.
    """
    images = _labelled_images(data, group_C)
    result.note_strays(images.strays)
    in_group = np.flatnonzero(images.label_N != NONE)
    masked = [row for row in in_group.tolist() if masks.has(images.keys[row])]
    originals = Variant(images.root, images.keys, images.label_N, masks=masks)
    usable = [
        row for row in stage_bar(masked, stage="masks", unit="img", is_inner=True) if _is_usable(originals, row, result)
    ]
    result.facts["images"] = {
        "found": len(images),
        "of a group": len(in_group),
        "with a mask": len(masked),
        "with foreground and a strip of background in the crop": len(usable),
    }
    if len(masked) < len(in_group):
        result.problems.append(f"{len(in_group) - len(masked)} images have no mask: left out")
    chosen = images.subset(usable, f"images and masks, {LAYOUT}")
    for group, num in zip(*np.unique(chosen.label_N, return_counts=True), strict=True):
        if num == 1:
            result.problems.append(f"group {group} has one image: its mixed_same background is its own")
    for name in NAMES:
        yield Variant(chosen.root, chosen.keys, chosen.label_N, masks=masks, variant=name, seed=seed)


def _is_usable(images: Variant, row: int, result: Result) -> bool:
    """Whether the crop has foreground, and beside its box a strip to tile from.

    Image and mask are decoded here once more, so that a damaged one does not become another image's background.
    """
    try:
        _, mask_HW = images.cut(row)
    except (ImageError, FileNotFoundError) as error:
        result.problems.append(f"{images.keys[row]}: {MASK_FAULT} ({error}): left out")
        return False
    return can_be_tiled(mask_HW)


def _labelled_images(data: Path, group_C: np.ndarray) -> Images:
    """Images labelled by group, NONE where their class has none. Raises: UserError."""
    table = data / "labels.csv"
    if not table.is_file():
        images = wnid_folders(data, LAYOUT)
        return Images(images.root, images.keys, group_C[images.label_N], images.strays, images.sizes_bytes)
    class_of_stem = _read_table(table)
    folder = data / "images"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and path.stem in class_of_stem]
    if not found:
        raise UserError(f"{folder} has no image that {table} names. Expected: {LAYOUT}")
    labels = group_C[[class_of_stem[path.stem] for path in found]]
    strays = tuple(path.name for path in files if path not in set(found))
    return Images(folder, tuple(path.name for path in found), labels, strays)


def _read_table(path: Path) -> dict[str, int]:
    try:
        with path.open(newline="") as file:
            class_of_stem = {row["image"]: int(row["imagenet_index"]) for row in csv.DictReader(file)}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error!r}. Expected: {LAYOUT}") from error
    beyond = [stem for stem, label in class_of_stem.items() if not 0 <= label < 1000]
    if beyond:
        raise UserError(f"{path}: the imagenet_index of {beyond[0]} is not 0 .. 999")
    return class_of_stem
