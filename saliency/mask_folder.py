"""A folder of maps made elsewhere, in use as a detector."""

import hashlib
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from backdrop.errors import ImageError, UserError
from backdrop.saliency.detector import Detector, MaskError, Threshold
from backdrop.stores.images.image_codec import decode_grey


class MaskFolder(Detector):
    """A folder of maps made elsewhere: 8-bit grey images, 255 = foreground.

    The map of key `a/b.jpg` is `a/b.png` in the folder, or else `b.png`.

    Args:
        folder: where the maps are.

    Raises:
        UserError: the folder is not there, or its maps seem to hold 0 and 1 instead of 0 and 255.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: masks:DIR takes a folder of 8-bit PNG maps, 255 = foreground")
        self.folder = folder
        self._refuse_zero_one()

    threshold = Threshold(value=0.5, source="the middle of 0 and 255; masks are the same at any")

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Names and contents of all maps; reads every file once, so it is only computed where it is asked for."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.rglob("*.png")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(self.folder).as_posix()}\0{content}\n".encode())
        return {"name": "masks", "algorithm_version": 1, "content_sha256": digest.hexdigest()}

    def __call__(self, image_HWC: np.ndarray, key: str) -> np.ndarray:
        """The map of `key`, float32 (H, W) in [0, 1].

        Args:
            image_HWC: uint8 (H, W, 3); only its size matters.
            key: of the image in its data set.

        Raises:
            MaskError: no map, an unreadable one, or one of another size.
        """
        grey_HW = self.grey(key)
        if grey_HW.shape != image_HWC.shape[:2]:
            raise MaskError(
                f"{key}: the map has {_size(grey_HW)} px, the image {_size(image_HWC)} px; give a map of the same size"
            )
        return grey_HW.astype(np.float32) / 255

    def grey(self, key: str) -> np.ndarray:
        """The 8-bit map of a key as it is: uint8 (H, W).

        Args:
            key: of the image in its data set.

        Raises:
            MaskError: no map, or an unreadable one.
        """
        path = self._path(key)
        # No message holds the folder's path: it becomes part of a store, which is the same wherever its masks lay.
        name = path.relative_to(self.folder).as_posix()
        try:
            return decode_grey(path.read_bytes())
        except OSError as error:
            raise MaskError(f"{key}: the map {name} cannot be read: {error.strerror}") from error
        except ImageError as error:
            raise MaskError(f"{key}: the map {name} cannot be read: {error}") from error

    def _path(self, key: str) -> Path:
        pure = PurePosixPath(key)
        if pure.is_absolute() or ".." in pure.parts:
            raise MaskError(f"{key!r} is not a key: it must stay inside its folder")
        nested, flat = self.folder / pure.with_suffix(".png"), self.folder / f"{pure.stem}.png"
        for path in (nested, flat):
            if path.is_file():
                return path
        raise MaskError(f"{key}: no {nested.relative_to(self.folder).as_posix()} or {flat.name} in the folder of masks")

    def _refuse_zero_one(self) -> None:
        """Masks saved as 0 and 1 would read as nearly black maps; say so before the first image."""
        brightest = 0
        for _, path in zip(range(16), self.folder.rglob("*.png"), strict=False):
            try:
                brightest = max(brightest, int(decode_grey(path.read_bytes()).max()))
            except (OSError, ImageError):
                continue  # reported by its key when its turn comes
        if brightest == 1:
            raise UserError(
                f"the maps of {self.folder} hold only 0 and 1: save masks as 0 and 255 (8-bit, 255 = foreground)"
            )


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"
