"""The page as a folder of files that opens without a server or a network, and can be moved, copied or zipped.

    index.html, style.css, gallery.css, gallery.js    the page
    data/, pictures/                                  what it loads, when it is looked at; of very many rows data/ alone
    gallery.json                                      which store and which rows it shows

It grows as `<out>.partial` and takes its name when it is whole. Given again after a kill the same command goes on: a
script of rows is written after the pictures of its rows.
"""

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from backdrop.devices import num_cores
from backdrop.disk_errors import disk_errors
from backdrop.durable_files import PARTIAL, sync, write_aside
from backdrop.errors import UserError
from backdrop.pipeline.gallery import content
from backdrop.pipeline.gallery.doubt import Doubts, facts_of
from backdrop.pipeline.gallery.row_pictures import SIDE_PX, RowPictures
from backdrop.pipeline.gallery.source_images import SourceImages
from backdrop.progress import stage_bar
from backdrop.stores.format.reader import Store
from backdrop.stores.images.image_codec import sha256
from backdrop.stores.pages.style import CSS

FORMAT_VERSION = 3
RECORD = "gallery.json"
PAGE = "index.html"
_ASSETS = (PAGE, "gallery.css", "gallery.js")


def write_gallery(
    store: Store,
    images: SourceImages,
    rows: np.ndarray,
    out: Path | None = None,
    *,
    other: Store | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the page; one of the same rows of the same store that is there already is kept.

    Args:
        store: an open store.
        images: what was found of its images.
        rows: the rows to show, ascending.
        out: the folder; it appears whole or not at all. None = beside the store.
        other: another detector's masks of the same images: where they disagree, a row is shown earlier.
        overwrite: put it in the place of another gallery that lies there; never of anything else.

    Returns:
        The page, out/index.html.

    Raises:
        UserError: another gallery or something else lies at `out`, it cannot be written, no row is built yet, or
            `other` is of other images.
        CorruptStore: the store is damaged.
    """
    if not len(rows):
        raise UserError(f"{store.path} has no row yet; give the command that builds it again, it resumes")
    out = out or store.path.with_suffix(".gallery")
    record = _record(store, images, rows) | ({"other": other.store_id} if other else {})
    if out.exists() and _is_same(out, record, overwrite=overwrite):
        return out / PAGE
    partial = out.with_name(out.name + PARTIAL)
    with disk_errors(out):
        partial.mkdir(parents=True, exist_ok=True)
        # What a killed command left of another gallery was never one.
        if any(partial.iterdir()) and not _is_same(partial, record, overwrite=True):
            shutil.rmtree(partial)
            partial.mkdir()
        write_aside(partial / RECORD, json.dumps(record, indent=1) + "\n")
        (partial / "data").mkdir(exist_ok=True)
        doubts = Doubts(facts_of(store, rows, other))
        layout = content.folder_layout(rows)
        _write_rows(store, images, rows, doubts, partial)
        write_aside(partial / "data" / "store.js", content.store_script(store, images, rows, doubts, layout))
        for name, text in page_files().items():
            write_aside(partial / name, text)
        if out.exists():  # another gallery, to be overwritten
            shutil.rmtree(out)
        partial.rename(out)
        sync(out.parent)
    return out / PAGE


def page_files() -> dict[str, bytes]:
    """The files of the page that are the same for every store: name -> content."""
    assets = files("backdrop.pipeline.gallery")
    return {"style.css": CSS.encode(), **{name: assets.joinpath(name).read_bytes() for name in _ASSETS}}


def _record(store: Store, images: SourceImages, rows: np.ndarray) -> dict[str, Any]:
    """What the content of a gallery follows from; a store that is half built is known by what is built of it."""
    return {
        "format": "backdrop-gallery",
        "format_version": FORMAT_VERSION,
        "store_id": store.store_id or f"half built, {sha256(store.status.tobytes()).hex()[:16]}",
        "images": images.where,
        "num_rows": len(rows),
        "rows_sha256": sha256(rows.astype("<i8").tobytes()).hex(),
    }


def _is_same(folder: Path, record: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Whether a folder holds the gallery of this record, and not another one that may be overwritten.

    Raises: UserError: it holds another one that may not be, or no gallery.
    """
    try:
        there = json.loads((folder / RECORD).read_bytes())
        if there["format"] != record["format"]:
            raise ValueError(there["format"])
        different = [name for name in {*there, *record} if there.get(name) != record.get(name)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} is there already and no gallery of a store; remove it, or give another --out"
        ) from error
    if different and not overwrite:
        raise UserError(
            f"{folder} holds a gallery of {_how_it_differs(there, record)}. Write the new one over it with "
            "--overwrite, or give another --out"
        )
    return not different


def _how_it_differs(there: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """What another gallery shows, for people. Args: as they are kept in `RECORD`."""
    if there["store_id"] != record["store_id"]:
        return "another store, or of this one when less or more of it was built"
    if there["rows_sha256"] != record["rows_sha256"]:
        return f"{there['num_rows']:,} rows of the same store, where {record['num_rows']:,} were asked for"
    if there["images"] != record["images"]:
        return (
            f"the same rows with {_whose(there['images'])}, where now it would be made with {_whose(record['images'])}"
        )
    if there.get("other") != record.get("other"):
        return "the same rows, compared with other masks or with none"
    return "the same rows, made by another version of Backdrop"


def _whose(images: str) -> str:
    """The images of a gallery. Args: images: where they were found, "" = nowhere."""
    return f"the images of {images}" if images else "no images beside the masks"


def _write_rows(store: Store, images: SourceImages, rows: np.ndarray, doubts: Doubts, folder: Path) -> None:
    layout = content.folder_layout(rows)
    pictures = RowPictures(store, images, content.PACKED_SIDE_PX if layout.is_packed else SIDE_PX)

    def draw(row: int) -> content.Drawn:
        jpegs, why_not = pictures.draw(row)
        if layout.is_packed:
            return jpegs, why_not
        for kind, jpeg in jpegs.items():
            (folder / content.picture_path(row, kind)).write_bytes(jpeg)
        return {}, why_not

    with stage_bar(total=len(rows), unit="row", stage="gallery") as bar, ThreadPoolExecutor(num_cores()) as threads:
        places = layout.places(doubts)
        for chunk in range(layout.num_chunks(rows)):
            of_chunk = layout.of_chunk(places, chunk)
            now = rows[of_chunk].tolist()
            if not (folder / content.chunk_path(chunk)).exists():
                for row in [] if layout.is_packed else now:
                    (folder / content.picture_path(row, "image")).parent.mkdir(parents=True, exist_ok=True)
                drawn = dict(zip(now, threads.map(draw, now), strict=True))
                script = content.rows_script(store, rows, of_chunk, chunk, drawn.__getitem__, doubts)
                write_aside(folder / content.chunk_path(chunk), script)
            bar.update(len(now))
