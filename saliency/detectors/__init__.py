"""Detectors: a file says which names, or names of which form, it serves; `open_detector` goes through the files.

| file         | serves                                                                                        |
|--------------|-----------------------------------------------------------------------------------------------|
| `classical`  | the files of `saliency/classical`, by their names; no training                                |
| `found`      | `found:WEIGHTS[,HEAD]`, `found:RUN`: FOUND on the features of a ViT with published weights       |
| `lost`       | `lost:WEIGHTS`, on the features of a ViT with published self-supervised weights                 |
| `maskcut`    | `maskcut:WEIGHTS`, likewise: several objects                                                    |
| `masks`      | `masks:DIR`, 8-bit maps made elsewhere                                                        |
| `run_folder` | the run folder of a finished `saliency train`; `RUN:crf`, `RUN:no-crf` say whether a CRF ends |
| `selfmask`   | `selfmask:WEIGHTS,...`, a vote among several networks with published self-supervised weights   |
| `tokencut`   | `tokencut:WEIGHTS`, on the features of a ViT with published self-supervised weights             |

Members are imported for --help: NumPy, torch and their like are imported by `open` alone.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from backdrop.errors import UserError, did_you_mean
from backdrop.open_sets import OpenSet

if TYPE_CHECKING:
    from backdrop.saliency.detector import Detector


class DetectorFile(Protocol):
    """What a file of `saliency/detectors/`, or a plug-in of the set `detectors`, provides."""

    HELP: str
    """What to give as --detector, and what it then is: a line of --help and of messages."""

    def names(self) -> tuple[str, ...]:
        """Return every name it serves; () where they are without end, as `masks:DIR` is."""

    def serves(self, name: str) -> bool:
        """Tell whether a name is for this file to open, if only to say what is wrong with it; may look at the disk."""

    def open(self, name: str, device: str | None) -> "Detector":
        """Open a detector.

        Args: name: one that it serves. device: torch device; None = the GPU where there is one. For those that use one.
        Raises: UserError: what the name means is missing, unfinished or damaged.
        """


DETECTORS: OpenSet[DetectorFile] = OpenSet("detectors", __name__, __path__, contract=DetectorFile)
NAMES = DETECTORS.built_in()


def detector_names() -> tuple[str, ...]:
    """Return the names that detectors are given by, those of plug-ins last; names without end are not among them."""
    return tuple(name for _, file in _files() for name in file.names())


def detector_help() -> str:
    """Return what may be given as --detector, in a sentence."""
    return f"Finds the foreground: {'; '.join(file.HELP for _, file in _files())}."


def open_detector(name: str, *, device: str | None = None) -> "Detector":
    """Open the detector of a name.

    Args:
        name: one of `detector_names`, or of a form that a file serves. A listed name comes first, so that no folder of
            that name can take its place; then the project's own files, then plug-ins.
        device: torch device on which a trained detector runs, None = the GPU where there is one; the others ignore it.

    Raises:
        UserError: there is no such detector, two plug-ins serve it, or it cannot be opened.
    """
    return find(name).open(name, device)


def find(name: str) -> DetectorFile:
    """Return the file that serves a detector's name.

    Raises: UserError: none does, or two do.
    """
    files = dict(_files())
    listing = [member for member, file in files.items() if name in file.names()]
    serving = listing or [member for member, file in files.items() if file.serves(name)]
    if not serving:
        raise UserError(_unknown(name))
    # A listed name is one file's; a form, such as a folder's path, of the project's own files first.
    if len(serving) > 1 and (listing or serving[0] not in NAMES):
        raise UserError(f"detector {name!r} is served by {' and '.join(serving)}: rename it in the plug-in")
    return files[serving[0]]


def _files() -> Iterator[tuple[str, DetectorFile]]:
    """Members with their names, the project's own first."""
    for member in (*NAMES, *(name for name in DETECTORS.names() if name not in NAMES)):
        yield member, DETECTORS.load(member)


def _unknown(name: str) -> str:
    meant = did_you_mean(name, detector_names())
    lines = "".join(f"\n  {file.HELP}" for _, file in _files())
    return f"no detector {name!r}.{meant} Allowed:{lines}\nOne of your own is given with --plugin FILE.py"
