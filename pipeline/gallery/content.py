"""What the page knows of a store, as scripts: a page opened from a file may load those, and nothing else, on demand.

`data/store.js` says what the page needs at once: where the store comes from, and of every row the few bytes that are
filtered and sorted by. `data/rows-00012.js` holds the rest of 256 rows, and is loaded when one of them is shown. Of
very many rows it holds their pictures too, smaller ones, for a million rows would be three million files otherwise; in
it lie then rows that the page shows one after another as it is opened, the most doubtful first.
Everything is data: the page sets it as text, never as HTML.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from backdrop.pipeline.gallery.doubt import Doubts
from backdrop.pipeline.gallery.row_pictures import KINDS, keeps_soft_maps
from backdrop.pipeline.gallery.source_images import SourceImages
from backdrop.stores.format.reader import Store
from backdrop.stores.format.schema import MASK_POLARITY, NOT_BUILT, Status

CHUNK_ROWS = 256
# From so many rows on their pictures lie in the scripts: at 1.28 million rows 4,449 files of 4 MB.
PACKED_FROM = 50_000
PACKED_CHUNK_ROWS = 288
PACKED_SIDE_PX = 128
PICTURES_PER_FOLDER = 1000
# A row's pictures, kind -> JPEG, and of those it has not the reasons.
Drawn = tuple[Mapping[str, bytes], Mapping[str, str]]
MEANINGS = {
    Status.OK: "a mask with foreground and background",
    Status.NO_FOREGROUND: "nothing was found: the mask is empty",
    Status.ALL_FOREGROUND: "everything was found to be foreground: nothing is left as background",
    Status.DECODE_ERROR: "the image cannot be read, so there is no mask",
    Status.MASK_ERROR: "the mask that was given is missing or does not fit its image",
}


def built_rows(store: Store) -> np.ndarray:
    """The rows that are there, int64, ascending: all of a finished store."""
    return np.flatnonzero(store.status != NOT_BUILT)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a page keeps what it shows of its rows.

    chunk_rows: rows of one script. is_packed: whether their pictures lie in it too; else they are files.
    """

    chunk_rows: int
    is_packed: bool

    def num_chunks(self, rows: np.ndarray) -> int:
        """How many scripts of rows there are."""
        return -(-len(rows) // self.chunk_rows)

    def places(self, doubts: Doubts) -> np.ndarray:
        """Places of the rows, among those on the page, in the order in which the scripts hold them; int64."""
        if not self.is_packed:
            return np.arange(len(doubts.value))
        return np.argsort(-_in_steps(doubts.value).astype(np.int64), kind="stable")

    def of_chunk(self, places: np.ndarray, chunk: int) -> np.ndarray:
        """Those of one script. Args: places: as `places` returns them. chunk: which script."""
        return places[chunk * self.chunk_rows : (chunk + 1) * self.chunk_rows]


def folder_layout(rows: np.ndarray) -> Layout:
    """The layout of a folder of files with these rows."""
    is_packed = len(rows) >= PACKED_FROM
    return Layout(chunk_rows=PACKED_CHUNK_ROWS if is_packed else CHUNK_ROWS, is_packed=is_packed)


def served_layout() -> Layout:
    """The layout of a page that is served: pictures are drawn when they are looked at."""
    return Layout(chunk_rows=CHUNK_ROWS, is_packed=False)


def picture_path(row: int, kind: str) -> str:
    """Where a row's picture lies, below the page."""
    return f"pictures/{row // PICTURES_PER_FOLDER}/{row}-{kind}.jpg"


def chunk_path(chunk: int) -> str:
    """Where a script of rows lies, below the page."""
    return f"data/rows-{chunk:05d}.js"


def store_script(store: Store, images: SourceImages, rows: np.ndarray, doubts: Doubts, layout: Layout) -> str:
    """The script `data/store.js`.

    Args:
        store: an open store.
        images: what was found of its images.
        rows: the rows on the page, ascending.
        doubts: about each of them.
        layout: of the page.
    """
    class_names, class_of = _classes(store, rows)
    return _call(
        "store",
        {
            "dataset": store.dataset,
            "split": store.split,
            "storeId": store.store_id,
            "schemaVersion": store.schema_version,
            "maskPolarity": MASK_POLARITY,
            "numRows": store.num_rows,
            "numBuilt": len(built_rows(store)),
            "identity": store.identity,
            "keepsSoftMaps": keeps_soft_maps(store),
            "images": {"where": images.where, "missing": images.missing},
            "statuses": _statuses(store),
            "classes": class_names,
            "kinds": KINDS,
            "chunkRows": layout.chunk_rows,
            "isPacked": layout.is_packed,
            "picturesPerFolder": PICTURES_PER_FOLDER,
            "columns": {
                "step": _column(_steps(rows)),
                "status": _column(store.status[rows]),
                "class": _column(class_of),
                "fraction": _column(_in_steps(store.foreground_fraction[rows])),
                "doubt": _column(_in_steps(doubts.value)),
            },
        },
    )


def _in_steps(fraction: np.ndarray) -> np.ndarray:
    """Fractions in [0, 1] as the page has them: whole numbers of 65,535ths."""
    return np.round(fraction * 65_535).astype("<u2")


def _steps(rows: np.ndarray) -> np.ndarray:
    """Rows as each one's distance from the one before, the first's from -1: a byte each where few are left out."""
    steps = np.diff(rows, prepend=-1)
    return steps.astype(np.min_scalar_type(steps.max(initial=0)))


def rows_script(
    store: Store, rows: np.ndarray, places: np.ndarray, chunk: int, drawn: Callable[[int], Drawn], doubts: Doubts
) -> str:
    """A script `data/rows-*.js`.

    Args:
        store: an open store.
        rows: all rows on the page.
        places: of those that the script holds.
        chunk: its number.
        drawn: row -> its pictures, where the script is to hold them, and those it has not, with the reason; "" or
            absent: it has it.
        doubts: about all rows on the page.
    """
    told = []
    for at, row in zip(places.tolist(), rows[places].tolist(), strict=True):
        jpegs, why_not = drawn(row)
        packed = {kind: base64.b64encode(jpeg).decode("ascii") for kind, jpeg in jpegs.items()}
        facts = {**_facts(store, row, why_not), "doubts": doubts.reasons(at)}
        told.append(facts | ({"pictures": packed} if packed else {}))
    return _call("rows", chunk, told)


def _facts(store: Store, row: int, why_not: Mapping[str, str]) -> dict[str, object]:
    return {
        "key": store.key(row),
        "message": store.message(row),
        "size": [int(store.height[row]), int(store.width[row])],
        "box": store.box[row].tolist(),
        "bytes": int(store.source_bytes[row]),
        "sha256": store.source_sha256(row).hex(),
        "fraction": float(store.foreground_fraction[row]),
        "label": int(store.label[row]),
        "whyNot": {kind: why for kind, why in why_not.items() if why},
    }


def _statuses(store: Store) -> list[dict[str, object]]:
    return [
        {
            "code": int(status),
            "label": status.label,
            "meaning": MEANINGS[status],
            "count": int((store.status == status).sum()),
        }
        for status in Status
    ]


def _classes(store: Store, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names of the classes, and each row's place among them.

    A store knows numbers. Where images lie in folders these are the classes' names (imagenet, sample, folder).
    """
    labels, first, class_of = np.unique(store.label[rows], return_index=True, return_inverse=True)
    names = []
    for label, place in zip(labels.tolist(), first.tolist(), strict=True):
        folder, slash, _ = store.key(int(rows[place])).partition("/")
        names.append("no class" if label < 0 else folder if slash else f"class {label}")
    return names, class_of.astype(np.min_scalar_type(max(0, len(names) - 1)))


def _column(values: np.ndarray) -> dict[str, str]:
    """An array as the page reads it: the name of JavaScript's type, and little-endian bytes in base 64."""
    little_endian = values.astype(values.dtype.newbyteorder("<"))
    return {
        "type": f"Uint{8 * values.dtype.itemsize}Array",
        "data": base64.b64encode(little_endian.tobytes()).decode("ascii"),
    }


def _call(function: str, *arguments: int | Sequence[object] | Mapping[str, object]) -> str:
    """A call of the page's code. JSON in ASCII is JavaScript, whatever a key holds."""
    return f"gallery.{function}({', '.join(json.dumps(argument, allow_nan=False) for argument in arguments)});\n"
