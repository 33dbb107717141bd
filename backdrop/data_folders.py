"""Where things lie unless a command is told.

Each data set lies in its own folder below the one that BACKDROP_DATA names; results lie below `artifacts`.
"""

import os
from pathlib import Path

ROOT_VARIABLE = "BACKDROP_DATA"
# Below the folder that a command is given in.
ARTIFACTS = Path("artifacts")


def data_folder(name: str) -> Path | None:
    """Return the folder of a data set or of an evaluation's data.

    Args: name: what its folder is called. Returns: $BACKDROP_DATA/<name>; None where the variable is not set.
    """
    root = os.environ.get(ROOT_VARIABLE)
    return Path(root) / name if root else None


def all_data() -> list[Path]:
    """Return every folder below $BACKDROP_DATA, by name; none where the variable is not set."""
    root = os.environ.get(ROOT_VARIABLE)
    return sorted(path for path in Path(root).iterdir() if path.is_dir()) if root and Path(root).is_dir() else []
