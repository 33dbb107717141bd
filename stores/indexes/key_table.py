"""Many keys as one block of bytes: ImageNet's 1.28 million in 51 MB of memory and 5 MB of a pickle.

A builder sends the index of its data set to every worker. As a tuple of strings these keys are 44 MB to send, and
110 MB in each worker.
"""

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
import zstandard

SEPARATOR = "\0"  # the one character that no path holds
ZSTD_LEVEL = 1


class KeyTable(Sequence[str]):
    """A sequence of keys that is small in memory; each is decoded when it is asked for.

    Args:
        joined: the keys in UTF-8 (surrogate escapes kept), joined by `SEPARATOR`.
        num_keys: how many they are; an empty text may be one key or none.
    """

    def __init__(self, joined: bytes, num_keys: int) -> None:
        self._joined = joined
        ends = np.flatnonzero(np.frombuffer(joined, np.uint8) == 0)
        self._bounds = np.concatenate([[-1], ends, [len(joined)]]) if num_keys else np.zeros(1, np.int64)
        assert len(self) == num_keys, (len(self), num_keys)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> list[str]: ...
    def __getitem__(self, number: int | slice) -> str | list[str]:
        """One key, or those of a slice."""
        if isinstance(number, slice):
            return [self[at] for at in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"key {number} of {len(self)}")
        number %= len(self)
        return _text(self._joined[self._bounds[number] + 1 : self._bounds[number + 1]])


def compress_keys(keys: Iterable[str]) -> bytes:
    """Keys as bytes to send, a tenth of their length."""
    return zstandard.compress(SEPARATOR.join(keys).encode("utf-8", "surrogateescape"), ZSTD_LEVEL)


def decompress_keys(data: bytes, num_keys: int) -> KeyTable:
    """The keys that `compress_keys` was given, `num_keys` of them."""
    return KeyTable(zstandard.decompress(data), num_keys)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
