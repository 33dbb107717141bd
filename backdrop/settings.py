"""The one form of a setting: a field annotated with what is allowed and what it means, and the check of both.

    momentum: Annotated[float, within(0, 1), "of the key network's moving average (MoCo, eq. 2)"] = 0.999

What is allowed stands in the annotation alone; whether two settings go together is said by plain functions beside the
record. `name=value` texts are applied by `backdrop.setting_overrides`.
"""

import difflib
import itertools
import math
import typing
from collections.abc import Collection
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from backdrop.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers that a setting may have; in a tuple each of them."""

    lowest: float
    highest: float = math.inf
    excludes_lowest: bool = False
    is_rising: bool = False

    def holds(self, value: Any) -> bool:
        """Return whether a number, or each of a tuple, lies within; NaN never does."""
        values = value if isinstance(value, tuple) else (value,)
        is_inside = all(
            (self.lowest < item if self.excludes_lowest else self.lowest <= item) and item <= self.highest
            for item in values
        )
        return is_inside and (not self.is_rising or all(a <= b for a, b in itertools.pairwise(values)))

    def __str__(self) -> str:
        """Return the range in words that follow "must be"."""
        rising = "rising numbers " if self.is_rising else ""
        if self.excludes_lowest:
            at_most = "" if self.highest == math.inf else f", {_plain(self.highest)} at most"
            return f"{rising}above {_plain(self.lowest)}{at_most}"
        if self.highest == math.inf:
            return f"{rising}{_plain(self.lowest)} or more"
        return f"{rising}in [{_plain(self.lowest)}, {_plain(self.highest)}]"


@dataclass(frozen=True)
class Choices:
    """Texts that a setting may have."""

    names: tuple[str, ...]


def within(lowest: float, highest: float) -> Range:
    """Return the closed range [lowest, highest]."""
    return Range(lowest=lowest, highest=highest)


def at_least(lowest: float) -> Range:
    """Return the range of numbers from `lowest` on."""
    return Range(lowest=lowest)


def above(lowest: float) -> Range:
    """Return the range of numbers above `lowest`."""
    return Range(lowest=lowest, excludes_lowest=True)


def rising_above(lowest: float, highest: float = math.inf) -> Range:
    """Return what a tuple may hold whose numbers never fall, each above `lowest` and at most `highest`."""
    return Range(lowest=lowest, highest=highest, excludes_lowest=True, is_rising=True)


def one_of(names: Collection[str]) -> Choices:
    """Return the choice between some texts."""
    return Choices(tuple(names))


def check_settings(record: Any, prefix: str = "") -> None:
    """Check each value of a record of settings, and of the records inside it, against its annotation.

    Args:
        record: a dataclass; `None` in a field that allows it is not looked at.
        prefix: path of the record, as `--set` names it; "" = none.

    Raises:
        UserError: naming the setting, its value and what is allowed.
    """
    hints = typing.get_type_hints(type(record), include_extras=True)
    for field in fields(record):
        value, path = getattr(record, field.name), f"{prefix}.{field.name}".lstrip(".")
        if is_dataclass(value):
            check_settings(value, path)
        elif isinstance(value, tuple) and value and is_dataclass(value[0]):
            for index, item in enumerate(value):
                check_settings(item, f"{path}.{index}")
        elif value is not None:
            _check_value(path, value, getattr(hints[field.name], "__metadata__", ()))


def meaning(kind: type, name: str) -> str:
    """Return the sentence in a setting's annotation, "" where it has none.

    Args:
        kind: of the record.
        name: of the field.
    """
    hint = typing.get_type_hints(kind, include_extras=True)[name]
    return next((item for item in getattr(hint, "__metadata__", ()) if isinstance(item, str)), "")


def _check_value(path: str, value: Any, allowed: tuple[Any, ...]) -> None:
    for rule in allowed:
        if isinstance(rule, Range) and not rule.holds(value):
            raise UserError(f"{path}={_written(value)} must be {rule}")
        if isinstance(rule, Choices) and value not in rule.names:
            near = difflib.get_close_matches(str(value), rule.names, n=1)
            suggestion = f" Did you mean {near[0]}?" if near else ""
            raise UserError(f"{path}={value!r} is unknown; allowed: {', '.join(rule.names)}.{suggestion}")


def _written(value: Any) -> str:
    """A value as `--set` takes it."""
    return ",".join(f"{item:g}" for item in value) if isinstance(value, tuple) else str(value)


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"
