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
