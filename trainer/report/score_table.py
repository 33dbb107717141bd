"""The table of a run's scores: each metric, the untrained backbone beside it, a picture of what was classified."""

import csv
import json
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from stores.dataset_index import open_index
from stores.errors import ImageError, UserError
from stores.image_codec import decode_rgb
from trainer.report import pictures
from trainer.report.curves import density_chart

_UNTRAINED = "-untrained"
_WORDS = {
    "top1": "top-1 on val, %",
    "top5": "top-5 on val, %",
    "bg_gap": "BG-Gap, points (lower is better)",
    "mean_iou": "IoU of map and mask, mean",
    "corrupt_images": "images not decoded",
}
# A picture is asked for by what the metric's images are.
_VAL = ("top1", "top5")
# Images without their foreground: a higher score there says how much the background gives away, not that it is better.
_NEITHER_BETTER = ("no_fg_top1", "only_bg_b_top1", "only_bg_t_top1")


def scores_section(folder: Path) -> str:
    """Return the scores of every evaluation of a run as tables.

    Args: folder: the run's folder, with results.csv and <evaluation>.json where it was scored.
    """
    path = folder / "results.csv"
    if not path.exists():
        return "<p>The run was not scored yet: <code>python cli.py evaluate knn --run RUN --data DIR</code>.</p>"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    values: dict[str, dict[str, float]] = {}
    for row in rows:
        values.setdefault(row["evaluation"], {})[row["metric"]] = float(row["value"])
    evaluations = [name for name in values if not name.endswith(_UNTRAINED)]
    return "".join(_table(folder, name, values[name], values.get(name + _UNTRAINED, {})) for name in evaluations)


def _table(folder: Path, evaluation: str, trained: dict[str, float], untrained: dict[str, float]) -> str:
    summary = _summary(folder, evaluation)
    body = "".join(_row(metric, value, untrained.get(metric), summary) for metric, value in trained.items())
    data = f" on <code>{escape(str(summary['data']))}</code>" if "data" in summary else ""
    named = summary.get("corrupt_images", [])
    corrupt = f'<p class="note">Not decoded: {escape(", ".join(named))}.</p>' if named else ""
    return (
        f"<h3>{escape(evaluation)}{data}</h3>"
        '<div class="scroll"><table><thead><tr><th scope="col">images</th><th scope="col">metric</th>'
        '<th class="n" scope="col">this run</th><th class="n" scope="col">untrained</th>'
        f'<th class="n" scope="col">gain</th></tr></thead><tbody>{body}</tbody></table></div>{corrupt}'
        + _densities(summary.get("facts", {}).get("density", {}))
    )


def _densities(share_of: dict[str, list[float]]) -> str:
    """The density plot of an evaluation that has one."""
    if not share_of:
        return ""
    chart = density_chart({name: np.array(share_B) for name, share_B in share_of.items()}, "IoU")
    return f'<div class="charts"><figure><figcaption>density over the images</figcaption>{chart}</figure></div>'


def _row(metric: str, value: float, baseline: float | None, summary: dict[str, Any]) -> str:
    if metric == "corrupt_images":
        shown, beside, gain = f"{value:.0f}", "", ""
    else:
        shown = f"{value:.2f}"
        beside = "-" if baseline is None else f"{baseline:.2f}"
        gain = "" if baseline is None else _gain(metric, value - baseline)
    stem = metric.removesuffix("_top1")
    name = _WORDS.get(metric, metric.replace("_", " ") if stem == metric else f"{stem}: top-1, %")
    return (
        f'<tr><td>{_picture(metric, summary)}</td><th scope="row">{escape(name)}</th><td class="n">{shown}</td>'
        f'<td class="n">{beside}</td><td class="n">{gain}</td></tr>'
    )


def _gain(metric: str, difference: float) -> str:
    is_better = difference < 0 if metric == "bg_gap" else difference > 0
    is_plain = metric in _NEITHER_BETTER or abs(difference) < 0.005
    kind = "" if is_plain else "better" if is_better else "worse"
    return f'<span class="{kind}">{difference:+.2f}</span>'


def _summary(folder: Path, evaluation: str) -> dict[str, Any]:
    path = folder / f"{evaluation}.json"
    return json.loads(path.read_text()) if path.exists() else {}


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
        folder = root / "val" if metric in _VAL else root / "variants" / name
        index = open_index("folder", root=folder)
        image_HWC = decode_rgb(index.read(0))
    except (UserError, ImageError, OSError):
        return "not at hand"
    return pictures.img(pictures.thumbnail(image_HWC, 112), f"an image of {metric}")
