"""libjpeg-turbo, which decodes every JPEG of a .beton: the system's own library, by its TurboJPEG names."""

import ctypes
import ctypes.util

from backdrop.errors import UserError

# Its name on Linux since 2011; elsewhere the linker's own search knows it.
_NAME = "libturbojpeg.so.0"


def load() -> ctypes.CDLL:
    """Return the library; UserError where there is none."""
    try:
        return ctypes.CDLL(_NAME)
    except OSError:
        other = ctypes.util.find_library("turbojpeg")
    if other is None:
        raise UserError(
            "libjpeg-turbo, with which the images of a .beton are decoded, is not installed: apt-get install "
            "libturbojpeg0 (Fedora: dnf install turbojpeg; macOS: brew install jpeg-turbo)"
        )
    return ctypes.CDLL(other)
