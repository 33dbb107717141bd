"""A command's time and memory: of the command and of every process that it starts."""

import os
import platform
import resource
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from backdrop.devices import num_cores
from backdrop.stores.format.provenance import commit

_EVERY_S = 0.05
_ROOT = Path(__file__).resolve().parents[2]


def measure(stage: str, rows: int, command: list[str]) -> dict:
    """Run a command of Python's and wait for it.

    Args: stage, rows: what it is, for the result. command: what follows `python`, in the repository.
    Returns: The row that is kept: `seconds`, `cpu_seconds` (of all processes), `peak_mb` (the most that one process had
        in memory, mapped files included), with commit, date and machine.
    Raises: SystemExit: it failed; its own messages are on standard error.
    """
    cpu, begin = _cpu_of_children(), time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command], cwd=_ROOT, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(_ROOT)}
    )
    peaks: list[int] = [0]
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
        "peak_mb": round(max(peaks) / 1024, 1),
        "commit": commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{num_cores()} cores, {platform.machine()}, Python {platform.python_version()}",
    }


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _watch(pid: int, peaks: list[int], is_over: threading.Event) -> None:
    """Note the largest VmHWM, in KB, of a process and all below it; the system keeps each one's peak between looks."""
    while not is_over.wait(_EVERY_S):
        peaks[0] = max(peaks[0], *(_peak_kb(one) for one in tree_of(pid)))


def tree_of(pid: int) -> list[int]:
    """A process and all that it and they started, as far as they are there."""
    found, left = [], [pid]
    while left:
        found.append(left.pop())
        for task in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            left += map(int, _text(task).split())
    return found


def _peak_kb(pid: int) -> int:
    lines = [line for line in _text(Path(f"/proc/{pid}/status")).splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) if lines else 0


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # it has ended
        return ""
