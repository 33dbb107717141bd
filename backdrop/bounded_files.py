"""Files that may be anybody's: read only if they are plain files of no more than the size they may have.

Without this a folder copied from elsewhere could make a reader wait for ever (a pipe under the name of an array), or
fill memory (a sparse file of a terabyte).
"""

import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

from backdrop.errors import CorruptStore, UserError

# What a run, a detector or an evaluation says of itself has some kilobytes.
MAX_JSON_BYTES = 64 << 20


def open_plain(file: Path) -> BufferedReader:
    """Open a file for reading, without waiting for anything.

    Raises:
        OSError: it is not there, or may not be read.
        CorruptStore: it is a folder, a pipe or a device.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CorruptStore(f"{file} is no plain file")
    return open(descriptor, "rb")


def read_bounded(file: Path, max_bytes: int) -> bytes:
    """Read a whole file of at most `max_bytes`. Raises as `open_plain`, and CorruptStore where it is larger."""
    with open_plain(file) as opened:
        num_bytes = os.fstat(opened.fileno()).st_size
        if num_bytes > max_bytes:
            raise CorruptStore(f"{file} is damaged: it has {num_bytes} bytes, and no more than {max_bytes} make sense")
        return opened.read(max_bytes)


def read_json_object(file: Path, next_step: str) -> dict[str, Any]:
    """Read a JSON object from a file that may be anybody's.

    Args: file: where it is. next_step: what to do where it is none.
    Raises: UserError: it cannot be read, or is no JSON object.
    """
    try:
        content = json.loads(read_bounded(file, MAX_JSON_BYTES))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); {next_step}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid JSON ({error}); {next_step}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no JSON object; {next_step}")
    return content
