"""ImageNet-1k (ILSVRC2012): a class is the rank of its WordNet id among the 1,000."""

import os
from pathlib import Path

from backdrop.stores.indexes.dataset_index import Listing, images_in
from backdrop.stores.indexes.imagenet_classes import WNIDS, class_of_wnid

LAYOUT = (
    "{split}/<wnid>/*.JPEG (one folder per class, e.g. {split}/n01440764/; images of val sorted into such folders too)"
)
SOURCE = "image-net.org, ILSVRC2012, after registration"
SPLITS: tuple[str, ...] = ("train", "val")
ARGUMENT = ""
DEFAULT_ROOT: Path | None = None


def images(root: Path, split: str) -> Path:
    """Return the split's folder."""
    return root / split


def listing(root: Path, split: str, argument: str) -> Listing:
    """List the images of the class folders. Raises: UserError: a folder that is no class of the 1,000."""
    folder = images(root, split)
    wnids = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    class_of = {wnid: class_of_wnid(wnid) for wnid in wnids}
    found = [image for wnid in wnids for image in images_in(folder / wnid, wnid + "/")]
    return Listing(found=found, class_of=lambda key: class_of[key.partition("/")[0]], class_names=WNIDS)
