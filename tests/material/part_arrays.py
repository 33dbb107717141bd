"""The arrays within the one file of a part, read and damaged without the code under test."""

import json
from pathlib import Path

from backdrop.stores.format.packed_arrays import ARRAYS
from backdrop.stores.format.schema import RECEIPT


def array_names(part: Path) -> list[str]:
    """Names of the files of a part's arrays."""
    return list(json.loads((part / RECEIPT).read_bytes())["arrays"])


def array_bytes(part: Path, name: str) -> bytearray:
    """What a file of an array holds."""
    begin, end = _span(part, name)
    return bytearray((part / ARRAYS).read_bytes()[begin:end])


def overwrite_array(part: Path, name: str, content: bytes) -> None:
    """Put other bytes there, as many; the receipt stays as it is."""
    begin, end = _span(part, name)
    assert len(content) == end - begin
    data = (part / ARRAYS).read_bytes()
    (part / ARRAYS).write_bytes(data[:begin] + content + data[end:])


def flip_bit(part: Path, name: str, at: int) -> None:
    """Change one bit of a byte of an array."""
    content = array_bytes(part, name)
    content[at] ^= 1
    overwrite_array(part, name, content)


def _span(part: Path, name: str) -> tuple[int, int]:
    stated = json.loads((part / RECEIPT).read_bytes())["arrays"][name]
    return stated["offset"], stated["offset"] + stated["bytes"]
