"""Line charts as inline SVG: axes, ticks, one line or several; colours and dashes come from the page's style.

One noisy line is drawn as it was, pale, with its smoothed course over it; of several lines only the smoothed courses.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape

import numpy as np

from backdrop.stores.pages.style import CHARTS, COLOURS

WIDTH_PX, HEIGHT_PX = 460, 240
# Lines that are told apart by colour and dashes (`style.CSS`); further ones begin again.
NUM_STYLES = 6
_LEFT_PX, _RIGHT_PX, _TOP_PX, _BOTTOM_PX = 58, 14, 12, 36
_MAX_POINTS = 400
# About how many ticks an axis has.
_NUM_TICKS = 5
# The smoothed line averages over this share of the run.
_SMOOTHING_FRACTION = 0.04

_ToPixels = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line: x_N and y_N (N,) float; label for the legend, "" where there is one line only.

    is_noisy: whether it is smoothed. style: which colour and dashes, from 0.
    """

    x_N: np.ndarray
    y_N: np.ndarray
    label: str = ""
    is_noisy: bool = False
    style: int = 0


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over common axes. name: of what is drawn. unit: of it. x_name: what runs along the page.

    has_log_axis: whether the vertical axis is logarithmic; values of 0 or less are then left out.
    x_range, y_range: what the axes show at least. has_legend: whether the drawing itself names its lines.
    in_words: what it shows, for those who cannot see it; "" = start, end, lowest and highest of each line.
    """

    name: str
    lines: tuple[Line, ...]
    unit: str = ""
    x_name: str = "step"
    has_log_axis: bool = False
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    has_legend: bool = False
    in_words: str = ""


def chart(drawn: Chart) -> str:
    """Draw a chart.

    Args: drawn: values that are not finite leave a gap and are counted in the text.
    Returns: an <svg> element with a text alternative, or a sentence where there is no finite value.
    """
    lines = [line for line in (_finite(line, drawn.has_log_axis) for line in drawn.lines) if len(line.x_N)]
    if not lines:
        return f"<p>{escape(drawn.name)}: no finite value was recorded.</p>"
    every_x = np.concatenate([line.x_N for line in lines] + ([] if drawn.x_range is None else [drawn.x_range]))
    every_y = np.concatenate([line.y_N for line in lines] + ([] if drawn.y_range is None else [_y_ends(drawn)]))
    x_ticks, x_px = _axis(every_x, _LEFT_PX, WIDTH_PX - _RIGHT_PX)
    y_ticks, y_px = _axis(every_y, HEIGHT_PX - _BOTTOM_PX, _TOP_PX)
    if drawn.has_log_axis and (whole := np.unique(np.round(y_ticks))).size > 1:
        y_ticks = whole[(whole >= every_y.min()) & (whole <= every_y.max())]
    alternative = drawn.in_words or _in_words(drawn, lines)
    parts = [f'<svg viewBox="0 0 {WIDTH_PX} {HEIGHT_PX}" role="img" aria-label="{escape(alternative)}">']
    y_texts = [number(10.0**tick if drawn.has_log_axis else tick) for tick in y_ticks]
    parts += [_y_tick(y, text) for y, text in zip(y_px(y_ticks), y_texts, strict=True)]
    parts += [_x_tick(x, number(tick)) for x, tick in zip(x_px(x_ticks), x_ticks, strict=True)]
    parts.append(
        f'<text class="axis" x="{WIDTH_PX - _RIGHT_PX}" y="{HEIGHT_PX - 4}" text-anchor="end">'
        f"{escape(drawn.x_name)}</text>"
    )
    parts += [_drawn(line, x_px, y_px, is_alone=len(drawn.lines) == 1) for line in lines]
    return "".join([*parts, *(_inner_legend(lines) if drawn.has_legend else ()), "</svg>"])


def figure(drawn: Chart, explanation: str) -> str:
    """Return a chart as a <figure>: its name and unit, the drawing, a legend, and what it shows in words.

    Args: explanation: HTML.
    """
    unit = f' <span class="unit">({escape(drawn.unit)})</span>' if drawn.unit else ""
    words = f'<p class="note">{explanation}</p>' if explanation else ""
    return (
        f"<figure><figcaption><b>{escape(drawn.name)}</b>{unit}{words}</figcaption>{chart(drawn)}"
        f"{legend(drawn.lines)}</figure>"
    )


def density_chart(share_of: Mapping[str, np.ndarray], axis: str) -> str:
    """Draw densities of a quantity between 0 and 1 over each other, the first on top.

    Args: share_of: names, each with the shares of its cases in equal bins, float (bins,), sum 1.
        axis: what the quantity is.
    Returns: an <svg> element with a text alternative.
    """
    lines = [
        Line(
            x_N=(np.arange(len(share_B)) + 0.5) / len(share_B),
            y_N=np.asarray(share_B, dtype=np.float64) * len(share_B),
            label=name,
            style=style,
        )
        for style, (name, share_B) in enumerate(share_of.items())
    ]
    peaks = "; ".join(f"{line.label} is highest at {number(line.x_N[line.y_N.argmax()])}" for line in lines)
    return chart(
        Chart(
            name="density",
            lines=tuple(reversed(lines)),
            x_name=axis,
            x_range=(0.0, 1.0),
            y_range=(0.0, 1.0),
            has_legend=True,
            in_words=f"Density over {axis}: {peaks}.",
        )
    )


def standalone(svg: str) -> str:
    """Return the text of an SVG file of a chart, in the pages' colours. Args: svg: the element."""
    opening, _, rest = svg.partition(">")
    style = f"{COLOURS}{CHARTS}svg {{ background: var(--paper); font-family: system-ui, sans-serif; }}"
    return f'{opening} xmlns="http://www.w3.org/2000/svg"><style>{style}</style>{rest}\n'


def legend(lines: tuple[Line, ...]) -> str:
    """Return the names of lines beside a sample of each; "" where none has a name."""
    items = "".join(
        f'<li><svg class="key" viewBox="0 0 28 10" aria-hidden="true"><polyline class="{_style(line)}" '
        f'points="1,5 27,5"/></svg>{escape(line.label)}</li>'
        for line in lines
        if line.label
    )
    return f'<ul class="legend">{items}</ul>' if items else ""


def ticks(low: float, high: float) -> np.ndarray:
    """Return round numbers that cover a range: multiples of 1, 2 or 5 times a power of ten, inside [low, high].

    Args: low, high: the range. Returns: float (n,), ascending, at least one.
    """
    span = float(high - low)
    if not 1e-300 < span < 1e300:  # none, or more than numbers can tell
        return np.array([float(low)])
    power = 10.0 ** np.floor(np.log10(span / _NUM_TICKS))
    spacing = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= _NUM_TICKS)
    found = np.arange(np.ceil(low / spacing - 1e-9), np.floor(high / spacing + 1e-9) + 1) * spacing
    return found.round(12) if len(found) else np.array([float(low)])


def smoothed(values: np.ndarray) -> np.ndarray:
    """Return the trailing mean over 4 % of the run (fewer values at the start); float (N,) to float (N,)."""
    window = max(1, round(len(values) * _SMOOTHING_FRACTION))
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (sums[end] - sums[start]) / (end - start)


def number(value: float) -> str:
    """Return a number with four significant digits."""
    return f"{float(value) + 0.0:.4g}"  # + 0.0 makes of -0 a 0


def _y_ends(drawn: Chart) -> np.ndarray:
    """What the vertical axis shows at least, as it stands on it."""
    ends = np.array(drawn.y_range, dtype=np.float64)
    return np.log10(ends) if drawn.has_log_axis else ends


def _finite(line: Line, has_log_axis: bool) -> Line:
    """The values that can be drawn, as they stand on the axis."""
    is_drawn = np.isfinite(line.y_N) & (line.y_N > 0 if has_log_axis else True)
    y_N = line.y_N[is_drawn].astype(np.float64)
    return Line(
        x_N=line.x_N[is_drawn],
        y_N=np.log10(y_N) if has_log_axis else y_N,
        label=line.label,
        is_noisy=line.is_noisy,
        style=line.style,
    )


def _axis(values: np.ndarray, start_px: float, end_px: float) -> tuple[np.ndarray, _ToPixels]:
    """Ticks of an axis, and the way from values to pixels."""
    found = ticks(values.min(), values.max())
    if (values == np.round(values)).all():  # steps, epochs, rounds: there is nothing between them
        found = np.unique(np.round(found))
    low, high = min(values.min(), found[0]), max(values.max(), found[-1])
    high = high if high > low else low + 1
    return found, lambda value: start_px + (value - low) / (high - low) * (end_px - start_px)


def _in_words(drawn: Chart, lines: list[Line]) -> str:
    unit = f" {drawn.unit}" if drawn.unit else ""
    lost = sum(len(line.x_N) for line in drawn.lines) - sum(len(line.x_N) for line in lines)
    sentences = []
    for line in lines:
        value_N = 10.0**line.y_N if drawn.has_log_axis else line.y_N
        last = (smoothed(value_N) if line.is_noisy else value_N)[-1]
        name = f"{line.label}: " if line.label else ""
        sentences.append(
            f"{name}{number(value_N[0])}{unit} at the start, {number(last)}{unit} at the end"
            f"{' (smoothed)' if line.is_noisy else ''}, lowest {number(value_N.min())}, highest {number(value_N.max())}"
        )
    gaps = f"; {lost} values are not finite" if lost and not drawn.has_log_axis else ""
    return f"{drawn.name} by {drawn.x_name}, {len(lines[0].x_N)} points: {'; '.join(sentences)}{gaps}."


def _drawn(line: Line, x_px: _ToPixels, y_px: _ToPixels, *, is_alone: bool) -> str:
    """One line, or where it is alone and noisy, its values and its smoothed course."""
    x_N = x_px(line.x_N)
    if not line.is_noisy:
        return _polyline(_style(line), x_N, y_px(line.y_N))
    raw = _polyline("raw", x_N, y_px(line.y_N)) if is_alone else ""
    return raw + _polyline(_style(line), x_N, y_px(smoothed(line.y_N)))


def _inner_legend(lines: list[Line]) -> list[str]:
    """Names of lines in the upper right corner, those of the first styles first."""
    parts = []
    for row, line in enumerate(sorted(lines, key=lambda line: line.style)):
        right, top = WIDTH_PX - _RIGHT_PX, _TOP_PX + 12 + 18 * row
        parts.append(f'<polyline class="{_style(line)}" points="{right - 150},{top - 4} {right - 126},{top - 4}"/>')
        parts.append(f'<text class="axis" x="{right - 120}" y="{top}">{escape(line.label)}</text>')
    return parts


def _style(line: Line) -> str:
    return f"line s{line.style % NUM_STYLES}"


def _polyline(name: str, x_N: np.ndarray, y_N: np.ndarray) -> str:
    """A polyline of at most 400 points, each the mean of its neighbours, so that no value is picked by chance."""
    groups = np.array_split(np.arange(len(x_N)), min(len(x_N), _MAX_POINTS))
    points = " ".join(f"{x_N[group].mean():.1f},{y_N[group].mean():.1f}" for group in groups)
    if len(groups) == 1:
        x, y = points.split(",")
        return f'<circle class="{name}" cx="{x}" cy="{y}" r="3"/>'
    return f'<polyline class="{name}" points="{points}"/>'


def _y_tick(y: float, text: str) -> str:
    return (
        f'<line class="grid" x1="{_LEFT_PX}" x2="{WIDTH_PX - _RIGHT_PX}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="axis" x="{_LEFT_PX - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    )


def _x_tick(x: float, text: str) -> str:
    bottom = HEIGHT_PX - _BOTTOM_PX
    return (
        f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        f'<text class="axis" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{text}</text>'
    )
