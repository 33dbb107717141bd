"""What a file of an evaluation states of its data where it has nothing to say: `needed_beside = nothing_beside`."""

from pathlib import Path
from typing import Any


def nothing_beside(data: Path, options: object) -> list[Path]:
    """Return no file: the images are all that is needed."""
    return []


def no_facts(data: Path, options: object) -> dict[str, Any]:
    """Return no fact: the folder's path is all that is known of the data without reading them."""
    return {}


def no_problems(data: Path, options: object) -> list[str]:
    """Return no problem: what is odd about the data is found while they are scored."""
    return []
