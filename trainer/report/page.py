"""One self-contained HTML page about a run, or about several beside each other: no script, no network, for screen,
phone and print, in light and dark.

What cannot be shown (a store that moved, a run without steps) is said on the page instead of failing.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from backdrop.durable_files import write_aside, written_aside
from backdrop.errors import UserError
from backdrop.stores.format.reader import describe
from backdrop.stores.pages import curves, document
from backdrop.stores.pages.document import Section
from backdrop.trainer.report import attention, spectrum, training_charts
from backdrop.trainer.report.contact_sheet import contact_sheet
from backdrop.trainer.report.examples import NUM_EXAMPLES, Example
from backdrop.trainer.report.gallery import example_html
from backdrop.trainer.report.loaded_run import Run, load_all
from backdrop.trainer.report.score_table import scores_section
from backdrop.trainer.report.settings_table import differences_section, settings_section
from backdrop.trainer.report.shown import Shown, look_at
from backdrop.trainer.report.verdict import verdict

_MIN_EXAMPLES = 3
# Singular values below this share of the largest are what float32 leaves of a zero.
_ROUNDING = 1e-6


def write_report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write a page about runs; of a single one also RUN/gallery.png, where its store is at hand.

    Args: folders: of runs of pretrain. out: the page; None, for a single run, = RUN/report.html.
    Returns: the page.
    Raises: UserError: a folder holds no run or stands there twice; several runs and no place for their page.
    """
    if out is None and len(folders) > 1:
        raise UserError("a page about several runs belongs to none of them: say where it goes with --out PAGE.html")
    runs = load_all(folders)
    num_examples = max(_MIN_EXAMPLES, NUM_EXAMPLES // len(runs))
    shown = [look_at(run, num_examples) for run in runs]
    page = runs[0].folder / "report.html" if out is None else out
    page.parent.mkdir(parents=True, exist_ok=True)
    write_aside(page, render(runs, shown))
    if len(runs) == 1 and shown[0].examples:
        with written_aside(runs[0].folder / "gallery.png") as aside:
            contact_sheet(shown[0].examples).save(aside, "PNG", optimize=True)
    return page


def render(runs: Sequence[Run], shown: Sequence[Shown]) -> str:
    """Return the whole page. Args: runs: what was read. shown: what is drawn of each."""
    pairs = list(zip(runs, shown, strict=True))
    comparison = [Section(anchor="differences", heading="What differs", body=differences_section(runs))]
    return document.page(
        runs[0].title if len(runs) == 1 else f"{len(runs)} runs compared",
        "".join(_lead(run) for run in runs),
        [
            *(comparison if len(runs) > 1 else []),
            Section(anchor="scores", heading="Scores", body=scores_section({run.title: run.folder for run in runs})),
            Section(anchor="curves", heading="Training", body=training_charts.curves_section(runs)),
            Section(anchor="attention", heading="Where the query looks", body=_attention_section(pairs)),
            Section(anchor="spectrum", heading="Spectrum of the embeddings", body=_spectrum_section(pairs)),
            Section(anchor="gallery", heading="What the model saw", body=_gallery_section(pairs)),
            Section(anchor="crops", heading="Crops", body=training_charts.crops_section(runs)),
            Section(anchor="speed", heading="Speed", body=training_charts.speed_section(runs)),
            Section(anchor="store", heading="Store", body=_store_section(runs)),
            Section(anchor="settings", heading="Settings", body=settings_section(runs)),
        ],
    )


def _lead(run: Run) -> str:
    """A run's name, where it comes from, the command that made it, and its first numbers."""
    provenance = run.provenance
    words = [
        f"recipe {provenance.get('recipe', 'unknown')}",
        f"seed {run.settings.seed}",
        f"commit {str(provenance.get('commit', 'unknown'))[:10]}",
        f"store {str(provenance.get('store_id', 'unknown'))[:12]}",
        str(provenance.get("device", "")),
    ]
    one_line = escape(", ".join(word for word in words if word))
    name = f"<h2>{escape(run.label)}</h2>" if run.label else ""
    command = provenance.get("command")
    made = document.command(str(command)) if command else ""
    return f'{name}{verdict(run.folder)}<p class="note">{one_line}</p>{made}{_headline(run)}'


def _headline(run: Run) -> str:
    if not run.metrics:
        return ""
    last, settings = run.metrics[-1], run.settings
    rates = run.recorded("images_per_s")[1]
    facts = [
        ("epochs", f"{int(last['epoch']) + 1}", f"of {settings.epochs}"),
        ("steps", f"{int(last['step']) + 1}", f"of {settings.batch_size} images"),
        ("backbone", settings.backbone, f"{settings.views[0].size_px} px views"),
    ]
    if len(rates):
        facts.insert(2, ("speed", f"{np.median(rates):.0f}", "images/s, median"))
    return document.headline(facts)


def _of_each(pairs: Sequence[tuple[Run, Shown]], part: str, html_of: dict[str, str]) -> str:
    """A part of every run under its name, or why there is none."""
    body = ""
    for run, shown in pairs:
        name = f"<h3>{escape(run.label)}</h3>" if run.label else ""
        html = html_of[run.label]
        body += name + (html or f"<p>{escape(shown.why.get(part, 'There is nothing to show.'))}</p>")
    return body


def _attention_section(pairs: Sequence[tuple[Run, Shown]]) -> str:
    words = (
        "Grad-CAM of the trained network: which parts of the query make it similar to the key, and to the key with its "
        "background removed (masked key). Red counts most, blue nothing. A network that knows the object by itself "
        "looks inside the mask; one that knows it by its background looks around it. IoU: overlap of the map for the "
        "masked key above one half with the mask, 0 to 1, as evaluate grounding measures it. A map that is zero "
        "everywhere is no signal yet, as of a network that has hardly been trained."
    )
    html_of = {run.label: attention.attention_html(shown.attention) for run, shown in pairs}
    return f'<p class="note">{words}</p>' + _of_each(pairs, "attention", html_of)


def _spectrum_section(pairs: Sequence[tuple[Run, Shown]]) -> str:
    words = (
        f"Each of up to {spectrum.NUM_IMAGES} images of the store becomes a vector of length 1; the mean is taken "
        "away, and the singular values say how much the vectors spread along each direction, the largest first. A line "
        "that falls steeply means that few directions are used: dimensional collapse. The effective rank is the number "
        "of equally used directions with the same entropy (Roy and Vetterli 2007); it is below the number of images. "
        "Directions that hold less than a millionth of the largest are not drawn."
    )
    kinds = list(dict.fromkeys(name for _, shown in pairs for name in shown.spectra))
    charts = "".join(_spectrum_chart(pairs, name) for name in kinds)
    rows = [
        [f"{escape(run.title)}, {name}", f"{spectrum.effective_rank(values):.1f}", str(len(values))]
        for run, shown in pairs
        for name, values in shown.spectra.items()
    ]
    head = ["vectors", "effective rank", "directions at most"]
    table = document.table(head, rows, label="effective ranks") if rows else ""
    missing = "".join(
        f"<p>{escape(f'{run.label}: ' if run.label else '')}{escape(shown.why['spectra'])}</p>"
        for run, shown in pairs
        if "spectra" in shown.why
    )
    return f'<p class="note">{words}</p>{table}<div class="charts">{charts}</div>{missing}'


def _spectrum_chart(pairs: Sequence[tuple[Run, Shown]], name: str) -> str:
    lines = []
    for style, (run, shown) in enumerate(pairs):
        values = shown.spectra.get(name, np.zeros(1))
        share = (values / values[0])[values > _ROUNDING * values[0]] if values[0] > 0 else np.zeros(0)
        lines.append(curves.Line(x_N=np.arange(1, len(share) + 1), y_N=share, label=run.label, style=style))
    words = {"features": "Features of the backbone.", "embedding": "What the loss compares, after the head."}
    drawn = curves.Chart(
        name=f"{name}: singular values", unit="share of the largest", x_name="direction", has_log_axis=True,
        lines=tuple(lines), y_range=(1e-2, 1.0),
    )  # fmt: skip
    return curves.figure(drawn, words[name])


def _gallery_section(pairs: Sequence[tuple[Run, Shown]]) -> str:
    return _of_each(pairs, "examples", {run.label: _gallery(run, shown.examples) for run, shown in pairs})


def _gallery(run: Run, examples: list[Example]) -> str:
    if not examples:
        return ""
    background = run.settings.background
    text = (
        f"Rows of the store and the views drawn for them in epoch {run.last_epoch}, before normalisation; boxes in "
        "the colour of their view's frame."
    )
    if background.name != "none":
        text += (
            f" Backgrounds are replaced in {background.probability:.0%} of global views; up to half of the rows "
            "below were chosen because theirs was."
        )
    if examples[0].negatives:
        text += " The other image of an extra negative is of the same batch; here, of the rows looked at for this page."
    if all(example.saliency_HW is None for example in examples):
        text += (
            " The store, which may keep saliency maps, is not beside its .beton."
            if run.store is None
            else " The store keeps no saliency maps; build it with --soft-maps to see them here."
        )
    return f'<p class="note">{escape(text)}</p>' + "".join(
        example_html(example, background.name) for example in examples
    )


def _store_section(runs: Sequence[Run]) -> str:
    """Every store once, with the runs that were trained on it."""
    parts: dict[str, str] = {}
    users: dict[str, list[str]] = {}
    for run in runs:
        store_id = str(run.provenance.get("store_id"))
        users.setdefault(store_id, []).append(run.label)
        if store_id not in parts or run.store is not None:
            parts[store_id] = _store_card(run)
    if len(runs) == 1:
        return next(iter(parts.values()))
    return "".join(
        f"<h3>{escape(store_id[:12])}</h3><p>Trained on by {escape(', '.join(users[store_id]))}.</p>{html}"
        for store_id, html in parts.items()
    )


def _store_card(run: Run) -> str:
    if run.store is None:
        return f"<p>{escape(run.missing)}</p>"
    card = describe(run.store)
    rows: list[tuple[str, object]] = [(name, card[name]) for name in card if name not in ("identity", "status")]
    rows += [(f"rows {label}", count) for label, count in card["status"].items()]
    return document.facts_table(rows + list(_flat(card["identity"], "")), label="the store")


def _flat(data: object, prefix: str) -> list[tuple[str, object]]:
    """A nested identity as (path, value), in its order."""
    if not isinstance(data, dict):
        return [(prefix.rstrip("."), data)]
    return [row for name, value in data.items() for row in _flat(value, f"{prefix}{name}.")]
