"""The study's three charts, for those who read a page before its table: SVG files in light and dark."""

import numpy as np

from backdrop.stores.pages.curves import Chart, Line, chart, standalone
from backdrop.trainer.reproduction.interval_chart import Mark, interval_chart
from tests.study.table import Cells, sample_of

GAP, ACCURACY = "linear_bg_gap", "linear_val"
_METHODS = {"moco": "MoCo", "byol": "BYOL", "swav": "SwAV"}
# Percent of the drawn images whose background tells their class.
_TELLING = {"sample-0": 0, "sample": 70, "sample-0.95": 95}
_SOURCES = {
    "true": "true masks",
    "deepusps2": "a tiny DeepUSPS2",
    "rbd": "RBD",
    "boxes": "boxes around true masks",
    "rotated": "true masks, turned and shifted",
}


def charts(cells: Cells) -> dict[str, str]:
    """Return the charts as texts of SVG files, by file name. Args: cells: of `table.read_cells`."""
    return {
        "gap-by-background.svg": standalone(_by_background(cells)),
        "gap-by-telling-backgrounds.svg": standalone(_by_telling_backgrounds(cells)),
        "gap-by-masks.svg": standalone(_by_masks(cells, GAP, "BG-Gap, points")),
        "accuracy-by-masks.svg": standalone(_by_masks(cells, ACCURACY, "linear accuracy, %")),
    }


def _mean(cells: Cells, data: str, training: str, masks: str = "true", column: str = GAP) -> float:
    found = sample_of(cells[data, training, masks], column)
    assert found is not None
    return found.mean


def _by_background(cells: Cells) -> str:
    """Dumbbells: a tick without backgrounds, a dot with, and the way between them."""
    marks = []
    for method, name in _METHODS.items():
        without = _mean(cells, "sample", f"{method} none")
        for background in ("rm", "random", "swaps"):
            if ("sample", f"{method} {background}", "true") in cells:
                value = _mean(cells, "sample", f"{method} {background}")
                ends = sorted((value, without))
                marks.append(Mark(label=f"{name}, {background}", value=value, low=ends[0], high=ends[1], tick=without))
    return interval_chart("BG-Gap, points (tick: without)", marks, tick_name="without")


def _by_telling_backgrounds(cells: Cells) -> str:
    share_N = np.array(list(_TELLING.values()), dtype=np.float64)
    lines = tuple(
        Line(
            x_N=share_N,
            y_N=np.array([_mean(cells, data, f"moco {background}") for data in _TELLING]),
            label=f"MoCo, {background}",
            style=style,
        )
        for style, background in enumerate(("none", "random"))
    )
    return chart(
        Chart(
            name="BG-Gap",
            lines=lines,
            unit="points",
            x_name="BG-Gap, points, over backgrounds that tell the class, %",
            y_range=(0.0, 100.0),
            has_legend=True,
        )
    )


def _by_masks(cells: Cells, column: str, name: str) -> str:
    without = _mean(cells, "sample", "moco none", column=column)
    marks = []
    for masks, words in _SOURCES.items():
        sample = sample_of(cells["sample", "moco random", masks], column)
        assert sample is not None
        assert sample.sem is not None
        low, high = sample.mean - sample.sem, sample.mean + sample.sem
        marks.append(Mark(label=words, value=sample.mean, low=low, high=high, tick=without))
    return interval_chart(f"{name} (tick: without)", marks, tick_name="without")
