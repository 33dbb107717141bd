"""The tables of runs' scores: each metric, the untrained backbone beside it, a picture of what was classified."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from backdrop.bounded_files import read_json_object
from backdrop.errors import ImageError, UserError, program
from backdrop.stores.datasets import open_index
from backdrop.stores.images.image_codec import decode_rgb
from backdrop.stores.pages import document, pictures
from backdrop.stores.pages.curves import density_chart
from backdrop.trainer.run import run_folder

_UNTRAINED = "-untrained"
_WORDS = {
    "top1": "top-1 on val, %",
    "top5": "top-5 on val, %",
    "bg_gap": "BG-Gap, points (lower is better)",
    "mce": "mCE, % of AlexNet's (lower is better)",
    "mean_iou": "IoU of map and mask, mean",
    "corrupt_images": "images not decoded",
}
# A picture is asked for by what the metric's images are.
_VAL = ("top1", "top5")
# kNN with another number of neighbours than its main one.
_OF_NEIGHBOURS = re.compile(r"k(\d+)_(top[15])")
_LOWER_BETTER = ("bg_gap", "mce")
# Images without their foreground: a higher score there says how much the background gives away, not that it is better.
# Which of shape and texture decides is a leaning, not a merit. kNN calls the first "..._top1".
_NEITHER_BETTER = ("no_fg", "only_bg_b", "only_bg_t", "shape_bias", "shape_decisions", "texture_decisions")


@dataclass(frozen=True)
class _Scores:
    """One evaluation of one run: its metrics, those of the backbone before training, and its summary."""

    trained: dict[str, float]
    untrained: dict[str, float]
    summary: dict[str, Any]


def scores_section(folders: Mapping[str, Path]) -> str:
    """Return the scores of every evaluation of runs as tables.

    Args: folders: label to folder of each run, with results.csv and <evaluation>.json where it was scored.
    """
    scored = {label: _read(folder) for label, folder in folders.items()}
    evaluations = list(dict.fromkeys(name for scores in scored.values() for name in scores))
    unscored = ", ".join(label for label, scores in scored.items() if not scores)
    hint = f"<code>{program()} evaluate knn --run RUN --data DIR</code>"
    if not evaluations:
        return f"<p>{'The run was' if len(folders) == 1 else 'These runs were'} not scored yet: {hint}.</p>"
    note = f"<p>Not scored yet: {escape(unscored)} ({hint}).</p>" if unscored else ""
    return note + "".join(
        _table(name, {label: scores[name] for label, scores in scored.items() if name in scores}, len(folders) > 1)
        for name in evaluations
    )


def _read(folder: Path) -> dict[str, _Scores]:
    values: dict[str, dict[str, float]] = {}
    for row in run_folder.read_results(folder):
        values.setdefault(row["evaluation"], {})[row["metric"]] = float(row["value"])
    return {
        name: _Scores(values[name], values.get(name + _UNTRAINED, {}), kept_summary(folder, name))
        for name in values
        if not name.endswith(_UNTRAINED)
    }


def _table(evaluation: str, scored: dict[str, _Scores], is_comparison: bool) -> str:
    """One evaluation's table: a metric per line, of one run with its gains, of several side by side."""
    metrics = list(dict.fromkeys(metric for scores in scored.values() for metric in scores.trained))
    summary = next(iter(scored.values())).summary
    if len(scored) == 1:
        ((label, only),) = scored.items()
        heads = [escape(label) if is_comparison else "this run", "untrained", "gain"]
        cells = {metric: _cells_of_one(metric, only) for metric in metrics}
        note = ""
    else:
        heads = [escape(label) for label in scored]
        cells = {metric: _cells_of_several(metric, list(scored.values())) for metric in metrics}
        note = (
            '<p class="note">Bold: the best of its line. Small: the gain over the same backbone before training, in '
            "points.</p>"
        )
    rows = [[escape(_words(metric)), _picture(metric, summary), *cells[metric]] for metric in metrics]
    html = document.table(["metric", "images", *heads], rows, label=f"scores of {evaluation}", num_text_columns=2)
    data = f" on <code>{escape(str(summary['data']))}</code>" if "data" in summary else ""
    named = sorted({key for scores in scored.values() for key in scores.summary.get("corrupt_images", [])})
    corrupt = f'<p class="note">Not decoded: {escape(", ".join(named))}.</p>' if named else ""
    return f"<h3>{escape(evaluation)}{data}</h3>{html}{note}{corrupt}{_densities(scored)}"


def _densities(scored: dict[str, _Scores]) -> str:
    """The density plots of an evaluation that has them, a run each."""
    figures = ""
    for label, scores in scored.items():
        share_of = scores.summary.get("facts", {}).get("density", {})
        if share_of:
            chart = density_chart({name: np.array(share_B) for name, share_B in share_of.items()}, "IoU")
            name = f"{escape(label)}: " if len(scored) > 1 else ""
            figures += f"<figure><figcaption>{name}density over the images</figcaption>{chart}</figure>"
    return f'<div class="charts">{figures}</div>' if figures else ""


def _words(metric: str) -> str:
    found = _OF_NEIGHBOURS.fullmatch(metric)
    if found:
        return f"{_WORDS[found[2]]}, {found[1]} neighbours"
    stem = metric.removesuffix("_top1")
    return _WORDS.get(metric, metric.replace("_", " ") if stem == metric else f"{stem}: top-1, %")


def _cells_of_one(metric: str, scores: _Scores) -> list[str]:
    value, baseline = scores.trained[metric], scores.untrained.get(metric)
    if metric == "corrupt_images":
        return [f"{value:.0f}", "", ""]
    beside = "-" if baseline is None else f"{baseline:.2f}"
    return [f"{value:.2f}", beside, "" if baseline is None else _gain(metric, value - baseline)]


def _cells_of_several(metric: str, scored: list[_Scores]) -> list[str]:
    values = [scores.trained.get(metric) for scores in scored]
    known = [value for value in values if value is not None]
    has_best = not _is_neither_better(metric) and metric != "corrupt_images" and len(set(known)) > 1
    best = (min if metric in _LOWER_BETTER else max)(known) if has_best else None
    cells = []
    for value, scores in zip(values, scored, strict=True):
        baseline = scores.untrained.get(metric)
        shown = "-" if value is None else f"{value:.0f}" if metric == "corrupt_images" else f"{value:.2f}"
        shown = f"<b>{shown}</b>" if value is not None and value == best else shown
        gain = "" if value is None or baseline is None or metric == "corrupt_images" else value - baseline
        cells.append(shown if gain == "" else f"{shown} <small>{_gain(metric, float(gain))}</small>")
    return cells


def _gain(metric: str, difference: float) -> str:
    is_better = difference < 0 if metric in _LOWER_BETTER else difference > 0
    is_plain = _is_neither_better(metric) or abs(difference) < 0.005
    kind = "" if is_plain else "better" if is_better else "worse"
    return f'<span class="{kind}">{difference:+.2f}</span>'


def _is_neither_better(metric: str) -> bool:
    return metric.removesuffix("_top1") in _NEITHER_BETTER


def kept_summary(folder: Path, evaluation: str) -> dict[str, Any]:
    """Return the summary of an evaluation of a run, {} where it was not scored. Args: folder: of the run."""
    path = folder / f"{evaluation}.json"
    return read_json_object(path, "remove it and evaluate anew") if path.exists() else {}


def _picture(metric: str, summary: dict[str, Any]) -> str:
    """A thumbnail of the images a metric is about; scores are shown without one where the data moved."""
    if "data" not in summary or metric in ("bg_gap", "corrupt_images"):
        return ""
    try:
        if summary["data"] == "sample":
            root = open_index("sample", root=None, split="val").root.parent
        else:
            root = Path(summary["data"])
        name = metric.removesuffix("_top1")
        is_of_val = metric in _VAL or _OF_NEIGHBOURS.fullmatch(metric)
        folder = root / "val" if is_of_val else root / "variants" / name
        index = open_index("folder", root=folder)
        image_HWC = decode_rgb(index.read(0))
    except (UserError, ImageError, OSError):
        return "not at hand"
    return pictures.img(pictures.thumbnail(image_HWC, 112), f"an image of {metric}")
