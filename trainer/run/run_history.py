"""history.jsonl: when a run was begun and ended, where, with which packages, and what it warned of.

One line per event, each with `event` and `time` (UTC): "start" (host, job, processes, first_step, packages), "warning"
(text), "end" (state, step). A start without an end was killed. Later starts add their lines. Only the first process
writes, hence not what others warn of.
"""

import importlib.metadata
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from backdrop.progress import warnings_to

FILE = "history.jsonl"


class RunHistory:
    """What is to be kept; it waits in memory until the run's folder is known to be this run's."""

    def __init__(self) -> None:
        self._begun = _now()
        self._path: Path | None = None
        self._waiting: list[dict[str, Any]] = []

    def start(self, folder: Path | None, *, num_processes: int, first_step: int) -> None:
        """Write the beginning, and what came before. Args: folder: the run's; None = write nothing."""
        if folder is None:
            return
        waiting, self._waiting, self._path = self._waiting, [], folder / FILE
        self._add(
            "start",
            time=self._begun,
            host=socket.gethostname(),
            job=os.environ.get("SLURM_JOB_ID", ""),
            processes=num_processes,
            first_step=first_step,
            packages=_packages(),
        )
        for record in waiting:
            self._write(record)

    def warned(self, message: str) -> None:
        """Keep a warning."""
        self._add("warning", text=message)

    def end(self, state: str, step: int | None = None) -> None:
        """Keep how it ended. Args: step: steps done, None = not known."""
        self._add("end", state=state, step=step)

    def _add(self, event: str, **facts: Any) -> None:
        record = {"event": event, "time": _now(), **facts}
        if self._path is None:
            self._waiting.append(record)
        else:
            self._write(record)

    def _write(self, record: dict[str, Any]) -> None:
        assert self._path is not None
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")


@contextmanager
def run_history() -> Iterator[RunHistory]:
    """Keep what is warned of within, and with which error it ended, if so."""
    history = RunHistory()
    with warnings_to(history.warned):
        try:
            yield history
        except BaseException as error:
            # Where the disk is full this fails as well, and the first error is the one to tell.
            with suppress(OSError):
                history.end(f"{type(error).__name__}: {error}")
            raise


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def _packages() -> dict[str, str]:
    """Version by name, of all that is installed."""
    found = ((one.metadata["Name"], one.version) for one in importlib.metadata.distributions())
    return dict(sorted((name, version) for name, version in found if name))
