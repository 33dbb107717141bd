"""What the page knows of a store, as scripts: a page opened from a file may load those, and nothing else, on demand.

`data/store.js` says what the page needs at once: where the store comes from, and of every row the few bytes that are
filtered and sorted by. `data/rows-00012.js` holds the rest of 256 rows, and is loaded when one of them is shown.
Everything is data: the page sets it as text, never as HTML.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from backdrop.pipeline.gallery.doubt import Doubts
from backdrop.pipeline.gallery.row_pictures import KINDS, keeps_soft_maps
from backdrop.pipeline.gallery.source_images import SourceImages
from backdrop.stores.format.reader import Store
from backdrop.stores.format.schema import MASK_POLARITY, NOT_BUILT, Status

CHUNK_ROWS = 256
PICTURES_PER_FOLDER = 1000
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


def num_chunks(rows: np.ndarray) -> int:
    """How many scripts of rows there are."""
    return -(-len(rows) // CHUNK_ROWS)


def chunk_rows(rows: np.ndarray, chunk: int) -> np.ndarray:
    """The rows of one script."""
    return rows[chunk * CHUNK_ROWS : (chunk + 1) * CHUNK_ROWS]


def picture_path(row: int, kind: str) -> str:
    """Where a row's picture lies, below the page."""
    return f"pictures/{row // PICTURES_PER_FOLDER}/{row}-{kind}.jpg"


def chunk_path(chunk: int) -> str:
    """Where a script of rows lies, below the page."""
    return f"data/rows-{chunk:05d}.js"


def store_script(store: Store, images: SourceImages, rows: np.ndarray, doubts: Doubts) -> str:
    """The script `data/store.js`.

    Args:
        store: an open store.
        images: what was found of its images.
        rows: the rows on the page, ascending.
        doubts: about each of them.
    """
    class_names, class_of = _classes(store, rows)
    fraction = np.round(store.foreground_fraction[rows] * 65_535).astype("<u2")
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
            "chunkRows": CHUNK_ROWS,
            "picturesPerFolder": PICTURES_PER_FOLDER,
            "columns": {
                "step": _column(_steps(rows)),
                "status": _column(store.status[rows]),
                "class": _column(class_of),
                "fraction": _column(fraction),
                "doubt": _column(np.round(doubts.value * 65_535).astype("<u2")),
            },
        },
    )


def _steps(rows: np.ndarray) -> np.ndarray:
    """Rows as each one's distance from the one before, the first's from -1: a byte each where few are left out."""
    steps = np.diff(rows, prepend=-1)
    return steps.astype(np.min_scalar_type(steps.max(initial=0)))


def rows_script(
    store: Store, rows: np.ndarray, chunk: int, why_not: Callable[[int], Mapping[str, str]], doubts: Doubts
) -> str:
    """A script `data/rows-*.js`.

    Args:
        store: an open store.
        rows: all rows on the page.
        chunk: which of its scripts.
        why_not: row -> the pictures it has not, and why; "" or absent: it has it.
        doubts: about all rows on the page.
    """
    first = chunk * CHUNK_ROWS
    return _call(
        "rows",
        chunk,
        [
            {**_facts(store, int(row), why_not(int(row))), "doubts": doubts.reasons(at)}
            for at, row in enumerate(chunk_rows(rows, chunk), first)
        ],
    )


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
