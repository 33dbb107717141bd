"""What a store holds: the one definition of its fields, dtypes, file names and mask polarity.

Masks are uint8 in {0, 1}, 1 = foreground, of the height and width of the decoded image (EXIF orientation applied),
kept as packed rows: `numpy.packbits(mask, axis=1)`, most significant bit leftmost, each row padded with zeros to whole
bytes.
Boxes are (top, left, height, width) in pixels, half-open. Every array is little-endian.
"""

import enum
from dataclasses import dataclass

SCHEMA_NAME = "backdrop-masks-and-backgrounds"
# MAJOR: a reader that does not know this number must refuse. MINOR: fields were added, old readers read on.
SCHEMA_VERSION = "2.0"
# Major number -> newest minor number of the schemas that are read: 1 keeps the same arrays, each in files of its own.
READABLE_VERSIONS = {1: 0, 2: 0}
# Of the fields, however they are kept: it stands in the identity of a store, which is the same for the same content.
FIELDS_VERSION = "1.0"
MASK_POLARITY = "1 = foreground, 0 = background"


class Status(enum.IntEnum):
    """What became of a row. An empty mask is always said to be one: nothing is inferred from pixels."""

    OK = 0
    NO_FOREGROUND = 1
    ALL_FOREGROUND = 2
    DECODE_ERROR = 3  # the image cannot be read; the row has no mask, the message says why
    MASK_ERROR = 4  # the image is fine, its given mask is missing or does not fit; the message says which

    @property
    def label(self) -> str:
        """The name used on the command line and in reports: "ok", "no-foreground", ..."""
        return self.name.lower().replace("_", "-")

    @property
    def has_mask(self) -> bool:
        """Whether a row of this status holds a mask."""
        return self in (Status.OK, Status.NO_FOREGROUND, Status.ALL_FOREGROUND)


# In `Store.status` of a store opened half built: the row's part is not there yet. Never written to disk.
NOT_BUILT = 255


@dataclass(frozen=True)
class Column:
    """A field of fixed size: one array with one entry per row."""

    name: str
    dtype: str  # numpy's spelling, byte order included where there is one
    row_shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Blob:
    """A field of varying size: `name` holds the bytes of all rows end to end, row i at offsets[i]:offsets[i + 1].

    `name_offsets` (i8, rows + 1) and `name_crc32c` (u4, rows; of each row's bytes) stand beside it.
    """

    name: str

    @property
    def offsets(self) -> str:
        """Name of the array of offsets."""
        return f"{self.name}_offsets"

    @property
    def crc32c(self) -> str:
        """Name of the array of checksums."""
        return f"{self.name}_crc32c"


COLUMNS = (
    Column("height", "<i4"),  # px, of the decoded image; 0 where it could not be decoded
    Column("width", "<i4"),
    Column("label", "<i4"),  # class, -1 = none
    Column("status", "|u1"),
    Column("foreground_fraction", "<f4"),  # foreground pixels / pixels
    Column("box", "<i4", (4,)),  # bounding box of the foreground, zeros where there is none
    Column("source_sha256", "|u1", (32,)),  # of the image file; zeros where it could not be read
    Column("source_bytes", "<i8"),  # size of the image file
)

BLOBS = (
    Blob("key"),  # UTF-8, path of the image relative to the data set's folder
    Blob("message"),  # UTF-8, why a row has no mask; empty for the others
    Blob("mask"),  # zstd frame of the packed rows; empty where there is no mask
    Blob("background"),  # JPEG; empty where the row cannot lend its background
    Blob("saliency"),  # zstd frame of the 8-bit soft map, 255 = foreground; empty unless soft maps were kept
)

# No store may exceed these: they bound what a damaged or hostile one can make a reader allocate.
MAX_ROWS = 1 << 33
MAX_PART_ROWS = 1 << 17
MAX_MANIFEST_BYTES = 64 << 20  # 400,000 parts
MAX_RECEIPT_BYTES = 1 << 20
MAX_METADATA_BYTES = 1 << 20
MAX_TEXT_BYTES = 1 << 16  # of one row's key or message
MAX_BACKGROUND_BYTES = 1 << 26  # of one row

ROOT_METADATA = "zarr.json"
PARTS = "parts"
RECEIPT = "part.json"
MANIFEST = "MANIFEST.json"


def part_name(part: int) -> str:
    """Folder of a part below `parts/`."""
    return f"part-{part:05d}"
