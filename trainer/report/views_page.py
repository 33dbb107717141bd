"""What a run would be fed, as a page: the first rows of an epoch with every view, all that was drawn, and nothing
trained. Settings, store, loader and device stage are the run's own, so that the page is the truth about it.
"""

from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

import numpy as np

from backdrop.durable_files import write_aside
from backdrop.errors import UserError
from backdrop.pipeline.beton.beton_of_store import StoreSource, beton_of
from backdrop.pipeline.beton.reader import read_sidecar
from backdrop.pipeline.beton.table_reader import has_mask
from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.views import crops
from backdrop.pipeline.views.backgrounds import BACKGROUNDS
from backdrop.ranks import Ranks
from backdrop.stores.format.reader import Store
from backdrop.stores.pages import document
from backdrop.stores.pages.document import Section
from backdrop.trainer import cast
from backdrop.trainer.methods import METHODS
from backdrop.trainer.report.examples import Drawing, Example, Scenes, view_names
from backdrop.trainer.report.gallery import full_example_html
from backdrop.trainer.report.sources import find_store
from backdrop.trainer.run.loop import RunRequest, opened_loader, store_met
from backdrop.trainer.run.store_of_table import say_departures
from backdrop.trainer.settings import RunSettings, by_path

NUM_ROWS = 32


def write_views_page(page: Path, request: RunRequest, source: StoreSource, *, epoch: int) -> Path:
    """Write a page of the first 32 rows of an epoch.

    Args: page: the file. request, source: as of `trainer.run.loop.pretrain`. epoch: from 0.
    Returns: page. Raises: UserError: anything given is wrong, as there, or the run has no such epoch.
    """
    settings = request.resolved()
    if epoch >= settings.epochs:
        raise UserError(f"--views-epoch is {epoch}; the run has {settings.epochs} epochs, 0 to {settings.epochs - 1}")
    beton = beton_of(source)
    say_departures(request.recipe, settings, store_met(source.store, beton))
    store_id = read_sidecar(beton)["store_id"]
    scenes = Scenes(beton, _store_of(beton, store_id, source.store))
    names = view_names(METHODS.load(request.method).HAS_NEGATIVES)
    drawing = Drawing(scenes, settings.plan, names, masked_views=masked_views(settings))
    batch_size = _batch_size(settings, int(has_mask(scenes.records).sum()))
    with opened_loader(settings, source.store, beton, batch_size=batch_size, ranks=Ranks(device="cpu")) as loader:
        examples, skipped = _first_rows(loader, drawing, epoch)
    page.parent.mkdir(parents=True, exist_ok=True)
    write_aside(
        page, render(settings, examples, epoch=epoch, recipe=request.recipe, store_id=store_id, skipped=skipped)
    )
    return page


def _first_rows(loader: Loader, drawing: Drawing, epoch: int) -> tuple[list[Example], list[str]]:
    """The first rows of an epoch as they come, and what the loader says of rows that it could not read."""
    examples: list[Example] = []
    skipped: list[str] = []
    for batch in loader.epoch(epoch):
        examples += drawing.examples(batch, range(min(len(batch.row_B), NUM_ROWS - len(examples))))
        skipped += batch.skipped
        if len(examples) == NUM_ROWS:
            break
    return examples, skipped


def masked_views(settings: RunSettings) -> tuple[int, ...]:
    """Return the views whose backgrounds CAST removes for the key network: the key, or both of two equal views."""
    if cast.in_use(settings.cast) is None:
        return ()
    if METHODS.load(settings.method).HAS_NEGATIVES:
        return (1,)
    return tuple(number for number, view in enumerate(settings.views) if view.is_global)


def _batch_size(settings: RunSettings, num_rows: int) -> int:
    """Rows to draw at once: the run's own where an extra negative may be any other row of its batch; else just enough,
    because a row's views depend on no other row. A batch that the store cannot fill is for the loader to refuse.
    """
    _, has_negative = crops.background_needs(settings.plan)
    is_whole = has_negative or settings.batch_size > num_rows
    return settings.batch_size if is_whole else min(NUM_ROWS, settings.batch_size)


def _store_of(beton: Path, store_id: str, store: Path | str) -> Store | None:
    """The store with the saliency maps, None where only the .beton is at hand."""
    try:
        return find_store(beton, {"store_id": store_id, "store_url": store if isinstance(store, str) else ""})
    except UserError:
        return None


def render(
    settings: RunSettings,
    examples: Sequence[Example],
    *,
    epoch: int,
    recipe: str,
    store_id: str,
    skipped: Sequence[str] = (),
) -> str:
    """Return the page. Args: examples: rows in the order of the epoch. skipped: which rows could not be read."""
    background = settings.background
    names = [view.name for view in examples[0].views]
    facts = [
        ("rows shown", f"{len(examples)}", f"the first of epoch {epoch}"),
        ("views of each", f"{len(settings.views)}", " and ".join(sorted({f"{v.size_px} px" for v in settings.views}))),
        ("batch", f"{settings.batch_size}", "images a step"),
        ("backgrounds replaced", f"{background.probability:.0%}", f"of views, {background.name}"),
        ("seed", f"{settings.seed}", f"recipe {recipe}"),
        ("store", store_id[:8], "id"),
    ]
    articles = "".join(full_example_html(example, background.name) for example in examples)
    lost = "".join(f"<li>{escape(message)}</li>" for message in skipped)
    return document.page(
        f"Views of {settings.method}, background {background.name}",
        document.headline(facts),
        [
            Section(anchor="reading", heading="How to read this", body=_reading(settings)),
            Section(anchor="drawn", heading="Tries and fallbacks", body=_drawn_table(examples, names)),
            Section(anchor="rows", heading="Rows", body=(f"<ul>{lost}</ul>" if lost else "") + articles),
            Section(anchor="plan", heading="The plan", body=_plan_table(settings, names)),
        ],
    )


def _reading(settings: RunSettings) -> str:
    """The kinds of pictures, in words for a newcomer; only those that this plan has."""
    kinds = [
        ("image and boxes", "the stored image; each box is what one view shows of it, in the colour of the view's frame"
         " (grey: local views)."),
        ("mask", "the foreground a detector found, outlined; the rest is darkened."),
        ("tiled background", "the image with its foreground filled in from beside it; other rows may borrow it."),
        ("views", "what the network is fed, after every augmentation, before normalisation; below it, how many"
         " proposals its box took and what was changed. Training makes views of one image agree."),
    ]  # fmt: skip
    name = settings.background.name
    if BACKGROUNDS.load(name).MOVES_FOREGROUND:
        kinds.append(
            ("donor", "the row on whose tiled background the foreground was put, at another size and place; the box is "
             "the part that the view shows. Such a view's box in the image is what it would show were the image that "
             "large: it may lie half outside.")
        )  # fmt: skip
    elif BACKGROUNDS.load(name).NEEDS_DONOR:
        kinds.append(
            ("donor", "the row whose tiled background was put behind the foreground; the box is the part used.")
        )
    if name == "rm":
        kinds.append(("grey backgrounds", "where a background is removed, one grey level drawn for the view fills it."))
    if name == "swaps":
        kinds.append(
            ("extra negative", "an image the query must not resemble: another image's foreground on the query's own "
             "background, so that the background does not help; or a plain other image.")
        )  # fmt: skip
    if cast.in_use(settings.cast):
        kinds.append(
            ("masked key", "the key with its background at the mean colour: what makes the query similar to it should "
             "lie in the foreground (CAST).")
        )  # fmt: skip
    items = "".join(f"<dt>{escape(kind)}</dt><dd>{escape(words)}</dd>" for kind, words in kinds)
    return f'<dl class="kinds">{items}</dl>'


def _plan_table(settings: RunSettings, names: Sequence[str]) -> str:
    """The settings of every view, a column each, and what ties them together."""
    per_view = [asdict(view) for view in settings.views]
    rows = [[escape(field), *(document.value_html(view[field]) for view in per_view)] for field in per_view[0]]
    table = document.table(["setting", *map(escape, names)], rows, label="settings of the views")
    together: list[tuple[str, object]] = [
        ("crop_proposal", settings.crop_proposal),
        ("crop_fallback", settings.crop_fallback),
        ("pair_constraint", settings.pair_constraint),
        *((name, value) for name, value in by_path(settings).items() if name.startswith("background.")),
    ]
    return table + document.facts_table(together, label="settings of all views together")


def _drawn_table(examples: Sequence[Example], names: Sequence[str]) -> str:
    """What was drawn for the rows shown, per view."""
    head = ["view", "tries, mean", "fallback boxes", "without foreground", "backgrounds replaced", "negatives matched"]
    rows = []
    for number, name in enumerate(names):
        records = [example.views[number].record for example in examples]
        counts = [
            sum(bool(record["is_fallback"]) for record in records),
            sum(record["foreground_fraction"] == 0 for record in records),
            sum(bool(record["has_background"]) for record in records),
            sum(bool(record["is_negative_matched"]) for record in records),
        ]
        tries = f"{np.mean([record['tries'] for record in records]):.2f}"
        rows.append([escape(name), tries, *(f"{count} of {len(records)}" for count in counts)])
    words = "Of the rows below. A box is proposed up to ten times until it holds the foreground its view asks for."
    return f'<p class="note">{words}</p>{document.table(head, rows, label="what was drawn")}'
