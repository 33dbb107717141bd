"""bench.html: the last runs of every measurement, drawn, with what both sides did."""

from collections.abc import Sequence
from html import escape

import numpy as np

from backdrop.stores.pages.curves import Chart, Line, figure, number
from backdrop.stores.pages.document import Section, page, table
from tests.bench.runs import SectionRun

# Older ones were of other code.
NUM_RUNS = 20
LEAD = """<p>A ratio is of two sides of the same run; the second column says what both did. Machines are noisy: the
range of several runs says more than the last.</p>"""


def bench_page(runs: Sequence[SectionRun]) -> str:
    """Return the page of runs, the oldest first."""
    names = list(dict.fromkeys(run.section for run in runs))
    of = {name: [run for run in runs if run.section == name][-NUM_RUNS:] for name in names}
    return page(
        "Backdrop: measured speed", LEAD, [Section(anchor=name, heading=name, body=_body(of[name])) for name in names]
    )


def _body(runs: Sequence[SectionRun]) -> str:
    last = runs[-1]
    where = (
        f"{len(runs)} runs; the last at {last.time}, commit {last.commit[:12]}, {last.processor}, {last.num_cores} "
        f"cores, Python {last.python}, load {last.load:.1f} before, {last.seconds:.0f} s"
    )
    rows = [_row(name, entry, runs) for name, entry in last.lines.items()]
    head = ("", "what both sides did", "value", "peer", "ratio", "least", "most")
    numbers = table(head, rows, label=last.section, num_text_columns=2)
    drawn = "".join(_drawn(name, runs) for name in last.lines)
    return f'<p>{escape(where)}</p>{numbers}<div class="charts">{drawn}</div>'


def _row(name: str, entry: dict, runs: Sequence[SectionRun]) -> tuple[str, ...]:
    values, _ = _course(name, runs)
    peer = "" if entry["peer"] is None else number(entry["peer"])
    ratio = "" if entry["ratio"] is None else f"{entry['ratio']:.2f}"
    value = f"{number(entry['value'])} {escape(entry['unit'])}"
    range_ = (number(values.min()), number(values.max()))
    return (escape(_short(name)), escape(entry["what"]), value, peer, ratio, *range_)


def _drawn(name: str, runs: Sequence[SectionRun]) -> str:
    """A line's ratio over its runs, or its value where it has no peer; nothing of a single run."""
    values, unit = _course(name, runs)
    if len(values) < 2:
        return ""
    line = Line(x_N=np.arange(1 - len(values), 1, dtype=np.float64), y_N=values)
    return figure(
        Chart(name=_short(name), unit=unit, lines=(line,), x_name="runs before the last", y_range=(0.0, 0.0)), ""
    )


def _course(name: str, runs: Sequence[SectionRun]) -> tuple[np.ndarray, str]:
    """A line's ratios run after run, or its values where the last has no peer; and their unit."""
    entries = [run.lines[name] for run in runs if name in run.lines]
    has_ratio = entries[-1]["ratio"] is not None
    each = [entry["ratio"] if has_ratio else entry["value"] for entry in entries]
    values = np.array([value for value in each if value is not None], dtype=np.float64)
    return values, "ratio" if has_ratio else entries[-1]["unit"]


def _short(name: str) -> str:
    return name.partition(".")[2].replace("_", " ")
