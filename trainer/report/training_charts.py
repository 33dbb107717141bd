"""What was recorded at the steps of runs, as charts and tables: whatever metrics.jsonl holds, run beside run."""

from collections.abc import Sequence
from html import escape

import numpy as np

from backdrop.stores.pages import curves, document
from backdrop.trainer.report.loaded_run import Run
from backdrop.trainer.run import metrics_log

# What is no curve: where a record stands, and the views' crops, which have a table.
_NO_CHART = ("step", "epoch", metrics_log.CLOCK, metrics_log.RANK)
_SPEED = ("images_per_s", "waited_s")
_UNITS = {"images_per_s": "images/s", "waited_s": "s", "skipped_rows": "rows a step", "knn_top1": "%"}
_TITLES = {
    "loss": "loss",
    "lr": "learning rate",
    "images_per_s": "images per second",
    "waited_s": "wait for data",
    "knn_top1": "kNN on the store's own rows",
}
# One sentence each for those who see the name for the first time.
_MEANINGS = {
    "loss": "What training makes small; its height is comparable between runs of one method only.",
    "info_nce_loss": "How hard it is to tell the query's own key from the keys of other images.",
    "knn_top1": "How often the nearest training rows give a held-out row of the store its class.",
    "lr": "How large a step the optimiser takes.",
    "positive_is_nearest": "Share of queries whose own key is nearer than every other image's, 0 to 1.",
    "embedding_spread": "How far the embeddings of different images lie apart; near 0 = all are one, a collapse.",
    "attention_loss": "CAST: 1 - cosine between where the query looks and its foreground; 0 = exactly there.",
    "rows_without_foreground": "Share of images left out of the attention loss: a crop shows no foreground.",
    "images_per_s": "Images trained on per second, over all devices; the first value holds the start.",
    "waited_s": "Time of a step spent waiting for the loader; near 0 s = the loader is fast enough.",
    "skipped_rows": "Rows that could not be read and gave their places to others.",
}
# Fewer values than these are drawn as they are: evaluations on the way, not noisy steps.
_MIN_NOISY = 30
_CROPS = {
    "tries": "tries, mean",
    "fallback": "fallback box, %",
    "no_foreground": "without foreground, %",
    "background": "background replaced, %",
}


def curves_section(runs: Sequence[Run]) -> str:
    """Return charts of everything recorded but speed and crops."""
    names = [name for name in metric_names(runs) if name not in _SPEED]
    if not names:
        return f"<p>{'The run has' if len(runs) == 1 else 'The runs have'} no recorded step yet.</p>"
    lines = (
        "Pale: every step. Dark: trailing mean over 4 % of the run."
        if len(runs) == 1
        else "One line a run: the trailing mean over 4 % of it."
    )
    expected = dict.fromkeys(str(run.provenance["expected"]) for run in runs if run.provenance.get("expected"))
    return (
        "".join(f"<p>What to expect: {escape(words)}</p>" for words in expected)
        + _charts(runs, names)
        + f'<p class="note">{lines} A metric recorded less than {_MIN_NOISY} times is not averaged.{_sampled(runs)}</p>'
    )


def _sampled(runs: Sequence[Run]) -> str:
    """What is to be said where a log is too long to be read whole."""
    long = [run for run in runs if not run.has_every_step]
    if not long:
        return ""
    whose = "The log" if len(runs) == 1 else f"The log of {', '.join(escape(run.label) for run in long)}"
    nums = " and ".join(f"{len(run.metrics):,}" for run in long)
    return f" {whose} is long: drawn and averaged are {nums} of its steps, evenly over it, with the last of each epoch."


def speed_section(runs: Sequence[Run]) -> str:
    """Return how fast the runs were: a table and charts."""
    timed = [run for run in runs if len(run.recorded("images_per_s")[1])]
    if not timed:
        return "<p>No step was recorded, so there is no speed to report.</p>"
    head = ["run", "images/s, median", "images/s, slowest tenth", "waiting for data, %", "images a step", "threads",
            "device"]  # fmt: skip
    rows = [[escape(run.title), *_speed_cells(run)] for run in timed]
    return document.table(head, rows, label="speed of training") + _charts(
        timed, [name for name in _SPEED if name in metric_names(timed)]
    )


def _speed_cells(run: Run) -> list[str]:
    rates, waits = run.recorded("images_per_s")[1], run.recorded("waited_s")[1]
    step_s = run.settings.batch_size / np.median(rates)
    waited = f"{np.median(waits) / step_s:.1%}".rstrip("%") if len(waits) else "-"
    provenance = run.provenance
    return [
        f"{np.median(rates):.1f}",
        f"{np.quantile(rates, 0.1):.1f}",
        waited,
        str(run.settings.batch_size),
        escape(str(provenance.get("num_threads", "-"))),
        escape(str(provenance.get("device", "-"))),
    ]


def metric_names(runs: Sequence[Run]) -> list[str]:
    """Return the names of all metrics that a run recorded and that are curves: the loss first, then its parts."""
    found = dict.fromkeys(
        name
        for run in runs
        for record in run.metrics
        for name, value in record.items()
        if name not in _NO_CHART and not name.startswith("view") and isinstance(value, int | float)
    )
    is_shown = {name: name != "skipped_rows" or any(run.recorded(name)[1].any() for run in runs) for name in found}
    order = {"loss": 0, "lr": 2}
    return sorted((name for name in found if is_shown[name]), key=lambda name: order.get(name, 1))


def crops_section(runs: Sequence[Run]) -> str:
    """Return how often the crop constraint had to try again or fell back, per view, over all recorded steps."""
    rows = [row for run in runs for row in _crop_rows(run)]
    if not rows:
        return "<p>No crop statistics were recorded.</p>"
    words = (
        "A crop is proposed until it holds the share of the image's foreground that its view asks for, ten times at "
        "most; then a fallback box is taken instead. Means over the recorded steps."
    )
    note = f'<p class="note">{words}{_sampled(runs)}</p>'
    return note + document.table(["view", *_CROPS.values()], rows, label="crops of the views")


def _crop_rows(run: Run) -> list[list[str]]:
    names = {name.partition("/")[0] for record in run.metrics for name in record if name.startswith("view")}
    rows = []
    for number, view in enumerate(sorted(names, key=lambda name: (len(name), name))):
        settings = run.settings.views[number] if number < len(run.settings.views) else None
        size = f", {settings.size_px} px, at least {settings.min_foreground:.0%} of the foreground" if settings else ""
        name = f"{run.label}: view" if run.label else "view"
        rows.append([f"{escape(name)} {number + 1}{size}", *(_crop_cell(run, view, column) for column in _CROPS)])
    return rows


def _crop_cell(run: Run, view: str, column: str) -> str:
    values = run.recorded(f"{view}/{column}")[1]
    if not len(values):
        return "-"
    return f"{values.mean():.2f}" if column == "tries" else f"{100 * values.mean():.1f}"


def _charts(runs: Sequence[Run], names: Sequence[str]) -> str:
    return f'<div class="charts">{"".join(_chart(runs, name) for name in names)}</div>'


def _chart(runs: Sequence[Run], name: str) -> str:
    lines = []
    for style, run in enumerate(runs):
        steps, values = run.recorded(name)
        if len(steps):
            is_noisy = name != "lr" and len(steps) >= _MIN_NOISY
            lines.append(curves.Line(x_N=steps, y_N=values, label=run.label, is_noisy=is_noisy, style=style))
    drawn = curves.Chart(name=_TITLES.get(name, name.replace("_", " ")), unit=_UNITS.get(name, ""), lines=tuple(lines))
    return curves.figure(drawn, escape(_MEANINGS.get(name, "")))
