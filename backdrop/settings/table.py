"""What `--show-settings` prints: every setting with its value, where that is from, what is allowed."""

import textwrap
from collections.abc import Sequence
from typing import Any

from backdrop.settings import leaves, written
from backdrop.settings.given import Given, sources_of

_WIDTH = 110


def rows(record: Any, given: Sequence[Given] = (), otherwise: str = "default") -> list[dict[str, Any]]:
    """Return one row per single setting: name, value, allowed, source, meaning.

    Args:
        record: a dataclass of settings.
        given: what the user changed in it.
        otherwise: where the other values come from that differ from their field's default.
    """
    sources = sources_of(record, given)
    return [
        {
            "name": leaf.path,
            "value": leaf.value,
            "allowed": str(leaf.allowed) if leaf.allowed else "",
            "source": sources.get(leaf.path, "default" if leaf.value == leaf.default else otherwise),
            "meaning": leaf.meaning,
        }
        for leaf in leaves(record)
    ]


def following_rows(found: dict[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """Return rows of what follows from settings and is none. Args: found: value and meaning by name."""
    return [
        {"name": name, "value": value, "allowed": "", "source": "follows", "meaning": meaning}
        for name, (value, meaning) in found.items()
    ]


def text(found: list[dict[str, Any]]) -> str:
    """Return rows for people: a line with value, source and what is allowed, below it the sentence."""
    lines = []
    for row in found:
        said = "; ".join(part for part in (row["source"], row["allowed"]) if part)
        lines.append(f"{row['name']} = {written(row['value'])}  ({said})")
        lines += textwrap.wrap(row["meaning"], _WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)
