"""The plug-ins of tests/material/plugins, a file of each kind, copied to where a user's own would lie."""

import shutil
from pathlib import Path

_PLUGINS = Path(__file__).parent / "plugins"


def copied(name: str, folder: Path) -> Path:
    """Copy a plug-in's file into a folder, which is made. Args: name: without .py."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(_PLUGINS / f"{name}.py", folder))
