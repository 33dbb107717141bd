"""How maps in a folder are named after their images: `x.png`, or all `x.jpg.png`, `x_mask.png`, `x.PNG`."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from backdrop.stores.indexes.dataset_index import SUFFIXES

USUAL_SUFFIX = ".png"
# What may stand between the image's stem and the suffix.
_TAILS = ("_mask", "-mask", "_gt", "_saliency", "_segmentation", "_matte")
# Of files that may be maps; as written, in any case of letters.
_SUFFIXES = (*SUFFIXES, ".bmp", ".gif")


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How all maps of a folder are named. tail: behind the stem. is_whole_name: behind `x.jpg`, not behind `x`."""

    tail: str = ""
    suffix: str = USUAL_SUFFIX
    is_whole_name: bool = False

    def map_of(self, key: PurePosixPath) -> PurePosixPath:
        """Return the path of an image's map. Args: key: of the image."""
        return key.with_name((key.name if self.is_whole_name else key.stem) + self.tail + self.suffix)

    def fits(self, name: str) -> bool:
        """Tell whether a file may be so named."""
        stem = name.removesuffix(self.suffix)
        return stem != name and (
            stem.lower().endswith(SUFFIXES) if self.is_whole_name else stem.endswith(self.tail) and stem != self.tail
        )


USUAL = Naming()


def naming_of(folder: Path) -> Naming:
    """Find the one way in which all maps of a folder are named.

    Where any file ends in .png only those are maps: the others may be the images themselves. The walk ends at the first
    .png that is named as usual.

    Args: folder: any tree.
    Returns: `USUAL` where there is no one other way.
    """
    others: set[str] = set()
    special: list[Naming] | None = None
    for name in _names(folder):
        suffix = os.path.splitext(name)[1]
        if suffix == USUAL_SUFFIX:
            special = [naming for naming in special or _special(suffix) if naming.fits(name)]
            if not special:
                return USUAL
        elif suffix.lower() in _SUFFIXES:
            others.add(suffix)
    if special:
        return special[0]
    likely = [suffix for suffix in others if suffix.lower() == USUAL_SUFFIX] or list(others)
    if len(likely) != 1:
        return USUAL
    (suffix,) = likely
    named = [naming for naming in _special(suffix) if all(map(naming.fits, _names(folder, suffix)))]
    return named[0] if named else Naming(suffix=suffix)


def _special(suffix: str) -> list[Naming]:
    return [Naming(suffix=suffix, is_whole_name=True), *(Naming(tail=tail, suffix=suffix) for tail in _TAILS)]


def _names(folder: Path, suffix: str = "") -> Iterator[str]:
    """Names of the files of a tree, of one suffix or of all."""
    for _, _, names in os.walk(folder):
        yield from (name for name in names if name.endswith(suffix))
