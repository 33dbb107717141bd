"""Ways to run the parts of a build; a file's name is the engine's name on the command line."""

from typing import Any

from backdrop.open_sets import OpenSet

ENGINES: OpenSet[Any] = OpenSet("engines", __name__, __path__)
NAMES = ENGINES.built_in()
