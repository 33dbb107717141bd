"""libjpeg-turbo, which decodes every JPEG of a .beton: the system's own library, by its TurboJPEG names."""

import ctypes
import ctypes.util

from backdrop.errors import UserError

# Its name on Linux since 2011; elsewhere the linker's own search knows it.
_NAME = "libturbojpeg.so.0"
_INSTALL = "apt-get install libturbojpeg0 (Fedora: dnf install turbojpeg; macOS: brew install jpeg-turbo)"
# Since version 2.0 of 2018 a decoder says what was wrong with its own image.
_NEWEST_USED = "tjGetErrorStr2"


def load() -> ctypes.CDLL:
    """Return the library; UserError where there is none, or one that is too old."""
    library = _found()
    if library is None:
        raise UserError(f"libjpeg-turbo, with which the images of a .beton are decoded, is not installed: {_INSTALL}")
    if not hasattr(library, _NEWEST_USED):
        raise UserError(f"libjpeg-turbo is older than version 2.0, which decodes the images of a .beton: {_INSTALL}")
    return library


def _found() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(_NAME)
    except OSError:
        other = ctypes.util.find_library("turbojpeg")
    return None if other is None else ctypes.CDLL(other)
