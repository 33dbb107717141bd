"""What long work shows on standard error: progress bars of one style, notes and warnings.

Every bar has its stage, a count with its unit, the rate and the time left. `TQDM_DISABLE`, tqdm's own variable and what
`--quiet` sets, leaves out bars and notes; worker processes inherit it. A program takes the bars' counts instead of the
bars with `progress_to`.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from backdrop.errors import printable

if TYPE_CHECKING:  # importing it takes as long as click: not before there is something to show
    from tqdm import tqdm

QUIET_VARIABLE = "TQDM_DISABLE"
# Into a file, where a bar cannot be drawn over, a line now and then is enough.
SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a stage is.

    stage: what is done, and to what: "build photos.zarr". unit: what is counted: row, img, part, batch, step, B.
    done, total: so many of them; total is None where nobody knows.
    """

    stage: str
    unit: str
    done: int
    total: int | None


_listener: ContextVar[Callable[[Progress], None] | None] = ContextVar("_listener", default=None)


@contextmanager
def progress_to(callback: Callable[[Progress], None]) -> Iterator[None]:
    """Have the progress of all that is done within told to a function, which is shown no bar then.

    Args: callback: called ten times a second at most, and at the end of every stage; what it raises ends the work.
    """
    token = _listener.set(callback)
    try:
        yield
    finally:
        _listener.reset(token)


_warning_listener: ContextVar[Callable[[str], None] | None] = ContextVar("_warning_listener", default=None)


@contextmanager
def warnings_to(callback: Callable[[str], None]) -> Iterator[None]:
    """Have what `warn` says within told to a function as well, to be kept. Args: callback: gets each line."""
    token = _warning_listener.set(callback)
    try:
        yield
    finally:
        _warning_listener.reset(token)


_is_silent: ContextVar[bool] = ContextVar("_is_silent", default=False)


@contextmanager
def silence() -> Iterator[None]:
    """Show nothing at all within: of several processes on one work the first speaks for all."""
    token = _is_silent.set(True)
    try:
        yield
    finally:
        _is_silent.reset(token)


def is_quiet() -> bool:
    """Return whether bars and notes are to be left out. Asked at every bar: tqdm itself looks once, on import."""
    return _is_silent.get() or os.environ.get(QUIET_VARIABLE, "") not in ("", "0")


def stage_bar(
    items: Iterable[Any] | None = None,
    *,
    stage: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    is_inner: bool = False,
    shown_after_s: float | None = 0.0,
) -> "tqdm":
    """Return a progress bar, to iterate over or to use as a context and `update`.

    Args:
        items: what is gone through; None where the caller counts.
        stage: what is done, and to what: "build coco.zarr".
        unit: of the count: img, row, part, batch, step, B.
        total: the count at the end; by default the length of `items`. initial: what was done before.
        is_inner: it is one of several of a larger stage, and goes when it is full.
        shown_after_s: seconds before it is shown; None = never: in all processes but the first of several, and for work
            of a moment.
    """
    callback = _listener.get()
    if callback is not None:
        return _told_bar()(items, callback=callback, desc=stage, unit=unit, total=total, initial=initial)
    from tqdm import tqdm

    return tqdm(
        items,
        desc=stage,
        unit=unit,
        unit_scale=unit == "B",
        total=total,
        initial=initial,
        leave=not is_inner,
        disable=shown_after_s is None or is_quiet(),
        delay=shown_after_s or 0.0,
        mininterval=0.1 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES,
        dynamic_ncols=True,
    )


@cache
def _told_bar() -> type["tqdm"]:
    """The class of bars that tell of themselves instead of being drawn."""
    from tqdm import tqdm

    class Told(tqdm):
        """Counts as tqdm does; what would be drawn is told."""

        def __init__(self, items: Iterable[Any] | None, *, callback: Callable[[Progress], None], **words: Any) -> None:
            self._callback = callback
            super().__init__(items, **words, disable=False, gui=True)  # nothing of the terminal is touched
            self.display()

        def display(self, *args: object, **words: object) -> None:
            try:
                self._callback(Progress(stage=self.desc, unit=self.unit, done=int(self.n), total=self.total))
            except BaseException:
                self.disable = True  # it is not told again when it is closed
                raise

        def clear(self, *args: object, **words: object) -> None:
            """Nothing was drawn."""

        def close(self) -> None:
            if not self.disable:
                self.disable = True
                self.display()

    return Told


def note(message: str) -> None:
    """Write a line that a user may want to know, above the bars: a default taken, a stage's end. Not when quiet."""
    if not is_quiet():
        _say(message)


def note_default(name: str, value: object, why: str) -> None:
    """Say which default was taken, so that nobody has to guess which detector, store or folder was used."""
    note(f"{name}: {value} ({why})")


def warn(message: str) -> None:
    """Write a line that a user must know, above the bars, also when quiet."""
    if not _is_silent.get():
        _say(message)
    if listener := _warning_listener.get():
        listener(message)


def _say(message: str) -> None:
    from tqdm import tqdm

    tqdm.write(printable(message), file=sys.stderr)
