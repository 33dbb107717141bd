"""Any tree of images; a class is the rank of the path's first folder, where every image lies in one."""

from pathlib import Path

from backdrop.stores.indexes.dataset_index import FoundImage, Listing, images_below

LAYOUT = "any tree of .jpg, .jpeg, .png or .webp images"
SOURCE = "your own images"
SPLITS: tuple[str, ...] = ()  # it only records what it is told
ARGUMENT = ""
DEFAULT_ROOT: Path | None = None


def images(root: Path, split: str) -> Path:
    """Return the folder itself."""
    return root


def listing(root: Path, split: str, argument: str) -> Listing:
    """List the images of the tree."""
    return tree(images(root, split))


def tree(folder: Path) -> Listing:
    """List the images of a tree, its first folders as classes. Args: folder: the tree's, which is there."""
    return with_classes(tuple(images_below(folder)))


def with_classes(found: tuple[FoundImage, ...]) -> Listing:
    """Return images with the first folders of their keys as classes, where every one has such a folder."""
    has_classes = all("/" in key for key, _ in found)
    class_names = tuple(sorted({key.partition("/")[0] for key, _ in found})) if has_classes else ()
    rank = {name: number for number, name in enumerate(class_names)}
    return Listing(found=found, class_of=lambda key: rank.get(key.partition("/")[0], -1), class_names=class_names)
