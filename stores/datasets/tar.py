"""Images in tar files, as WebDataset's shards are or any other: `--dataset tar --root FOLDER`.

The key of an image is its shard and its name there: `train-0001.tar/000417.jpg`. Its class is the number in the `.cls`
file of the same name, as WebDataset has it; where no image has one, the rank of the folder that it lies in within its
shard. Shards are read where they are: nothing is unpacked, and a row is found by its shard's headers.
"""

import functools
import os
import tarfile
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from backdrop.errors import UserError
from backdrop.stores.indexes.dataset_index import SUFFIXES, FoundImage, Listing

LAYOUT = "{split}/*.tar with .jpg, .jpeg, .png or .webp images in them, and perhaps .cls files beside these"
SOURCE = "your own shards, such as WebDataset's"
SPLITS: tuple[str, ...] = ()
ARGUMENT = ""
DEFAULT_ROOT: Path | None = None

_SHARD = ".tar"
_CLASS_SUFFIX = ".cls"
_MOST_DIGITS = 40


def images(root: Path, split: str) -> Path:
    """Return the split's folder."""
    return root / split


def archive(root: Path, split: str) -> "TarShards":
    """Return the shards of a split."""
    return TarShards(images(root, split))


def listing(root: Path, split: str, argument: str) -> Listing:
    """List the images of all shards.

    Raises: UserError: a shard is damaged, two images of it have one name, or a class is no number.
    """
    folder = images(root, split)
    found: list[FoundImage] = []
    class_of: dict[str, int] = {}
    for shard in sorted(folder.glob(f"*{_SHARD}")):
        members = _members(shard)
        for name, (_, num_bytes) in members.items():
            if not name.lower().endswith(SUFFIXES):
                continue
            key = f"{shard.name}/{name}"
            found.append((key, num_bytes))
            cls = str(PurePosixPath(name).with_suffix(_CLASS_SUFFIX))
            if cls in members:
                class_of[key] = _number(_bytes_of(shard, cls), f"{shard}: {cls}")
    shards = archive(root, split)
    if class_of:
        return Listing(found=found, class_of=lambda key: class_of.get(key, -1), class_names=(), archive=shards)
    folders = {key: PurePosixPath(key).parent.name for key, _ in found if key.count("/") > 1}
    names = tuple(sorted(set(folders.values()))) if len(folders) == len(found) else ()
    rank = {name: number for number, name in enumerate(names)}
    return Listing(
        found=found, class_of=lambda key: rank.get(folders.get(key, ""), -1), class_names=names, archive=shards
    )


@dataclass(frozen=True)
class TarShards:
    """The shards of a folder; picklable. folder: that they lie in."""

    folder: Path

    def read(self, key: str) -> bytes:
        """The bytes of an image. Raises: UserError: its shard is gone, damaged or another one now."""
        shard, _, name = key.partition("/")
        return _bytes_of(self.folder / shard, name)


def _bytes_of(shard: Path, name: str) -> bytes:
    members = _members(shard)
    if name not in members:
        raise UserError(f"{shard} has no {name} any more: put back the shard that the data set was listed with")
    offset, num_bytes = members[name]
    with shard.open("rb") as file:
        return os.pread(file.fileno(), num_bytes, offset)


@functools.lru_cache(maxsize=16)
def _members(shard: Path) -> dict[str, tuple[int, int]]:
    """Name -> where its bytes begin in the shard, and how many they are; of plain files."""
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            end = shard.stat().st_size
            for member in filter(tarfile.TarInfo.isfile, tar):
                _check_member(shard, member, members, end)
                members[member.name] = member.offset_data, member.size
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{shard} cannot be read as a tar file: {error}. Shards are not compressed.") from error
    return members


def _check_member(shard: Path, member: tarfile.TarInfo, others: Container[str], end: int) -> None:
    """Refuse what cannot be read by its place in the shard. Args: others: names before it. end: of the shard, bytes."""
    if member.name in others:
        raise UserError(f"{shard} holds {member.name} twice: give every image a name of its own")
    if member.issparse() or not 0 <= member.size <= end - member.offset_data:
        what = "is kept with holes" if member.issparse() else f"should have {member.size:,} bytes, which are not there"
        raise UserError(f"{shard} cannot be read as a tar file: its {member.name} {what}. Write the shard again")


def _number(data: bytes, where: str) -> int:
    text = data[:_MOST_DIGITS].decode("ascii", "replace").strip()
    if len(data) > _MOST_DIGITS or not text.isdecimal() or int(text) > 2**31 - 1:
        raise UserError(f"{where} says {text[:40]!r}: a class is a number, 0 or more")
    return int(text)
