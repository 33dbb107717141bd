"""The ladder as a page, as Markdown and as text: detectors on sets, beside what others published about them."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from backdrop.durable_files import write_aside
from backdrop.saliency.classical import NAMES as CLASSICAL_NAMES
from backdrop.saliency.default_detector import DETECTOR_RUN
from backdrop.saliency.scoring.ladder import Cell, measure_all, sets_with_masks
from backdrop.saliency.scoring.literature import LITERATURE, PROTOCOLS, Published, published_set
from backdrop.saliency.scoring.metrics import COLUMNS, NATIVE_COLUMNS
from backdrop.saliency.trained_detector.run_layout import DETECTOR_FILE
from backdrop.stores.pages import document
from backdrop.stores.pages.document import Section

NOT_MEASURED = "not measured here"
# Of every protocol that something is published in, MAE and F. Not IoU at a fixed 0.5: a detector is not used there.
_FEATURES = ("max F (TokenCut)", "max F (SelfMask, FOUND)", "F (A2S)")
_SCORES = {
    **{name: key for name, key in COLUMNS.items() if name != "IoU"},
    **{name: NATIVE_COLUMNS[name] for name in _FEATURES},
}
HEAD = ("detector", "needs", "published", *_SCORES, "IoU", "cut at", "images/s")
_NUM_TEXT_COLUMNS = 3
_WORDS = {
    "F(.5), F(adaptive), F(adaptive, of means), max F": (
        "beta^2 = 0.3, at native size: maps cut at 0.5, F averaged over images; cut at twice the map's mean; the same, "
        "F of mean precision and recall; the best F of mean precision and recall over 256 cuts"
    ),
    "max F (TokenCut), max F (SelfMask, FOUND), F (A2S)": (
        "as those papers measure, see Published: to be held against their figures and no others"
    ),
    "IoU": "of the masks that the detector's own threshold (cut at) gives with the true ones, mean over images",
    "images/s": "one image after the other in one process, with decoding and scoring",
}


def write_ladder(detectors: Sequence[str], sets: Sequence[Path], out: Path) -> tuple[list[Cell], Path]:
    """Measure what is not measured yet and write the page, and the table in Markdown beside it.

    Args:
        detectors: as `open_detector` takes them; none = all classical ones, and the one trained here.
        sets: as `sets_with_masks` takes them.
        out: the folder; holds ladder.html, ladder.md and cells/.

    Raises:
        UserError: as `measure_all` and `sets_with_masks`.
    """
    trained = [str(DETECTOR_RUN)] if (DETECTOR_RUN / DETECTOR_FILE).is_file() else []
    cells = measure_all(list(detectors) or [*CLASSICAL_NAMES, *trained], sets_with_masks(sets), out / "cells")
    page = out / "ladder.html"
    write_aside(page, render(cells).encode())
    write_aside(page.with_suffix(".md"), markdown(cells).encode())
    return cells, page


def rows_of(cells: Sequence[Cell], *, mark: str = "") -> list[tuple[str, ...]]:
    """The rows of one set, as text: what was measured, then what others published and nobody measured here.

    Args: cells: of one set. mark: put around the names of detectors that were measured.
    Returns: one text per column of `HEAD`.
    """
    name = published_set(cells[0].set_name)
    measured = [(f"{mark}{cell.detector}{mark}", *_measured(cell, name)[1:]) for cell in cells]
    families = {_family(cell.detector) for cell in cells}
    others = [each for each in LITERATURE if name in each.figures and each.family not in families]
    blank = ("",) * (len(HEAD) - 4)
    return measured + [(each.name, each.needs, _figures(each, name), NOT_MEASURED, *blank) for each in others]


def _measured(cell: Cell, published: str) -> tuple[str, ...]:
    known = [each for each in LITERATURE if each.family == _family(cell.detector) and published in each.figures]
    return (
        cell.detector,
        cell.needs,
        "; ".join(_figures(each, published, with_name=len(known) > 1) for each in known),
        *(_number(cell.scores.get(key)) for key in _SCORES.values()),
        _number(cell.iou),
        f"{cell.threshold:g}",
        "-" if cell.images_per_s is None else f"{cell.images_per_s:.1f}",
    )


def _family(detector: str) -> str:
    return detector.partition(":")[0]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".removeprefix("0")


def _figures(each: Published, set_name: str, *, with_name: bool = False) -> str:
    doubt = "" if each.is_confirmed else ", not confirmed"
    return f"{f'{each.name}: ' if with_name else ''}{each.figures[set_name]} ({each.protocol}{doubt})"


def of_sets(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Cells by set, in their order. Args: cells: of `measure_all`."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.set_name, []).append(cell)
    return found


def text(cells: Sequence[Cell]) -> str:
    """What was measured, as a table for the terminal. Args: cells: of `measure_all`."""
    head = ("set", *(name for name in HEAD if name not in ("needs", "published")))
    left_out = {HEAD.index("needs"), HEAD.index("published")}
    rows = [
        (name, *(value for at, value in enumerate(_measured(cell, "")) if at not in left_out))
        for name, of_set in of_sets(cells).items()
        for cell in of_set
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(value.rjust(width) for value, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    )


def markdown(cells: Sequence[Cell]) -> str:
    """The whole ladder in Markdown, a table per set. Args: cells: of `measure_all`."""
    parts = []
    for name, of_set in of_sets(cells).items():
        head, *rows = _shown(of_set)
        table = "\n".join(f"| {' | '.join(line)} |" for line in (head, ("---",) * len(head), *rows))
        parts.append(f"{_title(name, of_set)} ({_where(of_set)}):\n\n{table}\n")
    return "\n".join(parts)


def _shown(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """Head and rows of a set, without the column of published figures where there are none."""
    lines = [HEAD, *rows_of(cells, mark="`")]
    at = HEAD.index("published")
    return lines if any(line[at] for line in lines[1:]) else [(*line[:at], *line[at + 1 :]) for line in lines]


def _where(cells: Sequence[Cell]) -> str:
    """What the detectors ran on: in a word where that is the same for all."""
    places = dict.fromkeys(cell.where for cell in cells)
    if len(places) == 1:
        return f"measured on {cells[0].where}"
    return "; ".join(
        f"{', '.join(cell.detector for cell in cells if cell.where == place)} on {place}" for place in places
    )


def _title(name: str, cells: Sequence[Cell]) -> str:
    return f"{name}, {cells[0].num_images} images"


def render(cells: Sequence[Cell]) -> str:
    """The page. Args: cells: of `measure_all`, at least one."""
    sections = [
        Section(anchor=f"set-{at}", heading=_title(name, of_set), body=_body(name, of_set))
        for at, (name, of_set) in enumerate(of_sets(cells).items())
    ]
    protocols = "".join(f"<dt>{escape(name)}</dt><dd>{escape(each.words)}</dd>" for name, each in PROTOCOLS.items())
    words = "".join(f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>" for name, meaning in _WORDS.items())
    sections.append(
        Section(
            anchor="words",
            heading="What the figures are of",
            body=f'<h3>Measured here</h3><dl class="kinds">{words}</dl>'
            f'<h3>Published</h3><dl class="kinds">{protocols}</dl>',
        )
    )
    lead = (
        '<p class="note">Detectors that use no labels. Figures of different protocols do not compare, nor do those of '
        "a set with those of a part of it.</p>"
    )
    return document.page("The ladder of detectors", lead, sections)


def _body(name: str, cells: Sequence[Cell]) -> str:
    """Numbers in one table, words in another: side by side neither a phone nor a desk has room for both."""
    rows = [[escape(value) for value in line] for line in rows_of(cells)]
    whole = published_set(name)
    numbers = [[row[0], *row[_NUM_TEXT_COLUMNS:]] for row in rows[: len(cells)]]
    words = [row[:_NUM_TEXT_COLUMNS] for row in rows]
    heading, head = "What each needs", list(HEAD[:_NUM_TEXT_COLUMNS])
    if whole:
        heading = f"What each needs, and what was published on all of {whole}"
        head.append("measured here")
        words = [[*row, "above" if at < len(cells) else "no"] for at, row in enumerate(words)]
    else:
        head, words = head[:-1], [row[:-1] for row in words]
    return (
        document.table([HEAD[0], *HEAD[_NUM_TEXT_COLUMNS:]], numbers, label=f"detectors on {name}")
        + f'<p class="note">Images/s: {escape(_where(cells))}.</p><h3>{escape(heading)}</h3>'
        + document.table(head, words, label=f"needs of detectors on {name}", num_text_columns=len(head))
    )
