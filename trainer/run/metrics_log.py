"""metrics.jsonl of a run: one line a step, in the order of the steps, with a clock and the process that wrote it.

The log of 800 epochs of ImageNet has four million lines. Steps and epochs only grow along the file, so a place in it is
found by bisection over its bytes, and what is shown of it is read here and there: no reader but `read_metrics` takes
more time or memory for a longer log.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from backdrop.durable_files import sync
from backdrop.errors import UserError

FILE = "metrics.jsonl"
# What a line says of its writing: seconds since 1970 when the step was done, and which process of the training wrote.
CLOCK, RANK = "unix_time", "rank"
# A file up to this size is read whole; of a longer one, so many lines.
_WHOLE_BYTES = 4 << 20
_NUM_LINES = 4000
# A line of two views has about 700 bytes.
_BLOCK_BYTES = 1 << 10
# No count of anything is larger; of a file that is anybody's, numbers may have thousands of digits.
_MOST = 2**63 - 1


class _Line(NamedTuple):
    """A line between the bytes `start` and `end`, its newline included."""

    start: int
    end: int
    record: dict[str, Any]


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return all recorded steps in order, for logs that fit in memory. A last line cut short by a kill is left out."""
    with _opened(folder) as log:
        return [line.record for line in log.lines()]


def sampled_metrics(folder: Path) -> tuple[list[dict[str, Any]], bool]:
    """Return recorded steps in order, and whether they are all there are.

    Of a log of more than 4 MB they are about 4,000, evenly over the file, the first and the last among them, and the
    last of each epoch, which has the scores of the backbone (of epochs shorter than the distance, every n-th).
    """
    with _opened(folder) as log:
        if log.size <= _WHOLE_BYTES:
            return [line.record for line in log.lines()], True
        return [line.record for line in log.sample(_NUM_LINES)], False


def last_metrics(folder: Path) -> dict[str, Any] | None:
    """Return the last step recorded, None where there is none."""
    with _opened(folder) as log:
        line = log.last()
    return None if line is None else line.record


def drop_metrics_from(folder: Path, step: int) -> None:
    """Forget recorded steps from `step` on, which will be done again, and what a kill left of a line."""
    with _opened(folder) as log:
        size, end = log.size, log.first_from("step", step, 0, log.size)
    if end < size:
        os.truncate(folder / FILE, end)
        sync(folder / FILE)


@contextmanager
def _opened(folder: Path) -> Iterator["_Log"]:
    path = folder / FILE
    # A run that was killed before its first step has no log yet.
    descriptor = os.open(path if path.exists() else os.devnull, os.O_RDONLY)
    try:
        yield _Log(path, descriptor)
    finally:
        os.close(descriptor)


class _Log:
    """An open log; what follows its last newline is a line that was being written when the run was killed."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor
        self.size = os.fstat(descriptor).st_size

    def lines(self) -> Iterator[_Line]:
        """Yield all lines."""
        with open(self._descriptor, "rb", closefd=False) as file:
            start = 0
            for text in file:
                if not text.endswith(b"\n"):
                    return
                yield self._line(start, text)
                start += len(text)

    def line_from(self, offset: int) -> _Line | None:
        """Return the first whole line that starts at a byte or behind it."""
        # From the byte before: where that is a newline, the line that starts at `offset` is whole.
        begin, text = max(0, offset - 1), b""
        while block := os.pread(self._descriptor, _BLOCK_BYTES, begin + len(text)):
            text += block
            start = text.find(b"\n") + 1 if offset else 0
            end = text.find(b"\n", start) + 1
            if end and (start or not offset):
                return self._line(begin + start, text[start:end])
        return None

    def line_before(self, end: int) -> _Line | None:
        """Return the last whole line that ends at a byte or before it."""
        begin, text = end, b""
        while begin > 0:
            size = min(_BLOCK_BYTES, begin)
            begin -= size
            text = os.pread(self._descriptor, size, begin) + text
            stop = text.rfind(b"\n") + 1
            start = text.rfind(b"\n", 0, max(0, stop - 1)) + 1
            if stop and (start or not begin):
                return self._line(begin + start, text[start:stop])
        return None

    def last(self) -> _Line | None:
        """Return the last whole line."""
        return self.line_before(self.size)

    def first_from(self, name: str, value: int, low: int, high: int) -> int:
        """Return where the first line starts whose number of that name is `value` or more.

        Args: name: of a number that only grows. low, high: where lines start (high: also the end) between which it is.
        """
        while low < high:
            middle = (low + high) // 2
            line = self.line_from(middle)
            if line is None or self._number(line, name) >= value:
                high = middle
            else:
                low = line.end
        return low

    def sample(self, num_lines: int) -> Iterator[_Line]:
        """Yield lines evenly over the file, with the last of each epoch and the last of all."""
        before: _Line | None = None
        last = self.last()
        found = (self.line_from(self.size * number // num_lines) for number in range(num_lines))
        for line in (*found, last):
            if line is None or (before is not None and line.start <= before.start):
                continue
            if before is not None:
                yield from self._end_of_epoch(before, line)
            yield line
            before = line

    def _end_of_epoch(self, before: _Line, line: _Line) -> Iterator[_Line]:
        """The last line of the latest epoch that ends between two lines, where one does."""
        epoch = self._number(line, "epoch")
        if self._number(before, "epoch") == epoch:
            return
        end = self.line_before(self.first_from("epoch", epoch, before.end, line.start))
        if end is not None and end.start > before.start:
            yield end

    def _number(self, line: _Line, name: str) -> int:
        value = line.record.get(name)
        if not isinstance(value, int):
            raise self._damaged(line.start, f"it has no {name}")
        return value

    def _line(self, start: int, text: bytes) -> _Line:
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._damaged(start, str(error)) from error
        if not isinstance(record, dict):
            raise self._damaged(start, "it is no object")
        if not isinstance(record.get("step"), int) or not isinstance(record.get("epoch", 0), int):
            raise self._damaged(start, "it has no step, or no epoch")
        for name, value in record.items():
            if type(value) is int and abs(value) > _MOST:
                raise self._damaged(start, f"its {name} has {value.bit_length()} bits")
        return _Line(start, start + len(text), record)

    def _damaged(self, start: int, why: str) -> UserError:
        return UserError(
            f"the line of {self._path} that begins at byte {start} is no record of a step ({why}); it was changed by "
            "hand or damaged: delete that line"
        )
