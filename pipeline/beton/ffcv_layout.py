"""The layout of FFCV's files: header, a description of each field, a record of each sample, pages, allocations.

Little-endian; as FFCV 1.0.2 writes them, stated here so that reading takes no FFCV.
"""

import numpy as np

FFCV_VERSION = 2

HEADER_DTYPE = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),  # bytes
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),  # to the end of the file: what is allocated to whom
    ],
    align=True,
)
# The kind of a field says how its records look; each has up to 16 letters of a name.
FIELD_DTYPE = np.dtype([("type_id", "<u1"), ("name", "<u1", 16), ("arguments", "<u1", (1024,))], align=True)
CUSTOM_FIELD = 255
# What is allocated: a blob of a sample, where and how many bytes.
ALLOCATION_DTYPE = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
INTEGERS, RGB_IMAGES = 1, 2
# Records by kind of field: numbers, integers, images, bytes, arrays, JSON, tensors.
_BYTES_DTYPE = np.dtype([("ptr", "<u8"), ("size", "<u8")])
RECORDS = {
    0: np.dtype("<f8"),
    INTEGERS: np.dtype("<i8"),
    RGB_IMAGES: np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")]),
    3: _BYTES_DTYPE,
    4: np.dtype("<u8"),
    5: _BYTES_DTYPE,
    6: np.dtype("<u8"),
}
