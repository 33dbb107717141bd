"""What decides the content of a store, as one digest; and a log, beside the store, of what does not.

Identity: a dictionary of plain JSON values (data set digest, detector and its weights, threshold, fill, encodings,
algorithm versions). Two builds of equal identity may resume one another; a difference is refused by name. Numbers
that are not whole are written as decimal strings, so that no JSON library's rounding can change the digest.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

# What may move a bit of a detector's output from machine to machine: logged with every build, not part of the identity.
LOGGED_PACKAGES = ("backdrop-ssl", "numpy", "Pillow", "opencv-python-headless", "numba", "torch", "zstandard")

ROOT = Path(__file__).resolve().parents[2]


def canonical_json(value: object) -> bytes:
    """Write plain JSON values in the one form that digests are taken of: sorted keys, no spaces, ASCII, a newline.

    Args:
        value: dict, list, tuple, str, int, float, bool or None, nested; floats become their shortest decimal string.
    """
    return (json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True) + "\n").encode()


def identity_digest(identity: Mapping[str, object]) -> str:
    """SHA-256 (hex) of the canonical JSON of an identity."""
    return hashlib.sha256(canonical_json(identity)).hexdigest()


def plain_identity(identity: Mapping[str, object]) -> dict:
    """The identity as it reads after a round trip through canonical JSON; what is stored and compared."""
    return json.loads(canonical_json(identity))


def differing_fields(ours: Mapping[str, object], theirs: Mapping[str, object], prefix: str = "") -> list[str]:
    """Name every field in which two identities differ, one line each: "detector.name: 'rbd' here, 'mc' there"."""
    lines = []
    for name in sorted({*ours, *theirs}):
        left, right = ours.get(name, "absent"), theirs.get(name, "absent")
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += differing_fields(left, right, f"{prefix}{name}.")
        elif left != right:
            lines.append(f"{prefix}{name}: {left!r} here, {right!r} there")
    return lines


def log_path(store: Path) -> Path:
    """The log of a store's builds: beside the store, never in it, so that equal stores are equal byte for byte."""
    return store.parent / f"{store.name}.build.jsonl"


def log_event(store: Path, event: str, /, **details: object) -> None:
    """Append one line to the log of a store's builds: what happened, when, where, with which versions."""
    line = {"event": event, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "host": platform.node(), **details}
    with open(log_path(store), "ab") as log:  # one write of one line: concurrent builders interleave whole lines
        log.write((json.dumps(line, sort_keys=True, default=str) + "\n").encode())


def environment() -> dict[str, object]:
    """Versions and machine, for the log."""
    return {
        "versions": {name: version_of(name) for name in LOGGED_PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "num_cores": os.cpu_count(),
    }


def version_of(package: str) -> str | None:
    """Return the version of an installed package, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """Return the code's commit, with "+" when files differ from it; "unknown" outside a git checkout of ours."""
    if not (ROOT / ".git").exists():  # an installation inside somebody's own checkout would get that one's
        return "unknown"
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if status else "")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return repr(value)
    if value is None or isinstance(value, (str, bool, int)):
        return value
    raise TypeError(f"{type(value).__name__} has no place in an identity: {value!r}")
