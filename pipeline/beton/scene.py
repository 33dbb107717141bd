"""A scene: all that training needs of one row of a store, as one record of a .beton file.

The image is a JPEG, or planes that need no decoding (`plane_kernels`), its mask a list of runs on the same pixel grid,
the background small planes, or the store's JPEG. Each blob carries its
size and its XXH64 checksum in the record, so that a reader needs no table of allocations and notices every changed
byte.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from backdrop.errors import CorruptStore
from backdrop.pipeline.beton import scene_kernels as kernels
from backdrop.pipeline.beton.hashed_images import HashedImages
from backdrop.pipeline.beton.plane_blobs import planes_blob, planes_blob_of_rgb
from backdrop.pipeline.views.crops import mask_words
from backdrop.stores.format.mask_codec import pack_rows, unpack_rows
from backdrop.stores.format.part_reader import Part
from backdrop.stores.format.schema import Status
from backdrop.stores.images.image_codec import decode_rgb, encode_jpeg, jpeg_header

FIELD_NAME = "scene"
# Larger files are encoded again even when their sides are within the limit: the bytes are metadata, not pixels.
MAX_VERBATIM_BYTES = 2 << 20
BLOBS = ("image", "mask", "background", "key")
# What `scene_of_row` reads of a store.
STORE_ARRAYS = ("status", "label", "height", "width", "source_sha256", "key", "mask", "background")
ALIGNMENT_BYTES = 8
# Bytes of a blob -> where they begin in the file, and the memory that they are written to.
Malloc = Callable[[int], tuple[int, np.ndarray]]

# Its fields lie at multiples of their sizes; not declared so, because the table of a file begins at an odd place.
SCENE_DTYPE = np.dtype(
    [(f"{name}_ptr", "<u8") for name in BLOBS]  # offset in the file, a multiple of 8
    + [(f"{name}_checksum", "<u8") for name in BLOBS]
    + [(f"{name}_bytes", "<u4") for name in BLOBS]  # 0 = no blob
    + [
        ("row", "<i4"),  # of the store
        ("label", "<i4"),  # class, -1 = none
        ("height", "<u2"),  # px, of image and mask; 0 where the row has no mask
        ("width", "<u2"),
        ("background_height", "<u2"),  # px; 0 where the row lends no background
        ("background_width", "<u2"),
        ("status", "<u4"),  # backdrop.stores.format.schema.Status
        ("foreground_pixels", "<u4"),  # of the mask; 0 where there are none, and in files of before this was kept
    ]
)
assert SCENE_DTYPE.itemsize == 104


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One row's record before it is written.

    image_blob: a JPEG of height x width pixels, upright, or their planes as they are stored.
    mask_packed: uint8 (height, ceil(width / 8)), 1 = foreground.
    background_blob: likewise; b"" where the row lends none. A row without a mask has neither pixels nor background.
    """

    row: int
    key: str
    label: int
    status: int
    height: int
    width: int
    image_blob: bytes
    mask_packed: np.ndarray
    background_blob: bytes
    background_height: int
    background_width: int


def scene_of_row(
    images: HashedImages,
    row: int,
    *,
    max_side_px: int,
    jpeg_quality: int,
    pixels: str = "jpeg",
    background_side_px: int = 0,
) -> Scene:
    """Gather one row from its store and its image file.

    The file's bytes are kept where the loader can decode them as they are (baseline, upright, grey or three components,
    sides within the limit); otherwise the image is decoded, shrunk to the limit and encoded again.

    Args: images: of the store that has the row's mask. row: which. max_side_px: longest side kept.
        jpeg_quality: of images that are encoded again. pixels: one of `reader.PIXELS`. background_side_px: as of
        `background_blob`.
    Raises: UserError where the image file is not the one the store was built from. CorruptStore where the store's
        mask or background does not fit the image.
    """
    store = images.store
    part, at = store.place(row)
    status, full_size = Status(int(part.column("status")[at])), _size_in(part, at)
    key, label = store.key(row), int(part.column("label")[at])
    if not status.has_mask:
        nothing = np.zeros((0, 0), dtype=np.uint8)
        return Scene(
            row=row, key=key, label=label, status=status, height=0, width=0, image_blob=b"", mask_packed=nothing,
            background_blob=b"", background_height=0, background_width=0,
        )  # fmt: skip
    image_jpeg, size = training_jpeg(images.read(row), full_size, max_side_px, jpeg_quality)
    if image_jpeg is None:
        raise CorruptStore(f"row {row}, {key}: the store says {full_size} pixels, the image file has {size}")
    try:
        background, background_size = background_blob(store.background_jpeg(row), background_side_px, pixels)
    except CorruptStore as error:
        raise CorruptStore(
            f"row {row}, {key}: the store's background cannot be decoded; run `verify` on {store.path}"
        ) from error
    return Scene(
        row=row,
        key=key,
        label=label,
        status=status,
        height=size[0],
        width=size[1],
        image_blob=planes_blob(image_jpeg, size) if pixels == "yuv420" else image_jpeg,
        mask_packed=resize_mask(store.mask_packed(row), full_size, size),
        background_blob=background,
        background_height=background_size[0],
        background_width=background_size[1],
    )


def _size_in(part: Part, at: int) -> tuple[int, int]:
    """Height and width of a row's image."""
    return int(part.column("height")[at]), int(part.column("width")[at])


def training_jpeg(
    data: bytes, full_size: tuple[int, int], max_side_px: int, quality: int
) -> tuple[bytes | None, tuple[int, int]]:
    """Bring an image file into the form of a scene; its bytes stay as they are where the loader can decode them.

    Args: data: of the image file. full_size: (height, width) that its pixels should have. max_side_px: longest side
        kept. quality: of images that are encoded again.
    Returns: (JPEG bytes, (height, width)) within the limit; None and the image's size where it is not full_size.
    """
    if max(full_size) <= max_side_px and len(data) <= MAX_VERBATIM_BYTES and _is_plain_jpeg(data):
        size = _checked_size(data)
        if size == full_size:
            return data, size
    image_HWC = decode_rgb(data)
    if image_HWC.shape[:2] != full_size:
        return None, image_HWC.shape[:2]
    size = shrunk_size(full_size, max_side_px)
    if size != full_size:
        image_HWC = cv2.resize(image_HWC, size[::-1], interpolation=cv2.INTER_AREA)
    return encode_jpeg(image_HWC, quality), size


def background_blob(jpeg: bytes, side_px: int, pixels: str = "jpeg") -> tuple[bytes, tuple[int, int]]:
    """Bring a background into the form of a scene.

    Args: jpeg: as the store has it, b"" of none. side_px: longest side of the planes that it becomes; 0 = it keeps its
        size, and stays a JPEG unless pixels, one of `reader.PIXELS`, says otherwise.
    Returns: (bytes, (height, width)); (b"", (0, 0)) of none.
    Raises: CorruptStore where it cannot be decoded.
    """
    size = _checked_size(jpeg) if jpeg else (0, 0)
    if size is None:
        raise CorruptStore("a background cannot be decoded")
    if side_px and max(size) > side_px:
        new_size = shrunk_size(size, side_px)
        # Means of areas would blur more between sizes so near each other: from 384 to 224 px they leave 0.41 of the
        # fine detail of an image's own pixels, this 0.52 (python -m tests.bench backgrounds).
        image = Image.fromarray(decode_rgb(jpeg)).resize(new_size[::-1], Image.Resampling.LANCZOS)
        return planes_blob_of_rgb(np.asarray(image)), new_size
    return planes_blob(jpeg, size) if side_px or pixels == "yuv420" else jpeg, size


def _is_plain_jpeg(data: bytes) -> bool:
    """Whether the loader's decoder gives upright RGB: baseline, 8 bits, grey or three components, not rotated."""
    header = jpeg_header(data)
    return header is not None and header.is_baseline and header.num_components in (1, 3) and header.orientation == 1


def _checked_size(jpeg: bytes) -> tuple[int, int] | None:
    """Return (height, width) of a JPEG that the loader's decoder decodes without complaint, else None."""
    header = jpeg_header(jpeg)
    if header is None:
        return None
    pixels = np.empty(3 * header.height * header.width, dtype=np.uint8)
    decoder = kernels.open_decoder()
    try:
        data = np.frombuffer(jpeg, dtype=np.uint8)
        status = kernels.decode_jpeg(decoder, data, header.height, header.width, pixels, 3 * header.width)
    finally:
        kernels.close_decoder(decoder)
    return (header.height, header.width) if status == 0 else None


def shrunk_size(size: tuple[int, int], max_side_px: int) -> tuple[int, int]:
    """Return (height, width) with the longest side at most max_side_px, aspect kept, no side below 1."""
    longest = max(size)
    if longest <= max_side_px:
        return size
    height, width = (max(1, (2 * side * max_side_px + longest) // (2 * longest)) for side in size)
    return height, width


def resize_mask(packed: np.ndarray, size: tuple[int, int], new_size: tuple[int, int]) -> np.ndarray:
    """Resize packed mask rows by nearest centre: output pixel i takes source pixel floor((i + 1/2) old / new).

    Args: packed: uint8 (H, ceil(W / 8)), 1 = foreground. size: (H, W). new_size: (new H, new W).
    Returns: uint8 (new H, ceil(new W / 8)).
    """
    if size == new_size:
        return packed
    rows, columns = (((2 * np.arange(new) + 1) * old) // (2 * new) for old, new in zip(size, new_size, strict=True))
    return pack_rows(np.ascontiguousarray(unpack_rows(packed, size[1])[rows][:, columns]))


def num_foreground_pixels(packed: np.ndarray, width: int) -> int:
    """Count the foreground of a mask. Args: packed: uint8 (H, ceil(W / 8)), 1 = foreground. width: W in pixels."""
    return int(unpack_rows(packed, width).sum(dtype=np.int64)) if packed.size else 0


def encode_runs(packed: np.ndarray, width: int) -> np.ndarray:
    """Return a mask as runs of foreground in the bits of its row-padded words.

    Args: packed: uint8 (H, ceil(W / 8)), 1 = foreground. width: W in pixels.
    Returns: uint32 (2 N,), start and end of each run; bit 64 * ceil(W / 64) * y + x is pixel (y, x).
    """
    words = mask_words(packed, width)
    bits = np.unpackbits(words.astype(">u8").view(np.uint8).reshape(-1))
    edges = np.flatnonzero(np.diff(bits.astype(np.int8), prepend=0, append=0))
    return edges.astype(np.uint32)


def decode_runs(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return packed mask rows, uint8 (H, ceil(W / 8)), from `encode_runs`; CorruptStore where they are no such mask."""
    words = np.empty((height, (width + 63) // 64), dtype=np.uint64)
    is_mask = kernels.expand_runs(np.ascontiguousarray(runs, dtype=np.uint32), words.reshape(-1))
    if not is_mask or not kernels.is_within(words, width):
        raise CorruptStore(f"the runs are no mask of {height} x {width} pixels")
    row_bytes = words.astype(">u8").view(np.uint8)
    return np.ascontiguousarray(row_bytes[:, : (width + 7) // 8])


def checksum(data: bytes) -> int:
    """XXH64 of data, seed 0."""
    aligned = np.zeros((len(data) + 7) // 8, dtype=np.uint64).view(np.uint8)[: len(data)]
    aligned[:] = np.frombuffer(data, dtype=np.uint8)
    return int(kernels.checksum(aligned))


def scene_blobs(scene: Scene) -> dict[str, bytes]:
    """Return the bytes of each of BLOBS as they stand in the file; b"" where the row has none."""
    return {
        "image": scene.image_blob,
        "mask": encode_runs(scene.mask_packed, scene.width).tobytes() if scene.height else b"",
        "background": scene.background_blob,
        "key": scene.key.encode("utf-8", "surrogateescape"),
    }


def padded_bytes(blob: bytes) -> int:
    """Return how much room a blob takes in the file."""
    return len(blob) + -len(blob) % ALIGNMENT_BYTES


def encode_scene(destination: np.ndarray, scene: Scene, blobs: dict[str, bytes], malloc: Malloc) -> None:
    """Write one scene: blobs into memory of the file, the rest into its record.

    Args: destination: the record, (1,) of SCENE_DTYPE. blobs: `scene_blobs`. malloc: see `Malloc`.
    """
    destination[0] = 0
    for name in ("row", "label", "status", "height", "width", "background_height", "background_width"):
        destination[name] = getattr(scene, name)
    destination["foreground_pixels"] = num_foreground_pixels(scene.mask_packed, scene.width)
    for name, data in blobs.items():
        if not data:
            continue
        destination[f"{name}_ptr"], storage = malloc(padded_bytes(data))
        storage[: len(data)] = np.frombuffer(data, dtype=np.uint8)
        storage[len(data) :] = 0
        destination[f"{name}_bytes"] = len(data)
        destination[f"{name}_checksum"] = checksum(data)
