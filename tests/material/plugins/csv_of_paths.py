"""Images that ROOT/labels.csv names, a path and a label a line."""

import csv

from backdrop.errors import UserError
from backdrop.stores.indexes.dataset_index import Listing

BACKDROP_SET = "datasets"
LAYOUT = "labels.csv (lines: some/where.png,label) and the images that it names"
SOURCE = "a colleague"
SPLITS = ()
ARGUMENT = ""
DEFAULT_ROOT = None


def images(root, split):
    """Return the folder that the paths are relative to."""
    return root


def listing(root, split, argument):
    """List what the file names."""
    if not (root / "labels.csv").is_file():
        raise UserError(f"there is no {root / 'labels.csv'}. Expected: {LAYOUT}")
    label_of = dict(csv.reader((root / "labels.csv").read_text().splitlines()))
    names = tuple(sorted(set(label_of.values())))
    return Listing(
        found=tuple((key, (root / key).stat().st_size) for key in label_of),
        class_of=lambda key: names.index(label_of[key]),
        class_names=names,
    )
