"""How much of their images the masks of a build cover: a histogram, and what to do where it cannot be right.

A threshold made for another detector shows here: masks of a sleeve or a face instead of the person, or none at all.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from backdrop.errors import program
from backdrop.stores.format.schema import Status

# Fractions of the image between which masks are counted; those of nothing and of everything are counted apart.
EDGES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
# A median outside these, or more empty masks than this, is no set of photographs of objects.
SMALLEST_MEDIAN, LARGEST_MEDIAN, LARGEST_EMPTY_FRACTION = 0.05, 0.6, 0.1
_BAR_LENGTH = 40


def foreground_size(fraction_N: np.ndarray, status_N: np.ndarray) -> dict[str, Any]:
    """Count masks by the fraction of the image that they cover.

    Args:
        fraction_N: float, foreground pixels / pixels of each row.
        status_N: uint8, `schema.Status` of each row; rows without a mask are left out.

    Returns:
        JSON-able: num_masks; median fraction, None without masks; num_masks per kind: "none", "0 to 5 %", ..., "all".
    """
    has_mask = np.isin(status_N, [status for status in Status if status.has_mask])
    fraction_N, status_N = fraction_N[has_mask], status_N[has_mask]
    between = fraction_N[status_N == Status.OK]
    counts, _ = np.histogram(between, EDGES)
    names = [f"{low * 100:.0f} to {high * 100:.0f} %" for low, high in pairwise(EDGES)]
    return {
        "num_masks": len(fraction_N),
        "median": round(float(np.median(fraction_N)), 4) if len(fraction_N) else None,
        "histogram": {
            "none": int((status_N == Status.NO_FOREGROUND).sum()),
            **{name: int(count) for name, count in zip(names, counts, strict=True)},
            "all": int((status_N == Status.ALL_FOREGROUND).sum()),
        },
    }


def histogram(size: dict[str, Any]) -> str:
    """The histogram for people. Args: size: of `foreground_size`."""
    if not size["num_masks"]:
        return "foreground: no row has a mask"
    most = max(size["histogram"].values())
    lines = [
        f"  {name:>11} {count:9,}  {'#' * -(-count * _BAR_LENGTH // most)}" for name, count in size["histogram"].items()
    ]
    return "\n".join([f"foreground: half of the masks cover less than {size['median']:.1%} of their image", *lines])


@dataclass(frozen=True, kw_only=True)
class Another:
    """A build at another threshold, as words of a command line."""

    words: Sequence[str]
    """What names the data set and, where there are no soft maps to cut, the detector."""
    source: Path | None
    """The store whose soft maps can be cut; None = there are none."""
    out: Path
    """The store that was built."""
    tried: float
    """The threshold that it was cut at."""
    own: float | None
    """The detector's own threshold; None = not known."""


def warning(size: dict[str, Any], again: Another) -> str:
    """What cannot be right about the masks' size and how to go on, "" where nothing is.

    Args: size: of `foreground_size`. again: what could be tried next.
    """
    if not size["num_masks"]:
        return ""
    empty_fraction = size["histogram"]["none"] / size["num_masks"]
    if empty_fraction > 0.5:
        wrong = f"{empty_fraction:.0%} of the masks are empty"
    elif size["median"] < SMALLEST_MEDIAN:
        wrong = f"half of the masks cover less than {size['median']:.1%} of their image, which is a part of an object"
    elif size["median"] > LARGEST_MEDIAN:
        wrong = f"half of the masks cover more than {size['median']:.0%} of their image, which is more than an object"
    elif empty_fraction > LARGEST_EMPTY_FRACTION:
        wrong = f"{empty_fraction:.0%} of the masks are empty"
    else:
        return ""
    threshold = _better(again, is_too_high=size["median"] <= LARGEST_MEDIAN)
    out = again.out.with_name(f"{again.out.stem}-{threshold}{again.out.suffix}")
    source = ["--soft-maps"] if again.source is None else ["--from", str(again.source)]
    words = ["build-store", *again.words, *source, "--threshold", str(threshold), "--out", str(out)]
    return f"{wrong}. To cut at another threshold than {again.tried}:\n  {program()} {shlex.join(words)}"


def _better(again: Another, *, is_too_high: bool) -> float:
    """The detector's own threshold if that lies the right way, else halfway to the end."""
    if again.own is not None and again.own != again.tried and (again.own < again.tried) == is_too_high:
        return again.own
    return round(again.tried / 2 if is_too_high else (1 + again.tried) / 2, 2)
