"""Images in Hugging Face's formats: a folder of parquet files, as the Hub has them, or one of `save_to_disk`.

Read through the package `datasets` (`pip install 'backdrop-ssl[huggingface]'`), which keeps parquet files as Arrow in
its own cache (HF_DATASETS_CACHE). The key of an image is the number of its row: `000000417.jpg`. Its class is the
column of type ClassLabel, or an integer column `label`.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backdrop.errors import UserError
from backdrop.stores.indexes.dataset_index import SUFFIXES, Listing

LAYOUT = "{split}-*.parquet in any folder, or what datasets' save_to_disk wrote: {split}/ or all of it, with state.json"
SOURCE = "huggingface.co/datasets, or your own"
SPLITS: tuple[str, ...] = ()
ARGUMENT = ""
DEFAULT_ROOT: Path | None = None

_OTHER_SUFFIX = ".jpg"


def images(root: Path, split: str) -> Path:
    """Return the folder itself."""
    return root


def archive(root: Path, split: str) -> "HuggingFaceRows":
    """Return the rows of a split."""
    return HuggingFaceRows(root, split)


def listing(root: Path, split: str, argument: str) -> Listing:
    """List the rows of a split.

    Raises: UserError: the package is missing, there is no such split, no column of images, or one that holds paths.
    """
    import pyarrow.compute as compute

    rows, image, label = _opened(root, split)
    column = rows.data.column(image).combine_chunks()
    sizes = compute.binary_length(compute.struct_field(column, "bytes")).to_pylist()
    if None in sizes:
        raise UserError(
            f"row {sizes.index(None)} of {root} holds a path in place of an image: embed the images "
            "(save_to_disk and push_to_hub do), or build from the folder that they lie in"
        )
    paths = compute.struct_field(column, "path").to_pylist()
    keys = [f"{row:09d}{_suffix(path)}" for row, path in enumerate(paths)]
    classes = [-1] * len(keys) if label is None else _classes(rows, label)
    names = getattr(rows.features[label], "names", None) if label is not None else None
    class_of = dict(zip(keys, classes, strict=True))
    return Listing(
        found=list(zip(keys, sizes, strict=True)),
        class_of=lambda key: class_of[key],
        class_names=tuple(names or ()),
        archive=archive(root, split),
    )


@dataclass(frozen=True)
class HuggingFaceRows:
    """The rows of a split; picklable. root: the data set's folder. split: its name."""

    root: Path
    split: str

    def read(self, key: str) -> bytes:
        """The bytes of an image as they were embedded."""
        rows, image, _ = _opened(self.root, self.split)
        return rows[int(Path(key).stem)][image]["bytes"]


@functools.lru_cache(maxsize=2)
def _opened(root: Path, split: str) -> tuple[Any, str, str | None]:
    """The rows with images as bytes, the column of the images, and that of the classes."""
    try:
        import datasets
    except ImportError as error:
        raise UserError("data set huggingface needs datasets: pip install 'backdrop-ssl[huggingface]'") from error
    saved = next((folder for folder in (root / split, root) if (folder / "state.json").is_file()), None)
    parquet = sorted(map(str, root.rglob(f"{split}-*.parquet")))
    if saved is None and not parquet:
        raise UserError(f"{root} holds neither {split}-*.parquet nor a split {split} that save_to_disk wrote")
    rows = datasets.load_from_disk(str(saved)) if saved else datasets.Dataset.from_parquet(parquet)
    of_images = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    if not of_images:
        raise UserError(f"{root}: no column of {', '.join(rows.features)} is of type Image")
    of_classes = [name for name, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)]
    of_classes += [name for name, kind in rows.features.items() if name == "label" and "int" in str(kind.dtype)]
    # One chunk of memory-mapped Arrow per file: a row is read without its neighbours.
    return rows.cast_column(of_images[0], datasets.Image(decode=False)), of_images[0], next(iter(of_classes), None)


def _classes(rows: Any, label: str) -> list[int]:
    return [-1 if value is None else int(value) for value in rows.data.column(label).to_pylist()]


def _suffix(path: str | None) -> str:
    suffix = Path(path).suffix.lower() if path else ""
    return suffix if suffix in SUFFIXES else _OTHER_SUFFIX
