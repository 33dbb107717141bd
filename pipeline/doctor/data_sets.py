"""Findings about the data: the folder that BACKDROP_DATA names, its data sets, and some of their files.

A data set of millions of files is not listed, which takes minutes: some of its folders and files are looked at.
"""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from backdrop.data_folders import ROOT_VARIABLE, all_data, data_folder
from backdrop.errors import ImageError
from backdrop.pipeline.doctor.finding import Finding
from backdrop.stores.datasets import DATASETS
from backdrop.stores.indexes.dataset_index import SUFFIXES

# Files whose names are looked at, in each split; of them, those that are decoded.
LOOKED_AT, DECODED = 2000, 16
# One that is larger is not decoded here: the sample takes a second for all data sets of a machine.
DECODED_BYTES = 10_000_000
# Pictures by their names, which no data set takes.
_OTHER_PICTURES = (".bmp", ".gif", ".tif", ".tiff", ".heic", ".avif", ".jp2")
_MAX_NAMED = 3
# Data sets whose images are in files of these.
_PACKED = {"tar": (".tar",), "huggingface": (".parquet", ".arrow")}


def data_sets() -> list[Finding]:
    """Look at BACKDROP_DATA and at every data set in it: a finding for the folder, and one a split."""
    root = os.environ.get(ROOT_VARIABLE)
    if not root:
        to_do = f"export {ROOT_VARIABLE}=FOLDER, with a folder for each data set; or give --root to each command"
        return [Finding(subject=ROOT_VARIABLE, state="note", found="not set", to_do=to_do)]
    if not Path(root).is_dir():
        to_do = f"mount it or make it, or set {ROOT_VARIABLE} to another folder"
        return [Finding(subject=ROOT_VARIABLE, state="problem", found=f"{root} is no folder", to_do=to_do)]
    if not os.access(root, os.R_OK | os.X_OK):
        to_do = "have its owner change the permissions"
        return [Finding(subject=ROOT_VARIABLE, state="problem", found=f"{root} cannot be read", to_do=to_do)]
    names = [path.name for path in all_data()]
    known = [name for name in names if name in DATASETS.names()]
    found = f"{root}: {', '.join(names) or 'no folder in it'}"
    if not known:
        to_do = (
            f"a data set's folder has its name: {', '.join(DATASETS.names())}; another tree: --dataset folder --root"
        )
        return [Finding(subject=ROOT_VARIABLE, state="note", found=found, to_do=to_do)]
    first = Finding(subject=ROOT_VARIABLE, state="ok", found=found)
    return [first, *(finding for name in known for finding in _of_data_set(name))]


def _of_data_set(name: str) -> Iterator[Finding]:
    root, member = data_folder(name), DATASETS.load(name)
    assert root is not None, "data_sets looks only where BACKDROP_DATA is set"
    if name in _PACKED:
        yield packed(name, root)
        return
    by_folder = {member.images(root, split): split for split in member.SPLITS or ("all",)}
    there = [folder for folder in by_folder if folder.is_dir()]
    if not there:
        to_do = f"expected there: {member.LAYOUT}; {member.SOURCE}"
        yield Finding(subject=name, state="problem", found=f"{root} has none of its splits", to_do=to_do)
    for folder in there:
        yield sampled(f"{name} {by_folder[folder]}" if len(by_folder) > 1 else name, folder)


def packed(name: str, root: Path) -> Finding:
    """Count the files that hold the images of a data set. Args: name: of `_PACKED`. root: its folder."""
    suffixes = _PACKED[name]
    num = sum(path.suffix in suffixes for path in islice(root.rglob("*"), LOOKED_AT))
    kinds = " or ".join(suffixes)
    if not num:
        to_do = f"expected there: {DATASETS.load(name).LAYOUT}"
        return Finding(subject=name, state="problem", found=f"no {kinds} file in {root}", to_do=to_do)
    found = f"{num} {kinds} file{'s' if num > 1 else ''}; build-store looks into them"
    return Finding(subject=name, state="ok", found=found)


def sampled(subject: str, folder: Path) -> Finding:
    """Look at some of the files below a folder: names, sizes, and whether a few of them can be decoded.

    Args: subject: of the finding. folder: the images of a data set's split.
    """
    try:
        names = list(islice(_files_below(folder), LOOKED_AT))
    except PermissionError as error:
        to_do = "have its owner change the permissions"
        return Finding(subject=subject, state="problem", found=f"{error.filename} cannot be read", to_do=to_do)
    images = [path for path in names if path.suffix.lower() in SUFFIXES]
    if not images:
        to_do = f"images end with {', '.join(SUFFIXES)}: unpack them there, or convert them"
        return Finding(subject=subject, state="problem", found=f"no image in {folder}", to_do=to_do)
    looked_into = images[:: max(1, len(images) // DECODED)][:DECODED]
    odd: dict[str, list[Path]] = {}
    for path in names:
        if reason := _oddity(path, is_decoded=path in looked_into):
            odd.setdefault(reason, []).append(path)
    found = f"{len(images):,} image{'s' if len(images) > 1 else ''} looked at, {len(looked_into)} of them decoded"
    if len(names) == LOOKED_AT:
        found = f"of many files {found}"
    if not odd:
        return Finding(subject=subject, state="ok", found=found)
    said = "; ".join(f"{len(paths)} {reason}: {_named(paths, folder)}" for reason, paths in odd.items())
    to_do = "replace or convert them; a row whose image cannot be decoded gets no mask, and is said so"
    return Finding(subject=subject, state="note", found=f"{found}; odd: {said}", to_do=to_do)


def _files_below(folder: Path) -> Iterator[Path]:
    """Files of a tree: an even choice of its folders' first ones, so that no folder of many fills the sample."""
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    folders = [entry.path for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    files = [Path(entry.path) for entry in entries if not entry.is_dir() and not entry.name.startswith(".")]
    yield from files
    share = max(1, LOOKED_AT // max(1, len(folders)))
    for below in folders[:: max(1, len(folders) // LOOKED_AT)]:
        yield from islice(_files_below(Path(below)), share)


def _oddity(path: Path, *, is_decoded: bool) -> str:
    """What is wrong with a file, "" where nothing is. Args: is_decoded: whether to read it too."""
    if path.suffix.lower() in _OTHER_PICTURES:
        return "of a format that is passed over"
    if path.suffix.lower() not in SUFFIXES:
        return ""
    try:
        size = path.stat().st_size
        if size == 0:
            return "empty"
        data = path.read_bytes() if is_decoded and size <= DECODED_BYTES else None
    except FileNotFoundError:
        return "a link to nowhere"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if data is None else _oddity_of_content(data)


def _oddity_of_content(data: bytes) -> str:
    from backdrop.stores.images.image_codec import decode_rgb  # NumPy and Pillow

    try:
        decode_rgb(data)
    except ImageError as error:
        return str(error)
    return ""


def _named(paths: list[Path], folder: Path) -> str:
    """The first few by their keys."""
    names = [path.relative_to(folder).as_posix() for path in paths[:_MAX_NAMED]]
    return ", ".join(names) + (" ..." if len(paths) > _MAX_NAMED else "")
