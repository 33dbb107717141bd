"""Labelled images of an evaluation: in files or in memory, and folders of them in the layouts that data sets have.

Legend: N images, H W C rows, columns, channels.
"""

import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from backdrop.errors import UserError
from backdrop.stores.datasets import open_index
from backdrop.stores.images.image_codec import decode_rgb, sha256
from backdrop.stores.indexes.dataset_index import DatasetIndex
from backdrop.stores.indexes.imagenet_classes import CLASS_OF_WNID
from backdrop.stores.indexes.kept_trees import Tree, files_below

LAYOUT = "DIR/train/<class>/*.jpg and DIR/val/<class>/*.jpg, the same class names in both"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# What archives of images carry beside their class folders; anything else there is told.
_EXPECTED_STRAYS = ("readme", "license", "copying", "manifest")


class PixelSource(Protocol):
    """Images by row."""

    @property
    def keys(self) -> Sequence[str]:
        """What each image is called."""

    @property
    def identity(self) -> str:
        """Hex digest of which images these are."""

    def __len__(self) -> int: ...

    def pixels(self, row: int) -> np.ndarray:
        """Return uint8 RGB (H, W, 3). Raises: ImageError, FileNotFoundError: there are none."""


class LabelledImages(PixelSource, Protocol):
    """Images by row, and their classes."""

    @property
    def label_N(self) -> np.ndarray:
        """Class of each image, int64 (N,)."""


@dataclass(frozen=True)
class Images:
    """Images in files; keys: paths below root, posix.

    label_N: int64 (N,), class of each; (N, K) where an image may be of several of K classes.
    strays: what else lies in the folders that were listed.
    sizes_bytes: int64 (N,), of each file when it was listed, -1 of a link to nowhere; None = not looked at.
    """

    root: Path
    keys: tuple[str, ...]
    label_N: np.ndarray
    strays: tuple[str, ...] = ()
    sizes_bytes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @functools.cached_property
    def identity(self) -> str:
        """Digest of the keys and of what tells each image from another."""
        stamps = [[key, *self.stamp(row)] for row, key in enumerate(self.keys)]
        return sha256(json.dumps(stamps).encode("utf-8", "surrogateescape")).hex()

    def read(self, row: int) -> bytes:
        """The bytes of one image's file. Raises: FileNotFoundError: it is a link to nowhere."""
        return (self.root / self.keys[row]).read_bytes()

    def pixels(self, row: int) -> np.ndarray:
        """Return uint8 RGB (H, W, 3). Raises: ImageError, FileNotFoundError: there are none."""
        return decode_rgb(self.read(row))

    def stamp(self, row: int) -> tuple[int, ...]:
        """What, with its key, tells an image from another: the size of its file, -1 of a link to nowhere."""
        if self.sizes_bytes is not None:
            return (int(self.sizes_bytes[row]),)
        path = self.root / self.keys[row]
        return (path.stat().st_size if path.is_file() else -1,)

    def subset(self, rows: Sequence[int], layout: str) -> "Images":
        """Only some of the images. layout: what is expected, for the message. Raises: UserError: none is left."""
        if not len(rows):
            raise UserError(f"none of the {len(self)} images of {self.root} can be used. Expected: {layout}")
        return replace(
            self,
            keys=tuple(self.keys[row] for row in rows),
            label_N=self.label_N[np.asarray(rows)],
            sizes_bytes=None if self.sizes_bytes is None else self.sizes_bytes[np.asarray(rows)],
        )


@dataclass(frozen=True)
class ArrayImages:
    """Images in memory. image_NHWC: uint8 RGB (N, H, W, 3). label_N: int64 (N,), class of each."""

    image_NHWC: np.ndarray
    label_N: np.ndarray

    def __len__(self) -> int:
        return len(self.image_NHWC)

    @functools.cached_property
    def keys(self) -> Sequence[str]:
        """Their numbers."""
        return [str(row) for row in range(len(self))]

    @functools.cached_property
    def identity(self) -> str:
        """Digest of all pixels."""
        return sha256(np.ascontiguousarray(self.image_NHWC).tobytes()).hex()

    def pixels(self, row: int) -> np.ndarray:
        """Return uint8 RGB (H, W, 3)."""
        return self.image_NHWC[row]


def open_split(data: str | Path, split: str) -> DatasetIndex:
    """List train or val of an evaluation's data.

    Args: data: a folder that holds train/ and val/ with one folder per class, or "sample". split: "train" or "val".
    Returns: the index, labels = ranks of the class folders.
    Raises: UserError when a folder is missing or has no classes.
    """
    if str(data) == "sample":
        return open_index("sample", root=None, split=split)
    return open_class_folders(Path(data) / split)


def open_class_folders(folder: Path) -> DatasetIndex:
    """List a folder of class folders.

    Args: folder: holds one folder per class. Returns: the index, labels = ranks of the class folders.
    Raises: UserError when it is missing, empty, or holds images outside of class folders.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Expected {LAYOUT}.")
    index = open_index("folder", root=folder)
    if not index.class_names:
        stray = next((key for key in index.keys if "/" not in key), "none")
        raise UserError(f"{folder} has images outside of class folders (e.g. {stray}). Expected {LAYOUT}.")
    return index


def strays_beside(index: DatasetIndex) -> list[str]:
    """Return the files below an index's folder that are none of its images, relative to that, sorted."""
    known = set(index.keys)
    return [
        name
        for name in files_below(index.root).names
        if name not in known and not name.rpartition("/")[2].lower().startswith(_EXPECTED_STRAYS)
    ]


def images_of_index(index: DatasetIndex, label_N: np.ndarray) -> Images:
    """Return an index's images. Args: label_N: int64 (N,), class of each."""
    return Images(index.root, tuple(index.keys), label_N, sizes_bytes=index.sizes_bytes)


def labels_as(index: DatasetIndex, class_names: tuple[str, ...]) -> np.ndarray:
    """Return an index's labels as ranks in another list of classes; classes are matched by name.

    Args: index: rows with labels into `index.class_names`. class_names: the classes to count in (the training set's).
    Returns: int64 (N,). Raises: UserError when a class is not among them.
    """
    used = {index.class_names[label] for label in np.unique(index.labels)}
    unknown = sorted(used - set(class_names))
    if unknown:
        raise UserError(
            f"{index.root} has classes that the training images do not have: {', '.join(unknown[:5])}"
            f"{' ...' if len(unknown) > 5 else ''}. Expected {LAYOUT}; they have: {', '.join(class_names[:20])}."
        )
    rank = {name: number for number, name in enumerate(class_names)}
    return np.array([rank[index.class_names[label]] for label in index.labels], dtype=np.int64)


def wnid_folders(folder: Path, layout: str) -> Images:
    """List a folder of one folder per WordNet id; labels are ranks among all 1,000 ids, whichever folders are there.

    Args: folder: with the class folders; stray files beside them are left out. layout: what is expected, for messages.
    Raises: UserError: it is missing, or holds no class folder.
    """
    return class_folders(folder, CLASS_OF_WNID, layout)


def class_folders(folder: Path, class_of_folder: Mapping[str, int], layout: str) -> Images:
    """List a folder of class folders whose names are known; a class never depends on which folders are there.

    Args: folder: with the class folders. class_of_folder: class of each name. layout: what is expected, for messages.
    Raises: UserError: it is missing, or no class folder in it holds an image.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}. Expected: {layout}")
    found, strays = _sorted_out(files_below(folder), class_of_folder)
    if not found:
        example = f"{next(iter(class_of_folder))!r}"
        raise UserError(f"{folder} holds no image in a folder of a class, such as {example}. Expected: {layout}")
    return Images(
        folder,
        tuple(f"{first}/{name}" for first, name, _ in found),
        np.array([class_of_folder[first] for first, _, _ in found], dtype=np.int64),
        tuple(name for name in strays if not name.lower().startswith(_EXPECTED_STRAYS)),
        np.array([size_bytes for _, _, size_bytes in found], dtype=np.int64),
    )


def _sorted_out(tree: Tree, class_of_folder: Mapping[str, int]) -> tuple[list[tuple[str, str, int]], list[str]]:
    """Return the images of a tree, each as (class folder, name, size), folder by folder, and what else lies there.

    Of a folder that is none of a class the name alone is told, also within the folder of a class.
    """
    found: list[tuple[str, str, int]] = []
    beside: set[str] = set()
    within: set[tuple[str, str]] = set()
    for name, size_bytes in [*((name, None) for name in tree.folders[1:]), *tree.files()]:
        first, _, rest = name.partition("/")
        if first not in class_of_folder or (size_bytes is not None and not rest):
            beside.add(first)
        elif size_bytes is not None and "/" not in rest and os.path.splitext(rest)[1].lower() in IMAGE_SUFFIXES:
            found.append((first, rest, size_bytes))
        elif rest:
            within.add((first, rest.partition("/")[0]))
    return sorted(found), [*sorted(beside), *map("/".join, sorted(within))]
