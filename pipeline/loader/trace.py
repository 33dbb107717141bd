"""A Chrome trace (chrome://tracing, Perfetto) of a loader: which thread did what when."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backdrop.errors import UserError

# What is recorded: a group of rows on a thread that decodes; on the thread that prepares batches the batch, and the
# wait for a free slot of the ring; on the thread that takes batches its wait for one, and the device stage.
ROWS, BATCH, WAIT_FOR_SLOT, WAIT_FOR_BATCH, DEVICE_STAGE = (
    "rows", "batch", "wait for a free slot", "wait for a batch", "device stage",
)  # fmt: skip
NAMES = (ROWS, BATCH, WAIT_FOR_SLOT, WAIT_FOR_BATCH, DEVICE_STAGE)
# At some 200 bytes an event a file of 20 MB, which the viewers still open quickly.
MAX_EVENTS = 100_000


class Trace:
    """Spans of time, collected from any thread until there are `max_events` (0 = off); later ones are only counted."""

    def __init__(self, max_events: int = MAX_EVENTS) -> None:
        self._max_events = max_events
        self._events: list[tuple[str, str, int, int, dict[str, Any]]] = []
        self._begin_ns = time.perf_counter_ns()
        self._lock = threading.Lock()
        self.num_dropped = 0

    @property
    def is_recording(self) -> bool:
        """Whether spans are still kept."""
        return len(self._events) < self._max_events

    @contextmanager
    def span(self, name: str) -> Iterator[dict[str, Any]]:
        """Record what happens inside on this thread; what is put into the dictionary goes along."""
        arguments: dict[str, Any] = {}
        begin_ns = time.perf_counter_ns()
        try:
            yield arguments
        finally:
            self._add(name, begin_ns, time.perf_counter_ns(), arguments)

    def _add(self, name: str, begin_ns: int, end_ns: int, arguments: dict[str, Any]) -> None:
        assert name in NAMES, name
        with self._lock:
            if len(self._events) < self._max_events:
                self._events.append((name, threading.current_thread().name, begin_ns, end_ns, arguments))
            else:
                self.num_dropped += 1

    def write(self, path: Path) -> None:
        """Write the file. Raises: UserError where it cannot be written."""
        process = os.getpid()
        threads = {name: number for number, name in enumerate(sorted({event[1] for event in self._events}), 1)}
        events = [_title("process_name", process, 0, "backdrop loader")]
        events += [_title("thread_name", process, number, name) for name, number in threads.items()]
        for name, thread, begin_ns, end_ns, arguments in sorted(self._events, key=lambda event: event[2]):
            begin_us, took_us = (begin_ns - self._begin_ns) / 1000, (end_ns - begin_ns) / 1000
            place = {"pid": process, "tid": threads[thread], "ts": begin_us, "dur": took_us}
            events.append({"ph": "X", "name": name, "cat": "loader", **place, "args": arguments})
        text = json.dumps({"traceEvents": events, "otherData": {"events_left_out": self.num_dropped}})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        except OSError as error:
            raise UserError(f"the trace {path} cannot be written: {error.strerror}. Give a writable file.") from error


def _title(kind: str, process: int, thread: int, title: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": title}}
