"""ImageNet-1k (ILSVRC2012): a class is the rank of its WordNet id among the 1,000."""

from pathlib import Path

from backdrop.stores.indexes.dataset_index import Listing, images_of
from backdrop.stores.indexes.imagenet_classes import WNIDS, class_of_wnid
from backdrop.stores.indexes.kept_trees import files_below

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
    tree = files_below(images(root, split))
    class_of = {wnid: class_of_wnid(wnid) for wnid in tree.folders if wnid and "/" not in wnid and wnid[0] != "."}
    found = [(key, size_bytes) for key, size_bytes in images_of(tree) if key.count("/") == 1]
    return Listing(found=found, class_of=lambda key: class_of[key.partition("/")[0]], class_names=WNIDS)
