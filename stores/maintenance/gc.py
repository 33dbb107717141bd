"""Removing what killed builds, merges, pulls and exports left beside a store; never what a live one is at, nor a part.

What is alive is told by age alone, which holds for builders on other hosts too: whoever is at work writes often.
"""

import glob
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from backdrop.disk_errors import disk_errors
from backdrop.durable_files import PARTIAL
from backdrop.errors import UserError
from backdrop.stores.format import schema
from backdrop.stores.format.writer import PLACE_TAKEN, staging_folder

# A part is staged and renamed within seconds; an hour is beyond any network file system and any clock that is a little
# off.
MIN_AGE_S = 3600.0
# What takes the place of ".zarr" in the names of exports that lie beside their store.
EXPORT_SUFFIXES = (".beton", ".h5", ".masks", ".coco.json", ".webdataset", ".parquet", ".foregrounds")
# What a killed publishing to a folder leaves of a file: its name with a number behind.
UNFINISHED_OBJECT = re.compile(r".+#\d+")


def gc(path: Path | str, *, dry_run: bool = False, min_age_s: float = MIN_AGE_S) -> dict:
    """Remove stages and half-written files that nobody has touched for a while.

    Stages (of parts, of pulls) lie in `<store>.staging`; half-written files and trees are those that end in ".partial"
    beside the store, named after it or its exports. Within it lie those of tools that write zarr, and of publishing
    where `path` is the folder of a file:// URL. Nothing is removed that a reader of the store could see.

    Args:
        path: the store's folder; the store itself may be gone, or not begun.
        dry_run: only say what would go.
        min_age_s: seconds since the last change of anything in a stage before it counts as left behind.

    Returns:
        store, dry_run, removed (path, bytes, age_s of each), kept (the same, of what is too young), freed_bytes.

    Raises:
        UserError: there is neither a store nor anything left of one, the age is negative, or files may not be removed.
    """
    path = Path(path)
    if min_age_s < 0:
        raise UserError(f"an age of {min_age_s} s; give 0 or more")
    staging = staging_folder(path)
    if not staging.is_dir() and not (path / schema.ROOT_METADATA).exists():
        raise UserError(f"{path} is not a store, and nothing was left beside it. Give the folder of a store.")
    now = time.time()
    # Of now, before anything is removed from it: a builder may have made it a moment ago and be about to use it.
    is_unused = staging.is_dir() and now - staging.stat().st_mtime >= min_age_s
    found = [_described(leftover, now) for leftover in _leftovers(path)]
    old = [item for item in found if item["age_s"] >= min_age_s]
    if not dry_run:
        with disk_errors(path, "have the owner of the files give this command"):
            _remove([Path(item["path"]) for item in old])
            if is_unused:
                _remove_unused(staging)
    return {
        "store": str(path),
        "dry_run": dry_run,
        "removed": old,
        "kept": [item for item in found if item["age_s"] < min_age_s],
        "freed_bytes": sum(item["bytes"] for item in old),
    }


def _leftovers(path: Path) -> Iterator[Path]:
    if staging_folder(path).is_dir():
        yield from sorted(staging_folder(path).iterdir())
    beside = (path.name, *(path.stem + suffix for suffix in EXPORT_SUFFIXES))
    names = [f"{dot}{glob.escape(name)}*{PARTIAL}" for name in beside for dot in ("", ".")]
    yield from sorted({file for name in names for file in path.parent.glob(name)})
    yield from sorted(path.with_suffix(".beton").glob(f"*{PARTIAL}"))  # of shards
    for file in sorted(_with_all_within(path)):
        if (file.name.endswith(PARTIAL) or UNFINISHED_OBJECT.fullmatch(file.name)) and file.is_file():
            yield file


def _described(leftover: Path, now: float) -> dict:
    """Size and age; the age is that of the youngest thing in a folder. Files that vanish meanwhile are let go."""
    num_bytes, youngest = 0, 0.0
    for file in _with_all_within(leftover):
        try:
            state = file.lstat()
        except FileNotFoundError:  # a live builder has just renamed or removed it
            continue
        youngest = max(youngest, state.st_mtime)
        num_bytes += 0 if stat.S_ISDIR(state.st_mode) else state.st_size
    return {"path": str(leftover), "bytes": num_bytes, "age_s": round(max(0.0, now - (youngest or now)), 1)}


def _with_all_within(path: Path) -> Iterator[Path]:
    yield path
    for folder, folders, files in os.walk(path):  # unlike rglob, goes on when a folder vanishes
        yield from (Path(folder) / name for name in (*folders, *files))


def _remove(leftovers: list[Path]) -> None:
    for leftover in leftovers:
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def _remove_unused(staging: Path) -> None:
    """Remove the staging folder itself, unless something is in it."""
    try:
        staging.rmdir()
    except OSError as error:
        if error.errno not in PLACE_TAKEN:
            raise
