"""A folder of maps made elsewhere, in use as a detector."""

import hashlib
import os
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from backdrop.errors import ImageError, UserError
from backdrop.saliency.detector import Detector, MaskError, Threshold
from backdrop.saliency.features.option_names import path_and_options
from backdrop.saliency.kept_digests import KeptDigests
from backdrop.saliency.mask_names import USUAL, USUAL_SUFFIX, Naming, naming_of
from backdrop.saliency.mask_reading import PLAIN, WORDS, Reading, check_reading, reading_of

# Files that are looked at to see of which kind the maps are.
_NUM_LOOKED_AT = 16


def open_mask_folder(text: str) -> "MaskFolder":
    """Open a folder by its name, with how it is read behind it: `DIR`, `DIR:alpha`, `DIR:red:inverted`.

    Args: text: a folder that is there under the whole name is that one.
    Raises: UserError: as `MaskFolder`, or two parts of a file are named.
    """
    folder, words = folder_and_words(text)
    return MaskFolder(folder, reading_of(words))


def folder_and_words(text: str) -> tuple[Path, list[str]]:
    """Split a folder's name from how it is read. Args: text: as `open_mask_folder` takes it; nothing need be there."""
    if Path(text).is_dir():
        return Path(text), []
    folder, options = path_and_options(text, WORDS)
    return Path(folder), list(options)


class MaskFolder(Detector):
    """A folder of maps made elsewhere: 8-bit grey images, 255 = foreground, or what `reading` says.

    The map of key `a/b.jpg` is `a/b.png` in the folder, or else `b.png`, or else the file that `mask_names` finds where
    all maps are named in one other way.

    Args:
        folder: where the maps are.
        reading: what of a file is its map.

    Raises:
        UserError: the folder is not there, or its maps seem to be others than the reading says.
    """

    def __init__(self, folder: Path, reading: Reading = PLAIN) -> None:
        if not folder.is_dir():
            raise UserError(
                f"{folder} is not a folder: masks:DIR takes a folder of 8-bit PNG maps, 255 = foreground; behind it "
                f"may stand {', '.join(f':{word}' for word in WORDS)}"
            )
        self.folder = folder
        self.reading = reading
        self._kept, self._is_held = KeptDigests(folder), False
        if not reading.is_given:
            check_reading(str(folder), list(self._first_files()))

    threshold = Threshold(value=0.5, source="the middle of 0 and 255; masks are the same at any")

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Names and contents of all maps; reads every file that was touched since it was last asked for."""
        digest, files = hashlib.sha256(), sorted(self._files())
        for path, content in zip(files, self._kept.of_files(files), strict=True):
            line = f"{path.relative_to(self.folder).as_posix()}\0{content.tobytes().hex()}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        known = {"name": "masks", "algorithm_version": 1, "content_sha256": digest.hexdigest()}
        return {**known, "reading": self.reading.words} if self.reading.words else known

    def hold(self) -> None:
        """From now on compare each map that is read with what the identity was computed of."""
        self._is_held = True

    def __call__(self, image_HWC: np.ndarray, key: str = "") -> np.ndarray:
        """The map of `key`, float32 (H, W) in [0, 1].

        Args:
            image_HWC: uint8 (H, W, 3); only its size matters.
            key: of the image in its data set.

        Raises:
            MaskError: no map, an unreadable one, or one of another size.
            UserError: no key.
        """
        if not key:
            raise UserError(f"masks:{self.folder} finds a map by its image's key: give it, detector(image, 'a/b.jpg')")
        grey_HW = self.grey(key)
        if grey_HW.shape != image_HWC.shape[:2]:
            raise MaskError(
                f"{key}: the map has {_size(grey_HW)} px, the image {_size(image_HWC)} px; give a map of the same size"
            )
        return grey_HW.astype(np.float32) / 255

    def grey(self, key: str) -> np.ndarray:
        """The 8-bit map of a key as the folder is read: uint8 (H, W).

        Args:
            key: of the image in its data set.

        Raises:
            MaskError: no map, or an unreadable one.
        """
        path = self.file_of(key)
        # No message holds the folder's path: it becomes part of a store, which is the same wherever its masks lay.
        name = path.relative_to(self.folder).as_posix()
        try:
            data = path.read_bytes()
            if self._is_held and not self._kept.is_same(path, data):
                raise UserError(
                    f"the map {path} is another one than when the folder was read; run the same command again, "
                    "which reads it anew"
                )
            return self.reading.map_of(data)
        except OSError as error:
            raise MaskError(f"{key}: the map {name} cannot be read: {error.strerror}") from error
        except ImageError as error:
            raise MaskError(f"{key}: the map {name} cannot be read: {error}") from error

    def why_no_map(self, key: str) -> str:
        """Say that there is no file of a key, with the name of one that there is; "" where there is one."""
        try:
            self.file_of(key)
        except MaskError as error:
            there = next((path.name for path in self.folder.rglob("*") if path.is_file()), "")
            return f"{error}, which holds {there or 'no file'}"
        return ""

    def file_of(self, key: str) -> Path:
        """Find the file of a key's map. Args: key: of the image in its data set. Raises: MaskError: there is none."""
        pure = PurePosixPath(key)
        if pure.is_absolute() or ".." in pure.parts:
            raise MaskError(f"{key!r} is not a key: it must stay inside its folder")
        nested, flat = USUAL.map_of(pure), PurePosixPath(USUAL.map_of(pure).name)
        for name in (nested, flat):
            if os.path.isfile(self.folder / name):  # of a name that no file can have, too
                return self.folder / name
        if not self.folder.is_dir():
            raise UserError(f"the folder of masks {self.folder} is gone: put it back and run the same command again")
        if self._naming != USUAL:
            named = self._naming.map_of(pure)
            for name in (named, PurePosixPath(named.name)):
                if os.path.isfile(self.folder / name):
                    return self.folder / name
        raise MaskError(f"{key}: no {nested} or {flat} in the folder of masks")

    @cached_property
    def _naming(self) -> Naming:
        return naming_of(self.folder)

    def _files(self) -> Iterator[Path]:
        """The files that may be maps."""
        usual = self.folder.rglob(f"*{USUAL_SUFFIX}")
        first = next(usual, None)
        if first is not None:
            yield first
            yield from usual
        elif self._naming != USUAL:
            yield from self.folder.rglob(f"*{self._naming.suffix}")

    def _first_files(self) -> Iterator[bytes]:
        for path in islice(self._files(), _NUM_LOOKED_AT):
            try:
                yield path.read_bytes()
            except OSError:
                continue  # reported by its key when its turn comes


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"
