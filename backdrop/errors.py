"""Errors a user can cause: one class to catch at the command line, the others name what is at fault."""


class UserError(Exception):
    """Something the user gave is wrong; the message says what was given, what is allowed and what to do next."""


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
