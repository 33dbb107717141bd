"""Named settings; a file's name is the recipe's name on the command line.

A file provides `settings(method, background, with_cast) -> RunSettings`; its docstring says which table it reproduces.
"""

from typing import Any

from backdrop.open_sets import OpenSet

RECIPES: OpenSet[Any] = OpenSet("recipes", __name__, __path__)
NAMES = RECIPES.built_in()
