"""Where a store is: a folder of this machine, or the URL of a published one."""

from pathlib import Path


def place_of(given: Path | str) -> Path | str:
    """Return a folder as a Path and a URL as a str. Args: given: s3://bucket/prefix, file:///folder, or a path."""
    return str(given) if "://" in str(given) else Path(given)
