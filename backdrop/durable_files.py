"""Files that are there whole or not at all: written aside, made durable, renamed into place."""

import ctypes
import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# How files being written end: ".<name>.<random>.partial" here, "<name>.partial" where the next attempt replaces them.
PARTIAL = ".partial"


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Give a path to write to, in the same folder; at the end it is made durable and takes the place of `path`.

    Nothing is left where the body raises; a kill leaves a hidden file that ends in `PARTIAL`. The name is random, so
    that processes of several hosts may write the same file: one of them wins.

    Args:
        path: of the file; its folder must exist.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        yield aside
        sync(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    sync(path.parent)


def write_aside(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all.

    Args:
        path: of the file; its folder must exist.
        content: all of it; text becomes UTF-8.
    """
    with written_aside(path) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)


def sync_all(folder: Path) -> None:
    """Have all that was written to the file system of `folder` on disk: one wait, where `sync` waits for each file."""
    system_call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if system_call is None:  # not Linux
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if system_call(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Have a file's content, or a folder's list of names, on disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock that goes with this process, however it ends; without one where the file system has none."""
    with open(file, "ab") as handle:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
