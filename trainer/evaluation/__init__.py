"""Evaluations; a file's name, with hyphens, is its name on the command line."""

from typing import Any

from backdrop.open_sets import OpenSet

EVALUATIONS: OpenSet[Any] = OpenSet("evaluations", __name__, __path__, hyphens=True)
NAMES = EVALUATIONS.built_in()
