"""Image bytes to pixels and back: the one decoder of the whole project.

Every part that looks at an image (detectors, backgrounds, export, evaluation) decodes it here, so that a mask always
has the height and width of the pixels it is laid over. Names of arrays carry their axes: `H` rows, `W` columns, `C`
channels.
"""

import hashlib
import io
import struct
import threading
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from backdrop.errors import ImageError

# Decoding 178 Mpx takes half a gigabyte; no photograph of the supported data sets comes near (Pillow's own limit).
MAX_PIXELS = 178_956_970
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
EXIF_ORIENTATION = 0x0112
JPEG_MAX_SIDE_PX = 65_500

# warnings.catch_warnings swaps state of the whole process; two threads inside it at once would leave it changed.
_warnings_lock = threading.Lock()


@dataclass(frozen=True)
class JpegHeader:
    """What a JPEG says of itself before its first scan; height and width before `orientation` turns them."""

    height: int
    width: int
    is_baseline: bool
    num_components: int
    orientation: int


def sha256(data: bytes) -> bytes:
    """The 32-byte SHA-256 digest of `data`."""
    return hashlib.sha256(data).digest()


def decode_rgb(data: bytes, *, least_side_px: int = 0) -> np.ndarray:
    """Decode an image file to RGB.

    Grey is replicated, a palette looked up, CMYK converted, 16 bits scaled to 8, alpha dropped (the colours under it
    are kept), the first frame of an animation taken, and the EXIF orientation applied.

    Args:
        data: bytes of a JPEG, PNG, WebP, BMP or GIF file.
        least_side_px: for a picture of the image alone: a JPEG is decoded 2, 4 or 8 times smaller, which is faster,
            where no side falls below so many pixels; 0 = as large as it is.

    Returns:
        image_HWC, uint8 RGB, contiguous and writable.

    Raises:
        ImageError: not an image, truncated, damaged, or larger than `MAX_PIXELS`; the message is the reason and holds
            nothing (address, path) that differs between two runs.
    """
    return _decode(data, "RGB", least_side_px)


def decode_grey(data: bytes) -> np.ndarray:
    """Decode an image file to grey_HW uint8 (masks, soft maps); 1 bit becomes 0 or 255. Raises as `decode_rgb`."""
    return _decode(data, "L")


def decode_alpha(data: bytes) -> np.ndarray | None:
    """Decode the opacity alone: alpha_HW uint8, 255 = opaque; None where the file has none. Raises as `decode_rgb`."""
    with_alpha = _decode(data, "RGBA")
    return None if with_alpha.ndim == 2 else with_alpha[..., 3]


def decode_numbers(data: bytes) -> np.ndarray:
    """Decode what the file holds, not what it looks like: of a palette the entries' numbers, 16 bits as they are.

    Args: data: as `decode_rgb` takes it.
    Returns: numbers_HW or numbers_HWC, uint8 or int32; of an image with colours or alpha its colours.
    Raises: ImageError: as `decode_rgb`.
    """
    return _decode(data, "numbers")


def encode_jpeg(image_HWC: np.ndarray, quality: int = 90) -> bytes:
    """Encode as a baseline JPEG with 4:2:0 chroma.

    Args:
        image_HWC: uint8 RGB.
        quality: 1 to 95, as libjpeg counts it.

    Raises:
        ImageError: a side is longer than the JPEG format allows.
    """
    assert image_HWC.dtype == np.uint8, image_HWC.dtype
    assert image_HWC.ndim == 3, image_HWC.shape
    height, width = image_HWC.shape[:2]
    if max(height, width) > JPEG_MAX_SIDE_PX or min(height, width) < 1:
        raise ImageError(f"{width} x {height} px cannot be a JPEG (sides of 1 to {JPEG_MAX_SIDE_PX} px)")
    out = io.BytesIO()
    Image.fromarray(image_HWC).save(out, "JPEG", quality=quality, subsampling="4:2:0")
    return out.getvalue()


def jpeg_header(data: bytes) -> JpegHeader | None:
    """Read size, coding process and orientation from the markers of a JPEG without decoding it.

    Returns:
        The header, or None when `data` is not a JPEG or ends before its frame header.
    """
    if data[:2] != b"\xff\xd8":
        return None
    frame, orientation = None, 1
    for marker, start, end in _jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and end - start >= 6 and frame is None:
            frame = (marker, *struct.unpack_from(">BHHB", data, start))
        if marker == 0xE1 and data[start : start + 6] == b"Exif\0\0" and orientation == 1:
            orientation = _orientation_in_exif(data[start + 6 : end])
    if frame is None or 0 in frame[2:4]:
        return None
    marker, bits, height, width, num_components = frame
    return JpegHeader(height, width, marker == 0xC0 and bits == 8, num_components, orientation)


def _jpeg_segments(data: bytes):
    """Yield (marker, start, end) of the payload of every segment before the first scan."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xDA or marker == 0xD9:
            return
        length = struct.unpack_from(">H", data, at + 2)[0]
        yield marker, at + 4, min(at + 2 + length, len(data))
        at += 2 + length


def _orientation_in_exif(exif: bytes) -> int:
    """The orientation (1 to 8) in a TIFF-structured EXIF block; 1 where it is absent or makes no sense."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 10:
        return 1
    at = struct.unpack_from(order + "I", exif, 4)[0]
    if at + 2 > len(exif):
        return 1
    for entry in range(struct.unpack_from(order + "H", exif, at)[0]):
        begin = at + 2 + 12 * entry
        if begin + 12 > len(exif):
            return 1
        tag, kind = struct.unpack_from(order + "HH", exif, begin)
        if tag == EXIF_ORIENTATION:
            value = struct.unpack_from(order + ("I" if kind == 4 else "H"), exif, begin + 8)[0]
            return value if 1 <= value <= 8 else 1
    return 1


def _decode(data: bytes, mode: str, least_side_px: int = 0) -> np.ndarray:
    image = _open(data)
    try:
        if least_side_px:
            image.draft(None, (least_side_px, least_side_px))
        image.load()
        pixels = np.array(_as_mode(image, mode))
    except MemoryError:
        raise
    except Exception as error:  # a decoder fed damaged bytes raises nearly anything; each is one unreadable image
        raise ImageError(_reason(error)) from error
    return np.ascontiguousarray(_turn(pixels, _orientation(image, data)))


def _open(data: bytes) -> Image.Image:
    """Read the header only, and refuse what must not be decoded."""
    if not data:
        raise ImageError("the file is empty")
    try:
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:  # its own message holds the address of the buffer
        raise ImageError(
            f"not an image file of a known format ({', '.join(FORMATS)}), or its header is damaged"
        ) from error
    except Exception as error:
        raise ImageError(_reason(error)) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width} x {height} px is more than {MAX_PIXELS // 10**6} Mpx")
    if width * height == 0:
        raise ImageError("the image has no pixels")
    return image


def _reason(error: Exception) -> str:
    return f"cannot be decoded: {str(error) or type(error).__name__}"


def _as_mode(image: Image.Image, mode: str) -> Image.Image | np.ndarray:
    """Bring every pixel format to `mode`: "RGB", "L", "RGBA" (grey of zeros without alpha) or "numbers"."""
    if mode == "numbers":
        return np.asarray(image) if image.mode in ("P", "L") or image.mode.startswith("I") else _as_mode(image, "RGB")
    if mode == "RGBA":
        has_alpha = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
        return image.convert("RGBA") if has_alpha else np.zeros((image.height, image.width), np.uint8)
    if image.mode.startswith("I"):  # 16-bit grey; Pillow itself would clip it to 0..255
        values = np.clip(np.asarray(image).astype(np.int64), 0, 65_535)
        grey_HW = ((values + 128) // 257).astype(np.uint8)
        return grey_HW if mode == "L" else np.repeat(grey_HW[..., None], 3, axis=2)
    if image.mode in ("P", "PA"):  # through RGBA: a palette with transparency makes Pillow warn on the direct way
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "RGBX", "CMYK"):
        image = image.convert("RGB")
    if image.mode in ("LA", "La", "1"):
        image = image.convert("L")
    return image if image.mode == mode else image.convert(mode)


def _orientation(image: Image.Image, data: bytes) -> int:
    header = jpeg_header(data)
    if header is not None:
        return header.orientation
    exif = image.info.get("exif", b"")
    return _orientation_in_exif(exif.removeprefix(b"Exif\0\0")) if isinstance(exif, bytes) else 1


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the camera's rotation; `orientation` as in the EXIF standard (tag 0x0112)."""
    swap = (1, 0, 2)[: pixels.ndim]
    if orientation >= 5:
        pixels = pixels.transpose(swap)  # 5 is the transpose itself; 6, 7 and 8 are flips of it
    flip_rows = orientation in (3, 4, 7, 8)
    flip_columns = orientation in (2, 3, 6, 7)
    return pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
