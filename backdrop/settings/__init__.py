"""The one form of a setting: a field annotated with what is allowed and what it means, and the check of both.

    momentum: Annotated[float, within(0, 1), "of the key network's moving average (MoCo, eq. 2)"] = 0.999

What is allowed stands in the annotation alone; whether two settings go together is said by plain functions beside the
record. `overrides` applies `name=value` texts, `config_files` reads and writes them, `table` shows a record.
"""

import itertools
import math
import typing
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from backdrop.errors import UserError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers that a setting may have; in a tuple each of them."""

    lowest: float
    highest: float = math.inf
    excludes_lowest: bool = False
    excludes_highest: bool = False
    is_rising: bool = False

    def holds(self, value: Any) -> bool:
        """Return whether a number, or each of a tuple but None, lies within; NaN never does."""
        values = [item for item in (value if isinstance(value, tuple) else (value,)) if item is not None]
        is_inside = all(self._holds_one(item) for item in values)
        return is_inside and (not self.is_rising or all(a <= b for a, b in itertools.pairwise(values)))

    def _holds_one(self, item: float) -> bool:
        is_high_enough = self.lowest < item if self.excludes_lowest else self.lowest <= item
        is_low_enough = item < self.highest if self.excludes_highest else item <= self.highest
        return is_high_enough and is_low_enough and not math.isinf(item)

    def __str__(self) -> str:
        """Return the range in words that follow "must be"."""
        rising = "rising numbers " if self.is_rising else ""
        if self.excludes_lowest:
            at_most = "" if self.highest == math.inf else f", {_plain(self.highest)} at most"
            return f"{rising}above {_plain(self.lowest)}{at_most}"
        if self.highest == math.inf:
            return f"{rising}{_plain(self.lowest)} or more"
        return f"{rising}in [{_plain(self.lowest)}, {_plain(self.highest)}{')' if self.excludes_highest else ']'}"


@dataclass(frozen=True)
class Choices:
    """Texts or numbers that a setting may have."""

    names: tuple[Any, ...]

    def __str__(self) -> str:
        """Return them in words."""
        return f"one of {', '.join(map(str, self.names))}"


def within(lowest: float, highest: float) -> Range:
    """Return the closed range [lowest, highest]."""
    return Range(lowest=lowest, highest=highest)


def from_below(lowest: float, highest: float) -> Range:
    """Return the half-open range [lowest, highest)."""
    return Range(lowest=lowest, highest=highest, excludes_highest=True)


def above_within(lowest: float, highest: float) -> Range:
    """Return the half-open range (lowest, highest]."""
    return Range(lowest=lowest, highest=highest, excludes_lowest=True)


def at_least(lowest: float) -> Range:
    """Return the range of numbers from `lowest` on."""
    return Range(lowest=lowest)


def above(lowest: float) -> Range:
    """Return the range of numbers above `lowest`."""
    return Range(lowest=lowest, excludes_lowest=True)


def rising_above(lowest: float, highest: float = math.inf) -> Range:
    """Return what a tuple may hold whose numbers never fall, each above `lowest` and at most `highest`."""
    return Range(lowest=lowest, highest=highest, excludes_lowest=True, is_rising=True)


def rising_from(lowest: float, highest: float = math.inf) -> Range:
    """Return what a tuple may hold whose numbers never fall, each in [lowest, highest]."""
    return Range(lowest=lowest, highest=highest, is_rising=True)


def one_of(names: Collection[Any]) -> Choices:
    """Return the choice between some texts or numbers; in a tuple each is one of them."""
    return Choices(tuple(names))


# What torch and the random streams take for a seed.
SEEDS = within(0, 2**63 - 1)


def check_settings(record: Any, prefix: str = "") -> None:
    """Check each value of a record of settings, and of the records inside it, against its annotation.

    Args:
        record: a dataclass; `None` in a field that allows it is not looked at.
        prefix: path of the record, as `--set` names it; "" = none.

    Raises:
        UserError: naming the setting, its value and what is allowed.
    """
    for leaf in leaves(record, prefix):
        if leaf.value is not None:
            _check(leaf)


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A single setting of a record. allowed: by its annotation, None = anything of its type. meaning: likewise."""

    path: str
    value: Any
    default: Any
    allowed: Range | Choices | None
    meaning: str


def leaves(record: Any, prefix: str = "") -> Iterator[Leaf]:
    """Yield every single setting of a record, those of the records inside it by their path.

    Args:
        record: a dataclass.
        prefix: path of the record itself.
    """
    hints = typing.get_type_hints(type(record), include_extras=True)
    for field in fields(record):
        value, path = getattr(record, field.name), f"{prefix}.{field.name}".lstrip(".")
        inside = value if isinstance(value, tuple) and value and is_dataclass(value[0]) else ()
        if is_dataclass(value):
            yield from leaves(value, path)
        for index, item in enumerate(inside):
            yield from leaves(item, f"{path}.{index}")
        if not is_dataclass(value) and not inside:
            said = getattr(hints[field.name], "__metadata__", ())
            yield Leaf(
                path=path,
                value=value,
                default=field.default,
                allowed=next((item for item in said if isinstance(item, Range | Choices)), None),
                meaning=next((item for item in said if isinstance(item, str)), ""),
            )


def written(value: Any) -> str:
    """Return a value as `name=value` takes it: 0.2,1.0 for a tuple, none for None, true or false.

    Args: value: what `overrides` reads: text, number, truth value, None, or a tuple of them.
    """
    if isinstance(value, tuple | list):
        return ",".join(map(written, value)) if value else "()"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else repr(value)


def _check(leaf: Leaf) -> None:
    if isinstance(leaf.allowed, Range) and not leaf.allowed.holds(leaf.value):
        raise UserError(f"{leaf.path}={written(leaf.value)} must be {leaf.allowed}")
    if isinstance(leaf.allowed, Choices):
        names = leaf.allowed.names
        for value in leaf.value if isinstance(leaf.value, tuple) else (leaf.value,):
            if value not in names:
                known = [str(name) for name in names if name != ""]
                meant = did_you_mean(str(value), known)
                raise UserError(f"{leaf.path}={value!r} is unknown; allowed: {', '.join(known)}.{meant}")


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"
