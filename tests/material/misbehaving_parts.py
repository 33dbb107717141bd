"""Parts that kill their worker, raise or take their time; apart from the tests, so that workers start quickly."""

import os
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from backdrop.errors import UserError
from backdrop.stores.engines.local import ONE_THREAD


def touch(folder: Path, name: str) -> int:
    """Count how often this was called with this name, over all processes."""
    number = sum(1 for _ in folder.glob(f"{name}.*"))
    (folder / f"{name}.{number}").touch()
    return number


def run_part(folder: Path, part: int, rows_done: Callable[[int], None]) -> dict:
    """Parts 0 to 9 behave badly; all others are done at once."""
    attempt = touch(folder, f"part{part}")
    rows_done(1)
    if part == 0 and attempt == 0:
        time.sleep(600)
    if part == 2 or (part == 1 and attempt < 2):
        os.kill(os.getpid(), signal.SIGKILL)
    if part == 3:
        raise ValueError("a bug in part 3")
    if part == 4:
        time.sleep(0.5)
        raise UserError("the disk is full")
    if part == 5 and attempt == 0:
        sys.exit(7)
    if part == 6:
        (folder / "running").touch()
        for _ in range(600):
            time.sleep(0.1)
            rows_done(0)
    if part == 8 or (part == 7 and attempt == 0):
        os.killpg(0, signal.SIGKILL)  # a whole job, where it has a session of its own
    rows_done(1)
    while part == 9 and not list(folder.glob("part10.*")):  # which another worker has to begin
        time.sleep(0.05)
    return {
        "part": part,
        "num_rows": 2,
        "threads": [os.environ.get(name) for name in ONE_THREAD],
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "pid": os.getpid(),
    }


class Bar:
    """Counts the rows that an engine says are done."""

    rows = 0

    def __call__(self, num_rows: int) -> None:
        self.rows += num_rows


class Unreadable:
    """A spec that cannot be read where it is needed."""

    def __setstate__(self, state: dict) -> None:
        raise ValueError("this spec cannot be read")

    def __getstate__(self) -> dict:
        return {"not": "empty"}


if __name__ == "__main__":
    from tests.material import misbehaving_parts  # other machines cannot import what is in the main module

    engine = import_module(f"backdrop.stores.engines.{sys.argv[2]}")
    engine.run(misbehaving_parts.run_part, Path(sys.argv[1]), [6, 6], num_workers=2, progress=lambda num_rows: None)
