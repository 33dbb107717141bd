"""Data sets; a file's name is the data set's name on the command line, with hyphens for underscores.

| data set   | layout below its folder                                           | class                            |
|------------|-------------------------------------------------------------------|----------------------------------|
| `imagenet` | `{train,val}/<wnid>/*.JPEG`                                       | rank of the wnid among the 1,000 |
| `coco`     | `{train,val}2017/*.jpg`, `annotations/instances_{split}2017.json` | category of the largest instance |
| `sample`   | `{train,val}/<class>/*.jpg`; drawn by the command that takes it   | rank of the class folder         |
| `folder`   | any tree of images                                                | rank of the path's first folder  |
| `msra-b`   | as `folder`, without masks x.png beside x.jpg; with split lists   |                                  |
| `list`     | any tree; `list:FILE` names its images                            | as the list says                 |
| `tar`      | `{split}/*.tar`, WebDataset's shards or others                    | `.cls` files, or the folder      |
| `huggingface` | `{split}-*.parquet`, or a folder of `save_to_disk`             | the column that has it           |
"""

# A submodule is called `list`: here that name is not the built-in one.

import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from backdrop.data_folders import ARTIFACTS, ROOT_VARIABLE, data_folder
from backdrop.errors import UserError, program
from backdrop.open_sets import OpenSet
from backdrop.progress import note_default

if TYPE_CHECKING:
    from backdrop.stores.format.reader import Store
    from backdrop.stores.indexes.dataset_index import Archive, DatasetIndex, Listing


class DatasetFile(Protocol):
    """What the file of a data set provides."""

    @property
    def LAYOUT(self) -> str:
        """What lies below its folder, for messages; {split} stands for the split's name."""

    @property
    def SOURCE(self) -> str:
        """Where it comes from, for messages."""

    @property
    def SPLITS(self) -> tuple[str, ...]:
        """Those that it is published with, for messages; () = a split is a name that is recorded."""

    @property
    def ARGUMENT(self) -> str:
        """What stands after NAME: on the command line, for messages; "" = nothing may. A store records NAME alone."""

    @property
    def DEFAULT_ROOT(self) -> Path | None:
        """Its folder where neither --root nor BACKDROP_DATA says one; None = one of them has to."""

    def images(self, root: Path, split: str) -> Path:
        """Return the folder that keys are relative to, without looking at the disk.

        Args: root: the data set's folder. split: letters, digits, ".", "_" and "-".
        """

    def listing(self, root: Path, split: str, argument: str) -> "Listing":
        """List the images of a split.

        Args: root: the data set's folder. split: as above; images(root, split) is a folder that is there. argument:
            what was given after NAME:, "" unless ARGUMENT says what it is.
        Returns: their keys (paths below images(root, split), forward slashes, none twice), sizes and classes, all of
            which depend on the data set's content and not on where it lies.
        Raises: UserError: the content is not what LAYOUT says.
        """


DATASETS: OpenSet[DatasetFile] = OpenSet("datasets", __name__, __path__, contract=DatasetFile, hyphens=True)
NAMES = DATASETS.built_in()


def open_index(dataset: str, *, root: Path | str | None = None, split: str = "train") -> "DatasetIndex":
    """List the images of one split of a data set; nothing is written.

    Args:
        dataset: a member of `DATASETS`, with its argument where it takes one: list:FILE.csv.
        root: the data set's folder; None = $BACKDROP_DATA/<dataset>, else what the data set has for a default.
        split: "train" or "val"; the layouts without splits only record it.

    Raises:
        UserError: no such data set, no such folder, no image in it, another layout; the message gives the one expected.
    """
    from backdrop.stores.indexes.dataset_index import index_of  # NumPy, which listing the names does without

    name, argument = _split_name(dataset)
    member = DATASETS.load(name)
    if bool(argument) != bool(member.ARGUMENT):
        wanted = f"{name}:{member.ARGUMENT}" if member.ARGUMENT else name
        raise UserError(f"data set {dataset!r}: give {wanted}")
    folder = image_folder(name, root=root, split=split)
    rows = member.listing(dataset_folder(name, root, split), split, argument)
    if not rows.found:
        raise UserError(f"no image found in {folder}; {_expectation(name, split)}")
    return index_of(rows, dataset=name, split=split, root=folder)


def reopen_index(store: "Store", root: Path | None) -> "DatasetIndex":
    """List the images that a store was built from, as they are now.

    A store of a data set that takes an argument records the name alone; its rows say which images they were.

    Args: store: opened. root: the data set's folder, see `open_index`.
    Raises: UserError as `open_index`; an image of such a store is not there.
    """
    if not DATASETS.load(store.dataset).ARGUMENT:
        return open_index(store.dataset, root=root, split=store.split)
    from backdrop.stores.indexes.dataset_index import index_of
    from backdrop.stores.indexes.given_keys import listing_of_keys

    folder = image_folder(store.dataset, root=root, split=store.split)
    keys = tuple(store.key(row) for row in range(store.num_rows))
    labels = {key: int(label) for key, label in zip(keys, store.label, strict=True)}
    rows = listing_of_keys(folder, labels, (), named_by=str(store.path))
    return index_of(rows, dataset=store.dataset, split=store.split, root=folder)


def image_folder(dataset: str, *, root: Path | str | None, split: str = "train") -> Path:
    """Return the folder that the keys of a data set's split are relative to; nothing in it is looked at.

    Args: dataset, root, split: as `open_index` takes them.
    Raises: UserError: there is no such folder.
    """
    name, _ = _split_name(dataset)
    folder = DATASETS.load(name).images(dataset_folder(name, root, split), split)
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {problem}; {_expectation(name, split)}")
    return folder


def open_archive(dataset: str, *, root: Path | str | None, split: str = "train") -> "Archive | None":
    """Return where single images of a split are read by their keys, without listing it; None = they are files.

    A data set's file says so with a function `archive(root, split)`, which most do without.

    Args: dataset, root, split: as `open_index` takes them.
    """
    name, _ = _split_name(dataset)
    archive = getattr(DATASETS.load(name), "archive", None)
    return None if archive is None else archive(dataset_folder(name, root, split), split)


def dataset_folder(dataset: str, root: Path | str | None, split: str = "train") -> Path:
    """Return the folder of a data set, which need not be there.

    Args: dataset, root, split: as `open_index` takes them. Raises: UserError: nothing says where it lies.
    """
    name, _ = _split_name(dataset)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", split):
        raise UserError(f"{split!r} is no name of a split: letters, digits, '.', '_' and '-' only")
    folder = root or data_folder(name) or DATASETS.load(name).DEFAULT_ROOT
    if folder is None:
        raise UserError(f"no folder was given for data set {name!r}; {_expectation(name, split)}")
    return Path(folder)


def short_name(dataset: str) -> str:
    """Return what files of a data set are called: its name, and of an argument the file's name without a suffix."""
    name, argument = _split_name(dataset)
    return f"{name}-{Path(argument).stem}" if argument else name


def default_store(dataset: str, split: str) -> Path:
    """Return where the store of a data set's split lies unless --out or --store says otherwise."""
    return ARTIFACTS / f"{short_name(dataset)}-{split}.zarr"


def built_default_store(dataset: str, split: str) -> Path:
    """Return `default_store`, which is there, and say so.

    Raises: UserError: it was not built, with the command that does.
    """
    store = default_store(dataset, split)
    note_default("store", store, "the default of --store")
    if not store.exists():
        raise UserError(
            f"there is no store at {store}. Build it first: {program()} build-store --dataset {dataset}, "
            "or name another with --store."
        )
    return store


def _split_name(dataset: str) -> tuple[str, str]:
    name, _, argument = dataset.partition(":")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"{name!r} is no name of a data set: letters, digits, '.', '_' and '-' only")
    return name, argument


def _expectation(name: str, split: str) -> str:
    member = DATASETS.load(name)
    splits = f", splits {', '.join(member.SPLITS)}" if member.SPLITS else ""
    return (
        f"expected below the folder of data set {name!r}: {member.LAYOUT.replace('{split}', split)} "
        f"(from {member.SOURCE}{splits}). "
        f"Pass that folder with --root, or set {ROOT_VARIABLE} so that it is {ROOT_VARIABLE}/{name}"
    )
