"""One self-contained HTML page about a run: no script, no network, readable on a phone, in light and dark.

What cannot be shown (a store that moved, a run without steps) is said on the page instead of failing.
"""

import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from stores.durable_files import write_aside, written_aside
from stores.errors import UserError
from stores.reader import Store, describe
from trainer.report import curves
from trainer.report._style import CSS
from trainer.report.contact_sheet import contact_sheet
from trainer.report.exhibits import Exhibit, collect
from trainer.report.gallery import exhibit_html
from trainer.report.score_table import scores_section
from trainer.report.sources import find_beton, find_store
from trainer.run import run_folder
from trainer.run.settings import RunSettings, method_module, to_json

_NO_CHART = ("step", "epoch")
_UNITS = {"images_per_s": "images/s", "waited_s": "s", "knn_top1": "%"}
_TITLES = {
    "loss": "loss",
    "lr": "learning rate",
    "images_per_s": "images per second",
    "waited_s": "wait for data",
    "knn_top1": "kNN on the store's own rows",
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as read from its folder, and what was found of its store."""

    folder: Path
    settings: RunSettings
    provenance: dict[str, Any]
    metrics: list[dict[str, Any]]
    beton: Path | None
    store: Store | None
    # Why .beton or store are missing; "" when both are there.
    missing: str


def write_report(run: Path) -> Path:
    """Write run/report.html and, where the store is at hand, run/gallery.png.

    Args: run: the folder of a run of pretrain. Returns: the page.
    Raises: UserError: the folder holds no run.
    """
    loaded = load(Path(run))
    exhibits, why = _exhibits(loaded)
    page = loaded.folder / "report.html"
    write_aside(page, render(loaded, exhibits, why))
    if exhibits:
        with written_aside(loaded.folder / "gallery.png") as aside:
            contact_sheet(exhibits).save(aside, "PNG", optimize=True)
    return page


def load(folder: Path) -> Run:
    """Read a run's folder and look for what it was trained on. Raises: UserError: the folder holds no run."""
    settings, provenance = run_folder.read_settings(folder), run_folder.read_run(folder)
    beton, store, missing = None, None, ""
    try:
        beton = find_beton(folder, provenance)
        store = find_store(beton, provenance)
    except UserError as error:
        missing = str(error)
    return Run(
        folder=folder,
        settings=settings,
        provenance=provenance,
        metrics=run_folder.read_metrics(folder),
        beton=beton,
        store=store,
        missing=missing,
    )


def render(run: Run, exhibits: list[Exhibit], why_no_exhibits: str) -> str:
    """Return the whole page.

    Args: run: what was read. exhibits: the gallery. why_no_exhibits: shown in place of an empty gallery.
    """
    title = f"{run.settings.method}, background {run.settings.background.name}"
    sections = [
        ("scores", "Scores", scores_section(run.folder)),
        ("curves", "Training", _curves_section(run.metrics, run.provenance.get("expected", ""))),
        ("gallery", "What the model saw", _gallery_section(run, exhibits, why_no_exhibits)),
        ("crops", "Crops", _crops_section(run)),
        ("store", "Store", _store_section(run)),
        ("settings", "Settings", _settings_section(run)),
    ]
    links = "".join(f'<li><a href="#{name}">{heading}</a></li>' for name, heading, _ in sections)
    body = "".join(f'<section id="{name}"><h2>{heading}</h2>{html}</section>' for name, heading, html in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body>"
        f"<header><h1>{escape(title)}</h1><p class='note'>{_one_line(run)}</p>{_command(run)}{_headline(run)}"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header><main>{body}</main></body></html>\n'
    )


def table(rows: list[tuple[str, object]]) -> str:
    """Return a two-column table of names and values."""
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="value">{_value(v)}</td></tr>' for name, v in rows
    )
    return f'<div class="scroll"><table><tbody>{body}</tbody></table></div>'


# ------------------------------------------------------------------------------------------------------------ parts


def _exhibits(run: Run) -> tuple[list[Exhibit], str]:
    """The gallery's exhibits, or none and the reason."""
    if run.beton is None:
        return [], run.missing
    # Contrastive methods speak of query and key, the others have two equal views.
    names = ("query", "key") if method_module(run.settings.method).HAS_NEGATIVES else ("view 1", "view 2")
    try:
        exhibits = collect(
            run.beton, run.store, run.settings.plan, seed=run.settings.seed, epoch=_last_epoch(run), names=names
        )
    except UserError as error:
        return [], f"The views cannot be drawn again: {error}"
    return exhibits, "" if exhibits else "The store has no row with foreground and background."


def _last_epoch(run: Run) -> int:
    return int(run.metrics[-1]["epoch"]) if run.metrics else 0


def _one_line(run: Run) -> str:
    provenance = run.provenance
    words = [
        f"recipe {provenance.get('recipe', 'unknown')}",
        f"seed {run.settings.seed}",
        f"commit {str(provenance.get('commit', 'unknown'))[:10]}",
        f"store {str(provenance.get('store_id', 'unknown'))[:12]}",
        str(provenance.get("device", "")),
    ]
    return escape(", ".join(word for word in words if word))


def _command(run: Run) -> str:
    command = run.provenance.get("command")
    return f"<pre>{escape(str(command))}</pre>" if command else ""


def _headline(run: Run) -> str:
    """The few numbers a reader looks for first."""
    if not run.metrics:
        return ""
    last, settings = run.metrics[-1], run.settings
    num_steps = max(1, len(run.metrics))
    loss = curves.smoothed(np.array([record["loss"] for record in run.metrics], dtype=np.float64))
    rates = np.array([record["images_per_s"] for record in run.metrics if "images_per_s" in record], dtype=np.float64)
    facts = [
        ("epochs", f"{int(last['epoch']) + 1}", f"of {settings.epochs}"),
        ("steps", f"{int(last['step']) + 1}", f"of {settings.batch_size} images"),
        ("loss", f"{loss[-1]:.3f}", f"from {loss[0]:.3f}" if num_steps > 1 else ""),
        ("backbone", settings.backbone, f"{settings.views[0].size_px} px views"),
    ]
    if len(rates):
        facts.insert(3, ("speed", f"{np.median(rates):.0f}", "images/s, median"))
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)} <small>{escape(note)}</small></dd></div>"
        for name, value, note in facts
    )
    return f'<dl class="headline">{items}</dl>'


def _curves_section(metrics: list[dict[str, Any]], expected: str) -> str:
    if not metrics:
        return "<p>The run has no recorded step yet.</p>"
    # Of all records: what is measured once an epoch is not in every one.
    names = dict.fromkeys(name for record in metrics for name in record)
    is_wanted = [name for name in names if name not in _NO_CHART and not name.startswith("view")]
    # The total first, then its parts, then learning rate and speed.
    order = {"loss": 0, "lr": 2, "images_per_s": 3, "waited_s": 4}
    charts = []
    for name in sorted(is_wanted, key=lambda name: order.get(name, 1)):
        recorded = [record for record in metrics if isinstance(record.get(name), int | float)]
        if not recorded:
            continue
        curve = curves.Curve(
            name=_TITLES.get(name, name.replace("_", " ")),
            unit=_UNITS.get(name, ""),
            steps=np.array([record["step"] for record in recorded], dtype=np.float64),
            values=np.array([record[name] for record in recorded], dtype=np.float64),
            is_noisy=name != "lr",
        )
        charts.append(f"<figure><figcaption>{escape(curve.name)}</figcaption>{curves.chart(curve)}</figure>")
    note = f"<p>What to expect: {escape(expected)}</p>" if expected else ""
    return (
        f'{note}<div class="charts">{"".join(charts)}</div>'
        '<p class="note">Pale: every step. Dark: trailing mean over 4 % of the run.</p>'
    )


def _gallery_section(run: Run, exhibits: list[Exhibit], why_no_exhibits: str) -> str:
    if not exhibits:
        return f"<p>{escape(why_no_exhibits)}</p>"
    background = run.settings.background
    text = (
        f"Rows of the store and the views drawn for them in epoch {_last_epoch(run)}, before normalisation; boxes in "
        "the colour of their view's frame."
    )
    if background.name != "none":
        text += (
            f" Backgrounds are replaced in {background.probability:.0%} of global views; up to half of the rows "
            "below were chosen because theirs was."
        )
    if exhibits[0].negative_HWC is not None:
        text += " The other image of an extra negative is of the same batch; here, of the rows looked at for this page."
    if all(exhibit.saliency_HW is None for exhibit in exhibits):
        text += (
            " The store, which may keep saliency maps, is not beside its .beton."
            if run.store is None
            else " The store keeps no saliency maps; build it with --soft-maps to see them here."
        )
    return f'<p class="note">{escape(text)}</p>' + "".join(
        exhibit_html(exhibit, background.name) for exhibit in exhibits
    )


def _crops_section(run: Run) -> str:
    """How often the crop constraint had to try again or fell back, per view, over all recorded steps."""
    names = sorted({name for record in run.metrics for name in record if name.startswith("view")})
    if not names:
        return "<p>The run recorded no crop statistics.</p>"
    columns = {"tries": "tries, mean", "fallback": "fallback box", "no_foreground": "without foreground",
               "background": "background replaced"}  # fmt: skip
    views = sorted({name.partition("/")[0] for name in names}, key=lambda name: (len(name), name))
    head = "".join(f'<th class="n" scope="col">{title}</th>' for title in columns.values())
    body = ""
    for number, view in enumerate(views):
        cells = ""
        for column in columns:
            values = [record[f"{view}/{column}"] for record in run.metrics if f"{view}/{column}" in record]
            text = "-" if not values else f"{np.mean(values):.2f}" if column == "tries" else f"{np.mean(values):.1%}"
            cells += f'<td class="n">{text}</td>'
        settings = run.settings.views[number] if number < len(run.settings.views) else None
        size = f", {settings.size_px} px, at least {settings.min_foreground:.0%} of the foreground" if settings else ""
        body += f'<tr><th scope="row">view {number + 1}{size}</th>{cells}</tr>'
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">view</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _store_section(run: Run) -> str:
    if run.store is None:
        return f"<p>{escape(run.missing)}</p>"
    card = describe(run.store)
    rows: list[tuple[str, object]] = [(name, card[name]) for name in card if name not in ("identity", "status")]
    rows += [(f"rows {label}", count) for label, count in card["status"].items()]
    return table(rows + list(_flat(card["identity"], "")))


def _settings_section(run: Run) -> str:
    rows = list(_flat(to_json(run.settings), ""))
    half = (len(rows) + 1) // 2
    provenance = list(_flat({name: value for name, value in run.provenance.items() if name != "command"}, ""))
    return f'<div class="columns">{table(rows[:half])}{table(rows[half:])}</div><h3>Made with</h3>{table(provenance)}'


def _flat(data: object, prefix: str) -> list[tuple[str, object]]:
    """Nested settings as (path, value), in their order."""
    items: list[tuple[str, Any]]
    if isinstance(data, dict):
        items = list(data.items())
    elif isinstance(data, list | tuple) and any(isinstance(item, dict) for item in data):
        items = [(str(number), item) for number, item in enumerate(data)]
    else:
        return [(prefix.rstrip("."), data)]
    return [row for name, value in items for row in _flat(value, f"{prefix}{name}.")]


def _value(value: object) -> str:
    if isinstance(value, float):
        return escape(f"{value:.6g}")
    if isinstance(value, list | tuple):
        return escape(", ".join(str(item) for item in value))
    return escape(value if isinstance(value, str) else json.dumps(value, default=str))
