"""COCO 2017: a class is the category of the image's largest instance; without the annotations there are none."""

import json
from pathlib import Path

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
