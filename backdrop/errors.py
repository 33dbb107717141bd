"""Errors a user can cause: one class to catch at the command line, the others name what is at fault."""

import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path


class UserError(Exception):
    """Something the user gave is wrong; the message says what was given, what is allowed and what to do next."""


def printable(text: str) -> str:
    """Return a text with what a terminal would obey written out: names of files and tensors may hold anything."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def sentence(text: str) -> str:
    """Return the text of an error as it is shown: printable, and of what was given no more than can be read."""
    return re.sub(r"\S{600,}", lambda found: f"{found[0][:200]}...{found[0][-100:]}", printable(text))


def program() -> str:
    """Return what a command begins with here: `backdrop` where that was called or is installed, else `python cli.py`.

    Messages say it before a command that is to be given next.
    """
    called = Path(sys.argv[0]).name if sys.argv else ""
    if called in ("backdrop", "cli.py"):
        return "backdrop" if called == "backdrop" else "python cli.py"
    # Called from elsewhere, such as a notebook: only a checkout has a cli.py beside the package.
    return "python cli.py" if (Path(__file__).parent.parent / "cli.py").is_file() else "backdrop"


def did_you_mean(given: str, allowed: Sequence[str], *, prefix: str = "") -> str:
    """Return a sentence with the nearest allowed name, a space before it; "" where none is near.

    Args: given: what is not allowed. allowed: the names. prefix: said before the name.
    """
    near = get_close_matches(given, allowed, n=1)
    return f" Did you mean {prefix}{near[0]}?" if near else ""


class CorruptStore(UserError):
    """Bytes of a store do not match what the store says of them."""


class StorageUnreachable(UserError):
    """A shared store's storage gives no answer: the network or the server is down, or its folder is not mounted."""


class ImageError(UserError):
    """An image file that cannot be decoded; the message is the reason."""


class PartsFailed(UserError):
    """Some parts of a store could not be computed; all others are done.

    Args:
        message: for the user.
        reasons: number of a part -> why it failed.
    """

    def __init__(self, message: str, reasons: dict[int, str]) -> None:
        super().__init__(message)
        self.reasons = reasons

    def __reduce__(self):
        return PartsFailed, (str(self), self.reasons)
