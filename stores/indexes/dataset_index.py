"""A folder of images as an ordered list of rows: the order every store, export and loader of it shares.

| data set   | layout below its folder                                           | class                            |
|------------|-------------------------------------------------------------------|----------------------------------|
| `imagenet` | `{train,val}/<wnid>/*.JPEG`                                       | rank of the wnid among the 1,000 |
| `coco`     | `{train,val}2017/*.jpg`, `annotations/instances_{split}2017.json` | category of the largest instance |
| `sample`   | `{train,val}/<class>/*.jpg`; drawn at first use                   | rank of the class folder         |
| others     | any tree of images                                                | rank of the path's first folder  |
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import zstandard

from backdrop.errors import UserError
from backdrop.stores.indexes.imagenet_classes import WNIDS, class_of_wnid
from backdrop.stores.indexes.key_table import compress_keys, decompress_keys

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
ROOT_VARIABLE = "BACKDROP_DATA"
SAMPLE_ROOT = Path("artifacts/sample")
EXPECTED = {
    "imagenet": "{split}/<wnid>/*.JPEG (one folder per class, e.g. {split}/n01440764/; images of val sorted into such "
    "folders too)",
    "coco": "{split}2017/*.jpg (and annotations/instances_{split}2017.json for the classes)",
    "sample": "{split}/<class>/*.jpg",
}
EXPECTED_ELSEWHERE = "any tree of .jpg, .jpeg, .png or .webp images"

# What a scan yields before sorting: (key, size in bytes).
FoundImage = tuple[str, int]


@dataclass(frozen=True, eq=False)
class DatasetIndex:
    """The rows of one split of a data set. Row i is keys[i]; only `root` depends on where the images lie."""

    dataset: str
    split: str
    root: Path
    """Folder that the keys are relative to (the split's own folder where the layout has one)."""
    keys: Sequence[str]
    """Sorted paths with forward slashes."""
    labels: np.ndarray
    """int32 (N,), -1 = no class."""
    sizes_bytes: np.ndarray
    """int64 (N,), size of each file when it was listed."""
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over keys, labels and sizes: the same for every copy of the data set."""
        digest = hashlib.sha256(f"backdrop index 1\n{len(self)}\n".encode())
        digest.update("\0".join(self.keys).encode("utf-8", "surrogateescape"))
        digest.update(self.labels.astype("<i4").tobytes())
        digest.update(self.sizes_bytes.astype("<i8").tobytes())
        return digest.hexdigest()

    def __reduce__(self) -> tuple:
        # Every worker of a build gets a pickle: 9 MB for ImageNet so, 59 MB as strings.
        arrays = (zstandard.compress(values.tobytes(), 1) for values in (self.labels, self.sizes_bytes))
        content = (self.dataset, self.split, self.root, len(self), compress_keys(self.keys), *arrays)
        return _unpickled, (*content, self.class_names, self.digest)

    def path(self, row: int) -> Path:
        """Where the image of `row` lies."""
        return self.root / self.keys[row]

    def read(self, row: int) -> bytes:
        """The bytes of the image file of `row`. Raises OSError as `open` does."""
        return self.path(row).read_bytes()


def _unpickled(
    dataset: str, split: str, root: Path, num_rows: int, keys: bytes, labels: bytes, sizes_bytes: bytes,
    class_names: tuple[str, ...], digest: str,
) -> DatasetIndex:  # fmt: skip
    index = DatasetIndex(
        dataset, split, root, decompress_keys(keys, num_rows), np.frombuffer(zstandard.decompress(labels), np.int32),
        np.frombuffer(zstandard.decompress(sizes_bytes), np.int64), class_names,
    )  # fmt: skip
    index.__dict__["digest"] = digest  # where cached_property keeps it
    return index


def open_index(dataset: str, *, root: Path | None, split: str = "train") -> DatasetIndex:
    """List the images of one split of a data set.

    Args:
        dataset: "imagenet", "coco", "sample", "folder", or any other name (laid out as "folder", found by that name).
        root: the data set's folder; None = $BACKDROP_DATA/<dataset>, and artifacts/sample for the sample where that
            variable is not set.
        split: "train" or "val"; the layouts without splits only record it.

    Raises:
        UserError: no such folder, no image in it, a class folder that is no ImageNet class; the message gives the
            expected layout.
    """
    for given, what in ((dataset, "data set"), (split, "split")):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", given):
            raise UserError(f"{given!r} is no name of a {what}: letters, digits, '.', '_' and '-' only")
    folder = _dataset_folder(dataset, root, split)
    if dataset == "sample":
        from backdrop.stores.drawn_sample.sample_dataset import (
            draw_if_absent,  # needs scikit-image and OpenCV, as no other data set does
        )

        draw_if_absent(folder)
    index = {"imagenet": _imagenet, "coco": _coco}.get(dataset, _folder)(dataset, folder, split)
    if not len(index):
        raise UserError(f"no image found in {index.root}; {_expectation(dataset, split)}")
    return index


def image_folder(dataset: str, *, root: Path | None, split: str = "train") -> Path:
    """The folder that the keys of a data set's split are relative to; nothing in it is looked at.

    Args:
        dataset, root, split: as `open_index` takes them.

    Raises:
        UserError: there is no such folder.
    """
    return _image_folder(dataset, _dataset_folder(dataset, root, split), split)


def _dataset_folder(dataset: str, root: Path | None, split: str) -> Path:
    if root is not None:
        return Path(root)
    data = os.environ.get(ROOT_VARIABLE)
    if data:
        return Path(data) / dataset
    if dataset == "sample":
        return SAMPLE_ROOT
    raise UserError(f"no folder was given for data set {dataset!r}; {_expectation(dataset, split)}")


def _expectation(dataset: str, split: str) -> str:
    layout = EXPECTED.get(dataset, EXPECTED_ELSEWHERE).format(split=split)
    return (
        f"expected below the folder of data set {dataset!r}: {layout}. "
        f"Pass that folder with --root, or set {ROOT_VARIABLE} so that it is {ROOT_VARIABLE}/{dataset}"
    )


def _image_folder(dataset: str, folder: Path, split: str) -> Path:
    below = {"imagenet": split, "coco": f"{split}2017", "sample": split}.get(dataset, "")
    return _existing(folder / below, dataset, split)


def _existing(folder: Path, dataset: str, split: str) -> Path:
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {problem}; {_expectation(dataset, split)}")
    return folder


def _imagenet(dataset: str, folder: Path, split: str) -> DatasetIndex:
    root = _image_folder(dataset, folder, split)
    wnids = [entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")]
    class_of = {wnid: class_of_wnid(wnid) for wnid in wnids}
    found = [image for wnid in wnids for image in _images_in(root / wnid, wnid + "/")]
    return _index(dataset, split, root, found, lambda key: class_of[key.partition("/")[0]], WNIDS)


def _coco(dataset: str, folder: Path, split: str) -> DatasetIndex:
    root = _image_folder(dataset, folder, split)
    annotations = folder / "annotations" / f"instances_{split}2017.json"
    class_of, class_names = _coco_classes(annotations) if annotations.exists() else ({}, ())
    return _index(dataset, split, root, list(_images_in(root, "")), lambda key: class_of.get(key, -1), class_names)


def _folder(dataset: str, folder: Path, split: str) -> DatasetIndex:
    root = _image_folder(dataset, folder, split)
    found = list(_images_below(root, "", set()))
    has_classes = all("/" in key for key, _ in found)
    class_names = tuple(sorted({key.partition("/")[0] for key, _ in found})) if has_classes else ()
    rank = {name: number for number, name in enumerate(class_names)}
    return _index(dataset, split, root, found, lambda key: rank.get(key.partition("/")[0], -1), class_names)


def _index(dataset, split, root, found: list[FoundImage], class_of, class_names) -> DatasetIndex:
    found.sort()
    keys = tuple(key for key, _ in found)
    labels = np.fromiter((class_of(key) for key in keys), np.int32, len(keys))
    sizes_bytes = np.fromiter((size for _, size in found), np.int64, len(keys))
    return DatasetIndex(dataset, split, root, keys, labels, sizes_bytes, tuple(class_names))


def _is_image(entry: os.DirEntry) -> bool:
    return entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".") and not entry.is_dir()


def _size_bytes(entry: os.DirEntry) -> int:
    """Size of the file; 0 for a dangling link, whose row then says that it cannot be read."""
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0


def _images_in(folder: Path, prefix: str) -> Iterator[FoundImage]:
    """The images of one folder, keys with `prefix`."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_image(entry):
                yield prefix + entry.name, _size_bytes(entry)


def _images_below(folder: Path, prefix: str, above: set[tuple[int, int]]) -> Iterator[FoundImage]:
    """The images of a whole tree; hidden folders are left out, and a link to a folder above itself is not followed."""
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    yield from _images_in(folder, prefix)
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    for name in names:
        yield from _images_below(folder / name, f"{prefix}{name}/", above | {identity})


def _coco_classes(annotations: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    """File name -> rank of the category of the image's largest instance (by area; crowds are no instances).

    Returns:
        The map (images without an instance are absent) and the category names in order of their ids.
    """
    try:
        content = json.loads(annotations.read_bytes())
        categories = sorted((category["id"], category["name"]) for category in content["categories"])
        rank = {category: number for number, (category, _) in enumerate(categories)}
        largest: dict[int, tuple[float, int, int]] = {}
        for instance in content["annotations"]:
            if instance.get("iscrowd", 0):
                continue
            candidate = (instance["area"], -instance["id"], rank[instance["category_id"]])
            image = instance["image_id"]
            largest[image] = max(largest.get(image, candidate), candidate)
        labels = {image["file_name"]: largest[image["id"]][2] for image in content["images"] if image["id"] in largest}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{annotations} is not a COCO instances file ({type(error).__name__}: {error}); put the original file "
            "there, or remove it to index the images without classes"
        ) from error
    return labels, tuple(name for _, name in categories)
