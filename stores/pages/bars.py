"""Bars of percentages under each other, each with a line that says what it is; a tick stands where it was before."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar. label: its name. words: what it is. value, before: percent; before None = no tick."""

    label: str
    words: str
    value: float
    before: float | None = None


def bars(name: str, drawn: Sequence[Bar]) -> str:
    """Return bars as HTML that a screen reader reads as a list. Args: name: of what is drawn, with its unit."""
    return f'<ul class="bars" aria-label="{escape(name)}">{"".join(_bar(bar) for bar in drawn)}</ul>'


def _bar(bar: Bar) -> str:
    tick = "" if bar.before is None else f'<i style="left: {_share(bar.before):.1f}%"></i>'
    before = "" if bar.before is None else f" <small>untrained {bar.before:.0f}</small>"
    return (
        f'<li><b>{escape(bar.label)}</b> <span class="n">{bar.value:.0f}{before}</span>'
        f'<span class="bar" aria-hidden="true"><span style="width: {_share(bar.value):.1f}%"></span>{tick}</span>'
        f"<small>{escape(bar.words)}</small></li>"
    )


def _share(percent: float) -> float:
    return min(100.0, max(0.0, percent))
