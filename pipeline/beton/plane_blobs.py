"""Planes as the bytes of a blob: those of a JPEG, or of RGB pixels; and any blob's pixels, for pictures."""

import cv2
import numpy as np

from backdrop.errors import CorruptStore
from backdrop.pipeline.beton.plane_kernels import (
    SLACK_BYTES,
    Planes,
    close_decode_memory,
    decode_planes,
    is_stored,
    make_decode_memory,
    planes_of_rgb,
    store_planes,
    stored_bytes,
    stored_planes,
)
from backdrop.stores.images.image_codec import decode_rgb


def planes_blob(jpeg: bytes, size: tuple[int, int]) -> bytes:
    """Return the planes of a JPEG of (height, width) as a .beton stores them; b"" of none.

    Raises: CorruptStore where it cannot be decoded.
    """
    if not jpeg:
        return b""
    memory = make_decode_memory(*size)
    try:
        status, planes = decode_planes(memory, np.frombuffer(jpeg, np.uint8), *size)
        if status != 0:
            raise CorruptStore(f"a JPEG of {size[0]} x {size[1]} pixels cannot be decoded; run `verify` on the store")
        return _stored(planes, size)
    finally:
        close_decode_memory(memory)


def planes_blob_of_rgb(image_HWC: np.ndarray) -> bytes:
    """Return the planes of RGB pixels, uint8 (H, W, 3), as a .beton stores them: colour is the mean of four pixels."""
    height, width = image_HWC.shape[:2]
    pixels = np.empty(3 * height * width + SLACK_BYTES, np.uint8)
    return _stored(planes_of_rgb(image_HWC.reshape(-1), height, width, pixels), (height, width))


def rgb_of_blob(blob: bytes, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels of an image or a background of (height, width), a JPEG or planes; uint8 (H, W, 3).

    Raises: ImageError where it is neither.
    """
    data = np.frombuffer(blob, np.uint8)
    if not is_stored(data, *size):
        return decode_rgb(blob)
    planes, (height, width) = stored_planes(data, *size), size
    luma, blue, red = (
        data[start:][: rows * stride].reshape(rows, stride).astype(np.float64)
        for start, stride, rows in zip(planes.starts, planes.strides, (height, *[(height + 1) // 2] * 2), strict=True)
    )
    # Colour is centred between the luma that it belongs to, which is how these pixels are resized.
    b, r = (
        cv2.resize(each, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)[:height, :width] - 128
        for each in (blue, red)
    )
    y = luma[:, :width]
    rgb_HWC = np.stack([y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b], axis=2)
    return np.clip(np.floor(rgb_HWC + 0.5), 0, 255).astype(np.uint8)


def _stored(planes: Planes, size: tuple[int, int]) -> bytes:
    out = np.empty(stored_bytes(*size), np.uint8)
    store_planes(planes, out)
    return out.tobytes()
