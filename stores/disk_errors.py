"""Turns a disk's refusals into messages that say what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stores.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Around writing below `path`: a full disk and a place that cannot be written become `UserError`."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise UserError(
                f"the disk that holds {path} is full ({error.strerror}); what was finished is kept. "
                "Free space, then give the same command again: it resumes."
            ) from error
        if error.errno in NOT_WRITABLE:
            raise UserError(f"{path} cannot be written ({error.strerror}); give another place with --out") from error
        raise
