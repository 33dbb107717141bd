"""Errors a user can cause: one class to catch at the command line, two that name the kind of data at fault."""


class UserError(Exception):
    """Something the user gave is wrong; the message says what was given, what is allowed and what to do next."""


class CorruptStore(UserError):
    """Bytes of a store do not match what the store says of them."""


class ImageError(UserError):
    """An image file that cannot be decoded; the message is the reason."""
