"""Masks of a test set's foregrounds: a store of ours, or a folder of maps, read as `masks:DIR` is.

Masks are uint8 in {0, 1}, 1 = foreground.
"""

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from backdrop.errors import ImageError, UserError
from backdrop.saliency.mask_folder import MaskFolder, folder_and_words, open_mask_folder
from backdrop.stores.format.reader import Store, open_store
from backdrop.stores.format.schema import Status
from backdrop.stores.images.image_codec import decode_rgb, sha256
from backdrop.trainer.evaluation.data.images import Images

# Why pixels made of an image and its mask may be missing.
MASK_FAULT = "image or mask cannot be decoded, or they differ in size"


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Masks by the key of their image.

    name: recorded beside each score.
    folder, threshold: of maps, foreground where the value / 255 is above; or
    store, row_of_key: of a store, whose masks are as they were built. One of folder and store is None.
    """

    name: str
    folder: MaskFolder | None = None
    threshold: float = 0.5
    store: Store | None = None
    row_of_key: dict[str, int] = field(default_factory=dict)

    def has(self, key: str) -> bool:
        """Whether there is a mask for an image."""
        return key in self.row_of_key if self.folder is None else not self.folder.why_no_map(key)

    def mask(self, key: str) -> np.ndarray:
        """The mask of an image, uint8 (H, W). Raises: ImageError, CorruptStore: it is damaged."""
        if self.folder is not None:
            grey_HW = self.folder.reading.map_of(self.folder.file_of(key).read_bytes())
            return (grey_HW > self.threshold * 255).astype(np.uint8)
        assert self.store is not None
        mask_HW = self.store.mask(self.row_of_key[key])
        assert mask_HW is not None, "row_of_key has rows with a mask alone"
        return mask_HW

    def stamp(self, key: str) -> int:
        """What, with the key and `name`, tells a mask from another: of a file the first bytes of its digest."""
        if self.folder is None:
            return 0
        return int.from_bytes(sha256(self.folder.file_of(key).read_bytes())[:8], "big")


def open_masks(named: Path | str, threshold: float) -> Masks:
    """Open a store, or a folder of maps.

    Args: named: behind a folder may stand how it is read, as in `DIR:alpha`. threshold: of the maps' values / 255; a
        store's masks were cut when it was built.
    Raises: UserError: neither is there, or the maps seem to be of another kind than is said.
    """
    if (Path(named) / "zarr.json").is_file():
        store = open_store(Path(named))
        has_mask = [status for status in Status if status.has_mask]
        usable = np.flatnonzero(np.isin(store.status, has_mask))
        row_of_key = {store.key(int(row)): int(row) for row in usable}
        return Masks(name=f"store {store.store_id}", store=store, row_of_key=row_of_key)
    if not folder_of(named).is_dir():
        raise UserError(
            f"there are no masks at {named}; give a store, or a folder of PNG files named as the images; behind it may "
            "stand what masks:DIR takes, such as DIR:alpha"
        )
    folder = open_mask_folder(str(named))
    read_as = f", {folder.reading.words}" if folder.reading.words else ""
    return Masks(name=f"PNG masks above {threshold}{read_as}", folder=folder, threshold=threshold)


def folder_of(named: Path | str) -> Path:
    """Return the folder of masks, or the store, without how it is read. Args: named: as `open_masks` takes it."""
    return folder_and_words(str(named))[0]


@dataclass(frozen=True)
class ForegroundImages(Images):
    """Images of which the foreground is left and all else has one grey value, before any resizing."""

    masks: Masks | None = None
    fill: int = 0

    def read(self, row: int) -> bytes:
        """The image as an uncompressed file. Raises: ImageError: image or mask is damaged, or their sizes differ."""
        assert self.masks is not None
        image_HWC, mask_HW = decode_rgb(super().read(row)), self.masks.mask(self.keys[row])
        check_size(image_HWC, mask_HW, self.keys[row])
        return encoded(np.where(mask_HW[..., None] == 1, image_HWC, np.uint8(self.fill)))

    def stamp(self, row: int) -> tuple[int, ...]:
        """Of the image and of its mask."""
        assert self.masks is not None
        return (*super().stamp(row), self.masks.stamp(self.keys[row]))


def check_size(image_HWC: np.ndarray, mask_HW: np.ndarray, key: str) -> None:
    """Raise ImageError where a mask is not of its image's height and width."""
    if mask_HW.shape != image_HWC.shape[:2]:
        raise ImageError(f"{key} has {image_HWC.shape[:2]} px, its mask {mask_HW.shape}")


def encoded(image_HWC: np.ndarray) -> bytes:
    """An image as a file that loses nothing and costs no time."""
    memory = io.BytesIO()
    Image.fromarray(image_HWC).save(memory, "BMP")
    return memory.getvalue()
