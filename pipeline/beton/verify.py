"""Checking a .beton: every file of it, its size, and in full its digest."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from backdrop.errors import UserError
from backdrop.pipeline.beton.reader import files_of, open_beton
from backdrop.progress import stage_bar


def problems_of_beton(beton: Path, *, full: bool) -> Iterator[str]:
    """Yield what is wrong with a .beton, in a sentence each.

    Args: beton: a file, or a folder of shards. full: compare the SHA-256 of each file; else sizes and the table of
        records alone.
    """
    try:
        sidecar = open_beton(beton).sidecar
    except UserError as error:
        yield str(error)
        return
    files = files_of(beton, sidecar) if full else []
    with stage_bar(total=sum(size for _, size, _ in files), unit="B", stage=f"verify {beton.name}") as bar:
        for path, size, sha256 in files:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    yield f"{path} is damaged; remove it, and export again, which writes it alone"
            bar.update(size)
