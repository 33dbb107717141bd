"""Background augmentations (Ryali et al. 2021, section 2.2); a file's name is its name on the command line."""

from typing import Any

from backdrop.open_sets import OpenSet

BACKGROUNDS: OpenSet[Any] = OpenSet("backgrounds", __name__, __path__)
NAMES = BACKGROUNDS.built_in()
