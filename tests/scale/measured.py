"""A command's time and memory: of the command and of every process that it starts."""

import os
import platform
import resource
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import methodcaller
from pathlib import Path

from backdrop.devices import num_cores
from backdrop.stores.format.provenance import commit

# Not by getrusage: what it calls the peak of a program takes in that of the one it was started from.
_EVERY_S = 0.02
_PARTED = methodcaller("partition", ":")
_ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Peaks:
    """The most that one of some processes had in memory."""

    all_kb: int = 0
    own_kb: int = 0

    def look(self, pid: int) -> None:
        """Take in a process. The system keeps its peak of all, VmHWM; of its own memory only what it has now."""
        found = {name: _kb(value) for name, _, value in map(_PARTED, _text(Path(f"/proc/{pid}/status")).splitlines())}
        self.all_kb = max(self.all_kb, found.get("VmHWM", 0))
        self.own_kb = max(self.own_kb, found.get("RssAnon", 0) + found.get("RssShmem", 0))


def measure(stage: str, rows: int, command: list[str]) -> dict:
    """Run a command of Python's and wait for it.

    Args: stage, rows: what it is, for the result. command: what follows `python`, in the repository.
    Returns: The row that is kept: `seconds`, `cpu_seconds` (of all processes), `peak_mb` and `own_mb` (the most that
        one process had in memory, with and without the pages of mapped files, which the system takes back as it needs),
        with commit, date and machine.
    Raises: SystemExit: it failed; its own messages are on standard error.
    """
    cpu, begin = _cpu_of_children(), time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command], cwd=_ROOT, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(_ROOT)}
    )
    peaks = Peaks()
    is_over = threading.Event()
    watch = threading.Thread(target=_watch, args=(process.pid, peaks, is_over))
    watch.start()
    code = process.wait()
    seconds = time.perf_counter() - begin
    is_over.set()
    watch.join()
    if code:
        sys.exit(f"{stage} ended with {code}: python {' '.join(command)}")
    return {
        "stage": stage,
        "rows": rows,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(_cpu_of_children() - cpu, 2),
        "peak_mb": round(peaks.all_kb / 1024, 1),
        "own_mb": round(peaks.own_kb / 1024, 1),
        "commit": commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{num_cores()} cores, {platform.machine()}, Python {platform.python_version()}",
    }


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _watch(pid: int, peaks: Peaks, is_over: threading.Event) -> None:
    """Look at a process and all below it, over and over."""
    while not is_over.wait(_EVERY_S):
        for one in tree_of(pid):
            peaks.look(one)


def tree_of(pid: int) -> list[int]:
    """A process and all that it and they started, as far as they are there."""
    found, left = [], [pid]
    while left:
        found.append(left.pop())
        for task in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            left += map(int, _text(task).split())
    return found


def _kb(value: str) -> int:
    number, _, unit = value.strip().partition(" ")
    return int(number) if unit == "kB" else 0


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # it has ended
        return ""
