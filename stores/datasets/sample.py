"""The data set that needs no download: drawn by `stores/drawn_sample`; a class is the rank of the class folder."""

from pathlib import Path

from backdrop.data_folders import ARTIFACTS
from backdrop.errors import UserError
from backdrop.stores.datasets import folder
from backdrop.stores.indexes.dataset_index import Listing

LAYOUT = "{split}/<class>/*.jpg and sample.json"
SOURCE = "drawn here by build-store --dataset sample, or by demo"
SPLITS: tuple[str, ...] = ("train", "val")
ARGUMENT = ""
DEFAULT_ROOT: Path | None = ARTIFACTS / "sample"
RECORD = "sample.json"  # its settings, written last


def images(root: Path, split: str) -> Path:
    """Return the split's folder."""
    return root / split


def listing(root: Path, split: str, argument: str) -> Listing:
    """List the pictures. Raises: UserError: the folder holds something else."""
    if not (root / RECORD).exists():
        raise UserError(f"{root} holds no {RECORD}, hence something other than the sample data set; {SOURCE}")
    return folder.tree(images(root, split))
