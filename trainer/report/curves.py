"""Charts as SVG: a quantity over a run, as it was and smoothed; densities side by side. Colours come from the page."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import numpy as np

from trainer.report._style import CHARTS, COLOURS

WIDTH_PX, HEIGHT_PX = 460, 240
_LEFT_PX, _RIGHT_PX, _TOP_PX, _BOTTOM_PX = 58, 12, 12, 36
_MAX_POINTS = 400
# The smoothed line averages over this share of the run.
_SMOOTHING_FRACTION = 0.04


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One quantity over the run: steps (N,) and values (N,), float; name and unit are shown.

    is_noisy: whether a smoothed line is laid over the values.
    """

    name: str
    unit: str
    steps: np.ndarray
    values: np.ndarray
    is_noisy: bool = True


def chart(curve: Curve) -> str:
    """Draw one curve.

    Args: curve: at least one finite value; values that are not finite leave a gap and are counted in the text.
    Returns: an <svg> element with a text alternative.
    """
    is_finite = np.isfinite(curve.values)
    steps, values = curve.steps[is_finite], curve.values[is_finite]
    if not len(values):
        return f"<p>{escape(curve.name)}: no finite value was recorded.</p>"
    x_ticks, y_ticks = ticks(steps.min(), steps.max()), ticks(values.min(), values.max())
    x_low, x_high = min(steps.min(), x_ticks[0]), max(steps.max(), x_ticks[0] + 1)
    y_low, y_high = min(values.min(), y_ticks[0]), max(values.max(), y_ticks[-1])
    y_high = y_high if y_high > y_low else y_low + 1

    def x_px(step: np.ndarray) -> np.ndarray:
        return _across(step, x_low, x_high)

    def y_px(value: np.ndarray) -> np.ndarray:
        return _up(value, y_low, y_high)

    smooth = smoothed(values) if curve.is_noisy else values
    unit = f" {curve.unit}" if curve.unit else ""
    gaps = int((~is_finite).sum())
    alternative = (
        f"{curve.name} over {len(curve.values)} steps: {_number(values[0])}{unit} at the start, "
        f"{_number(smooth[-1])}{unit} at the end (smoothed), lowest {_number(values.min())}, "
        f"highest {_number(values.max())}{f'; {gaps} values are not finite' if gaps else ''}."
    )
    parts = [_opening(alternative)]
    parts += [_y_tick(float(y_px(tick)), _number(tick)) for tick in y_ticks]
    parts += [_x_tick(float(x_px(tick)), _number(tick)) for tick in x_ticks]
    parts.append(_axis_name("step"))
    parts.append(_line("raw", x_px(steps), y_px(values)))
    parts.append(_line("smooth", x_px(steps), y_px(smooth)))
    return "".join([*parts, "</svg>"])


def density_chart(share_of: Mapping[str, np.ndarray], axis: str) -> str:
    """Draw densities of a quantity between 0 and 1 over each other.

    Args: share_of: at most two names, each with the shares of its cases in equal bins, float (bins,), sum 1.
        axis: what the quantity is.
    Returns: an <svg> element with a text alternative.
    """
    density_of = {name: np.asarray(share_B, dtype=np.float64) * len(share_B) for name, share_B in share_of.items()}
    y_high = max(float(density.max()) for density in density_of.values()) or 1.0
    peaks = [f"{name} is highest at {_number(_centres(each)[each.argmax()])}" for name, each in density_of.items()]
    parts = [_opening(f"Density over {axis}: {'; '.join(peaks)}.")]
    parts += [_y_tick(float(_up(tick, 0, y_high)), _number(tick)) for tick in ticks(0, y_high)]
    parts += [_x_tick(float(_across(tick, 0, 1)), _number(tick)) for tick in ticks(0, 1)]
    parts.append(_axis_name(axis))
    # The first, ours, is the page's strong line, and lies on top.
    for row, (name, density) in reversed(list(enumerate(density_of.items()))):
        kind = ("smooth", "raw")[row]
        parts.append(_line(kind, _across(_centres(density), 0, 1), _up(density, 0, y_high)))
        right, top = WIDTH_PX - _RIGHT_PX, _TOP_PX + 12 + 18 * row
        parts.append(f'<polyline class="{kind}" points="{right - 150},{top - 4} {right - 126},{top - 4}"/>')
        parts.append(f'<text class="axis" x="{right - 120}" y="{top}">{escape(name)}</text>')
    return "".join([*parts, "</svg>"])


def standalone(svg: str) -> str:
    """Return the text of an SVG file of a chart, in the page's colours. Args: svg: the element."""
    opening, _, rest = svg.partition(">")
    style = f"{COLOURS}{CHARTS}svg {{ background: var(--paper); font-family: system-ui, sans-serif; }}"
    return f'{opening} xmlns="http://www.w3.org/2000/svg"><style>{style}</style>{rest}\n'


def ticks(low: float, high: float, wanted: int = 5) -> np.ndarray:
    """Return round numbers that cover a range: multiples of 1, 2 or 5 times a power of ten, inside [low, high].

    Args: low, high: the range. wanted: about how many. Returns: float (n,), ascending, at least one.
    """
    span = float(high - low)
    if span <= 0:
        return np.array([float(low)])
    power = 10.0 ** np.floor(np.log10(span / wanted))
    spacing = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= wanted)
    found = np.arange(np.ceil(low / spacing - 1e-9), np.floor(high / spacing + 1e-9) + 1) * spacing
    return found.round(12) if len(found) else np.array([float(low)])


def smoothed(values: np.ndarray) -> np.ndarray:
    """Return the trailing mean over 4 % of the run (fewer values at the start); float (N,) to float (N,)."""
    window = max(1, round(len(values) * _SMOOTHING_FRACTION))
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (sums[end] - sums[start]) / (end - start)


def _centres(share_B: np.ndarray) -> np.ndarray:
    return (np.arange(len(share_B)) + 0.5) / len(share_B)


def _across(value: np.ndarray, low: float, high: float) -> np.ndarray:
    return _LEFT_PX + (value - low) / (high - low) * (WIDTH_PX - _LEFT_PX - _RIGHT_PX)


def _up(value: np.ndarray, low: float, high: float) -> np.ndarray:
    return HEIGHT_PX - _BOTTOM_PX - (value - low) / (high - low) * (HEIGHT_PX - _TOP_PX - _BOTTOM_PX)


def _opening(alternative: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH_PX} {HEIGHT_PX}" role="img" aria-label="{escape(alternative)}">'


def _axis_name(name: str) -> str:
    right, bottom = WIDTH_PX - _RIGHT_PX, HEIGHT_PX - 4
    return f'<text class="axis" x="{right}" y="{bottom}" text-anchor="end">{escape(name)}</text>'


def _line(name: str, x_N: np.ndarray, y_N: np.ndarray) -> str:
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


def _number(value: float) -> str:
    return f"{float(value) + 0.0:.4g}"  # + 0.0 makes of -0 a 0
