"""COCO 2017: a class is the category of the image's largest instance; without the annotations there are none."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from backdrop.errors import UserError
from backdrop.stores.indexes.dataset_index import Listing, images_in

LAYOUT = "{split}2017/*.jpg (and annotations/instances_{split}2017.json for the classes)"
SOURCE = "cocodataset.org, the images and annotations of 2017"
SPLITS: tuple[str, ...] = ("train", "val", "test", "unlabeled")
ARGUMENT = ""
DEFAULT_ROOT: Path | None = None


def images(root: Path, split: str) -> Path:
    """Return the split's folder."""
    return root / f"{split}2017"


def listing(root: Path, split: str, argument: str) -> Listing:
    """List the images. Raises: UserError: annotations that are none."""
    annotations = root / "annotations" / f"instances_{split}2017.json"
    class_of, class_names = _coco_classes(annotations) if annotations.exists() else ({}, ())
    found = tuple(images_in(images(root, split), ""))
    return Listing(found=found, class_of=lambda key: class_of.get(key, -1), class_names=class_names)


def categories_in_images(annotations: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return which categories are in each image, crowds included.

    Args: annotations: an instances file of COCO.
    Returns: bool (N, L), images in the order of their file names, which is that of a store's rows, and the category
        names in order of their ids. Raises: UserError: it is no such file.
    """
    with _reading(annotations):
        content = json.loads(annotations.read_bytes())
        categories = sorted((category["id"], category["name"]) for category in content["categories"])
        rank = {category: number for number, (category, _) in enumerate(categories)}
        row_of = {name: row for row, name in enumerate(sorted(image["file_name"] for image in content["images"]))}
        row_of_id = {image["id"]: row_of[image["file_name"]] for image in content["images"]}
        is_in_NL = np.zeros((len(row_of), len(rank)), dtype=bool)
        for instance in content["annotations"]:
            is_in_NL[row_of_id[instance["image_id"]], rank[instance["category_id"]]] = True
    return is_in_NL, tuple(name for _, name in categories)


@contextmanager
def _reading(annotations: Path) -> Iterator[None]:
    """Say that a file is none of COCO's where reading it fails."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{annotations} is not a COCO instances file ({type(error).__name__}: {error}); put the original file "
            "there, or remove it to index the images without classes"
        ) from error


def _coco_classes(annotations: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    """File name -> rank of the category of the image's largest instance (by area; crowds are no instances).

    Returns:
        The map (images without an instance are absent) and the category names in order of their ids.
    """
    with _reading(annotations):
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
    return labels, tuple(name for _, name in categories)
