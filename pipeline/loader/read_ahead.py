"""Files that are colder than memory: the system is told which rows come next, and not to guess.

Of a file that is read here and there the system reads ahead megabytes around every row. That fills the memory of a
machine that holds the whole file soon; of a file that is larger, nearly all of it is thrown away unread.
"""

import ctypes
import mmap
from collections.abc import Iterator

import numpy as np

from backdrop.devices import memory_bytes
from backdrop.pipeline.beton.reader import Beton

# A file with more than this share of the memory is large: what trains, and the other files, want the rest.
LARGE_SHARE = 0.5
# Rows with no more than this between them are read in one go.
MAX_GAP_BYTES = 64 << 10


def reads_rows(read_ahead: str, order: str, num_bytes: int) -> bool:
    """Return whether the loader says which rows come next. Args: read_ahead, order: options. num_bytes: of a file."""
    if read_ahead == "auto":
        return order == "quasi-random" or num_bytes > LARGE_SHARE * memory_bytes()
    return read_ahead == "rows"


def batches_of(order: np.ndarray, batch_size: int, first_batch: int) -> Iterator[np.ndarray]:
    """Yield the rows of each batch of an epoch. Args: order: (N,) rows. first_batch: the one to begin with."""
    for start in range(first_batch * batch_size, len(order), batch_size):
        yield order[start : start + batch_size]


class RowReadAhead:
    """Has the rows of an epoch read before they are decoded: the next batch's; with windows the next window's.

    Those of a window are read in the order of the file, a part beside each batch.
    """

    def __init__(self, beton: Beton, batch_size: int, batches_of_window: int) -> None:
        """Tell the system not to guess. Args: batches_of_window: of this rank; 1 = the order knows no windows."""
        self._beton, self._batch_size, self._num_parts = beton, batch_size, batches_of_window
        _advise(beton.file_bytes, -(-beton.table_end // mmap.PAGESIZE) * mmap.PAGESIZE, None, mmap.MADV_RANDOM)

    def batches(self, order: np.ndarray, first_batch: int) -> Iterator[np.ndarray]:
        """Yield `batches_of` an order; before each, what comes next is asked for."""
        size, window = self._batch_size, self._batch_size * self._num_parts
        first = first_batch * size
        self._ask_for(self._spans(order[first : first // window * window + window]))
        parts: list[np.ndarray] = []
        for number, rows in enumerate(batches_of(order, size, first_batch), first_batch):
            if not parts:
                end, num_left = (number // self._num_parts + 1) * window, self._num_parts - number % self._num_parts
                parts = np.array_split(self._spans(order[end : end + window]), num_left)
            self._ask_for(parts.pop(0))
            yield rows

    def _spans(self, rows: np.ndarray) -> np.ndarray:
        """Where images and masks of rows lie in the file, int64 (K, 2): start and end in bytes, ascending."""
        records = self._beton.records[rows]
        records = records[np.argsort(records["image_ptr"])]
        # A damaged record may say anything; whoever decodes it finds out.
        places = [
            np.minimum(records[f"{blob}_ptr"], np.uint64(self._beton.file_bytes.size)) for blob in ("image", "mask")
        ]
        starts = places[0]
        reached = np.maximum.accumulate(np.maximum(starts + records["image_bytes"], places[1] + records["mask_bytes"]))
        is_first = np.r_[True, starts[1:] > reached[:-1] + np.uint64(MAX_GAP_BYTES)][: len(rows)]
        is_last = np.r_[is_first[1:], True][: len(rows)]
        return np.stack([starts[is_first], reached[is_last]], axis=1).astype(np.int64)

    def _ask_for(self, spans: np.ndarray) -> None:
        for start, end in spans.tolist():
            _advise(self._beton.file_bytes, start, end, mmap.MADV_WILLNEED)


def _advise(file_bytes: np.ndarray, start: int, end: int | None, advice: int) -> None:
    """Tell the system about a stretch of what is mapped; other threads go on meanwhile.

    By the C library: `mmap.madvise` would hold the interpreter, and shards are no single mapping. What the system does
    not take as advice, it leaves.
    """
    begin = start // mmap.PAGESIZE * mmap.PAGESIZE
    num_bytes = (file_bytes.size if end is None else end) - begin
    if num_bytes > 0:
        _madvise(file_bytes.ctypes.data + begin, num_bytes, advice)


_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
