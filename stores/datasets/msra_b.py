"""MSRA-B (Liu et al. 2011), 5,000 images, on which DeepUSPS2 learns without labels; laid out as `folder`."""

from backdrop.stores.datasets.folder import DEFAULT_ROOT, LAYOUT, SPLITS, images, listing

__all__ = ["ARGUMENT", "DEFAULT_ROOT", "LAYOUT", "SOURCE", "SPLITS", "images", "listing"]

SOURCE = "the authors of Liu et al. 2011, Learning to Detect a Salient Object"
ARGUMENT = ""
