"""Turns a disk's refusals into messages that say what to do."""

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backdrop.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
NOT_ALLOWED = (errno.EACCES, errno.EPERM)


@contextmanager
def disk_errors(path: Path, next_step: str = "give another place with --out") -> Iterator[None]:
    """Around writing below `path`: a full disk and a place that cannot be written become `UserError`.

    Args:
        path: where is written.
        next_step: what to do where it cannot be.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise UserError(
                f"the disk that holds {path} is full ({error.strerror}); what was finished is kept. "
                "Free space, then give the same command again: it resumes."
            ) from error
        if error.errno in NOT_WRITABLE:
            raise UserError(f"{path} cannot be written ({error.strerror}); {next_step}") from error
        raise


def too_many_open_files() -> UserError:
    """Return the error of a process, or of one of its workers, that may not open one file more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UserError(
        f"too many open files: this shell allows {soft} to a process; raise that with 'ulimit -n {min(hard, 4096)}' "
        "(where it refuses, have the machine's owner raise it), then give the same command again"
    )


def check_open_files(needed: int) -> None:
    """Refuse work early where a process may not open that many files more. Raises: UserError."""
    descriptors = Path("/proc/self/fd")
    num_open = len(list(descriptors.iterdir())) if descriptors.is_dir() else 0
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < num_open + needed:
        raise too_many_open_files()


@contextmanager
def closed_folders() -> Iterator[None]:
    """Around a whole command: a folder that may not even be looked into becomes `UserError`, wherever it is met.

    So does a limit of open files that is reached, which can happen wherever one is opened.
    """
    try:
        yield
    except OSError as error:
        if error.errno in TOO_MANY_FILES:
            raise too_many_open_files() from error
        if error.errno not in NOT_ALLOWED or error.filename is None:
            raise
        raise UserError(
            f"{error.filename} cannot be read or written ({error.strerror}); give another place, or have its owner "
            "change the permissions"
        ) from error
