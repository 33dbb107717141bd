"""What long work shows on standard error: progress bars of one style, notes and warnings.

Every bar has its stage, a count with its unit, the rate and the time left. `TQDM_DISABLE`, tqdm's own variable and what
`--quiet` sets, leaves out bars and notes; worker processes inherit it.
"""

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing it takes as long as click: not before there is something to show
    from tqdm import tqdm

QUIET_VARIABLE = "TQDM_DISABLE"
# Into a file, where a bar cannot be drawn over, a line now and then is enough.
SECONDS_BETWEEN_LINES = 10.0


def is_quiet() -> bool:
    """Return whether bars and notes are to be left out. Asked at every bar: tqdm itself looks once, on import."""
    return os.environ.get(QUIET_VARIABLE, "") not in ("", "0")


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


def note(message: str) -> None:
    """Write a line that a user may want to know, above the bars: a default taken, a stage's end. Not when quiet."""
    if not is_quiet():
        warn(message)


def note_default(name: str, value: object, why: str) -> None:
    """Say which default was taken, so that nobody has to guess which detector, store or folder was used."""
    note(f"{name}: {value} ({why})")


def warn(message: str) -> None:
    """Write a line that a user must know, above the bars, also when quiet."""
    from tqdm import tqdm

    tqdm.write(message, file=sys.stderr)
