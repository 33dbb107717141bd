"""A chart of one score, rows under each other: a dot with its interval, and a tick for what it is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from backdrop.stores.pages.curves import WIDTH_PX, number, ticks

_ROW_PX, _TOP_PX, _BOTTOM_PX, _SIDE_PX = 36, 8, 40, 16
_MAX_LABEL = 62


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One row. low, high: of the interval, equal to value where there is none. tick: None = not shown."""

    label: str
    value: float
    low: float
    high: float
    tick: float | None = None


def interval_chart(name: str, marks: Sequence[Mark], *, tick_name: str = "paper") -> str:
    """Draw a chart.

    Args: name: of the score, with its unit. marks: at least one, from the top. tick_name: what ticks are.
    Returns: an <svg> element with a text alternative.
    """
    values = [value for mark in marks for value in (mark.low, mark.high, mark.tick) if value is not None]
    lowest, highest = min(values), max(values)
    margin = (highest - lowest) * 0.05 or max(abs(highest) * 0.05, 0.05)
    lowest, highest = lowest - margin, highest + margin
    height = _TOP_PX + _ROW_PX * len(marks) + _BOTTOM_PX

    def x(value: float) -> float:
        return _SIDE_PX + (value - lowest) / (highest - lowest) * (WIDTH_PX - 2 * _SIDE_PX)

    words = "; ".join(_in_words(mark, tick_name) for mark in marks)
    parts = [f'<svg viewBox="0 0 {WIDTH_PX} {height}" role="img" aria-label="{escape(f"{name}: {words}.")}">']
    bottom = height - _BOTTOM_PX
    for tick in ticks(lowest, highest):
        at = x(float(tick))
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP_PX}" y2="{bottom}"/>')
        parts.append(_text(at, bottom + 16, number(float(tick)), "middle"))
    parts.append(_text(WIDTH_PX - _SIDE_PX, height - 6, name, "end"))
    for row, mark in enumerate(marks):
        parts += _drawn(mark, _TOP_PX + _ROW_PX * row, x(mark.value), x(mark.low), x(mark.high))
        if mark.tick is not None:
            y, at = _TOP_PX + _ROW_PX * row + 25, x(mark.tick)
            parts.append(f'<polyline class="line s1" points="{at:.1f},{y - 8} {at:.1f},{y + 8}"/>')
    return "".join([*parts, "</svg>"])


def _drawn(mark: Mark, top: int, value: float, low: float, high: float) -> list[str]:
    y = top + 25
    parts = [_text(_SIDE_PX, top + 13, mark.label[:_MAX_LABEL], "start")]
    if high > low:
        parts.append(f'<polyline class="line s0" points="{low:.1f},{y} {high:.1f},{y}"/>')
    return [*parts, f'<circle class="line s0" cx="{value:.1f}" cy="{y}" r="3"/>']


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="axis" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _in_words(mark: Mark, tick_name: str) -> str:
    interval = f", {number(mark.low)} to {number(mark.high)}" if mark.high > mark.low else ""
    tick = "" if mark.tick is None else f", {tick_name} {number(mark.tick)}"
    return f"{mark.label} {number(mark.value)}{interval}{tick}"
