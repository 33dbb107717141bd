"""Files that are there whole or not at all."""

import os
from pathlib import Path


def write_aside(path: Path, content: bytes) -> None:
    """Write a file beside its place, make it durable, and rename it into place.

    Args:
        path: of the file; its folder must exist.
        content: all of it.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
