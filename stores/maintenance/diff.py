"""What differs between two stores: identity, rows only in one, and what changed in the rows that both have."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from backdrop.progress import stage_bar
from backdrop.stores.format.mask_codec import decode_mask
from backdrop.stores.format.part_reader import Part
from backdrop.stores.format.provenance import differing_fields
from backdrop.stores.format.reader import Store
from backdrop.stores.format.schema import Status

EXAMPLES = 10
# Compared column by column; those that follow from the mask are left to it.
COMPARED_COLUMNS = ("label", "height", "width", "source_sha256", "source_bytes")
COMPARED_BLOBS = ("background", "saliency", "message")
IOU_EDGES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 1.0)


@dataclass
class _Changes:
    """What was found so far."""

    rows: int = 0
    fields: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    ious: list[float] = field(default_factory=list)
    examples: list[dict] = field(default_factory=list)


def diff(a: Store, b: Store) -> dict:
    """Compare two stores, finished or half built; rows are matched by their keys.

    Parts whose receipts state the same digests of the same files are equal, and are not read.

    Args:
        a, b: the stores, opened; of published ones only the parts that differ are fetched.

    Returns:
        Plain JSON values: `equal`; `identity`, the fields that differ, a line each ("here" is a); `only_in_a` and
        `only_in_b` (num_rows, first keys); `changed` (num_rows; fields -> rows; status, "ok -> no-foreground" -> rows;
        mask_iou: mean, min and a histogram over rows whose masks differ, but not in size; the first examples);
        `parts_not_read`.

    Raises:
        CorruptStore: bytes of a part that differs are damaged.
    """
    for store in (a, b):
        store.prefetch()
    same = _same_parts(a, b)
    rows_of_b = {key: (part, at) for part, at, key in _rows(b, same)}
    only_in_a, changes = [], _Changes()
    for part, at, key in stage_bar(_rows(a, same), stage="compare", unit="row"):
        other = rows_of_b.pop(key, None)
        if other is None:
            only_in_a.append(key)
        else:
            _compare_row(key, (part, at), other, changes)
    identity = differing_fields(a.identity, b.identity)
    return {
        "a": _name(a),
        "b": _name(b),
        "equal": not (identity or only_in_a or rows_of_b or changes.rows),
        "identity": identity,
        "only_in_a": _first(only_in_a),
        "only_in_b": _first(list(rows_of_b)),
        "changed": {
            "num_rows": changes.rows,
            "fields": dict(sorted(changes.fields.items())),
            "status": dict(sorted(changes.statuses.items())),
            "mask_iou": _summary(changes.ious),
            "examples": changes.examples,
        },
        "parts_not_read": len(same),
    }


def _same_parts(a: Store, b: Store) -> set[int]:
    """Numbers of the parts that hold the same rows with the same bytes in both stores."""
    if a.part_rows != b.part_rows:
        return set()
    both = [part for part in range(min(a.num_parts, b.num_parts)) if a.has_part(part) and b.has_part(part)]
    return {part for part in both if a.part(part).array_digests == b.part(part).array_digests}


def _rows(store: Store, left_out: set[int]) -> Iterator[tuple[Part, int, str]]:
    """Part, place in it and key of every row that is built, but for the parts left out."""
    for number in range(store.num_parts):
        if number not in left_out and store.has_part(number):
            part = store.part(number)
            yield from ((part, at, part.text("key", at)) for at in range(part.num_rows))


def _compare_row(key: str, a: tuple[Part, int], b: tuple[Part, int], changes: _Changes) -> None:
    """Add what differs between two rows of one key."""
    columns = {name: [part.column(name)[at].tobytes() for part, at in (a, b)] for name in COMPARED_COLUMNS}
    blobs = {name: [part.blob(name, at) for part, at in (a, b)] for name in COMPARED_BLOBS}
    fields = [name for name, (ours, theirs) in {**columns, **blobs}.items() if ours != theirs]
    statuses = [Status(int(part.column("status")[at])).label for part, at in (a, b)]
    example: dict[str, object] = {"key": key}
    if statuses[0] != statuses[1]:
        fields.append("status")
        example["status"] = " -> ".join(statuses)
        changes.statuses[" -> ".join(statuses)] += 1
    masks = [part.blob("mask", at) for part, at in (a, b)]
    if masks[0] != masks[1]:
        iou = _iou(masks, a, b)
        if iou != 1.0:  # 1: the same mask, compressed by another version of zstd
            fields.append("mask")
            example["mask_iou"] = None if iou is None else round(iou, 4)
            changes.ious += [] if iou is None else [iou]
    if fields:
        changes.rows += 1
        changes.fields.update(fields)
        if len(changes.examples) < EXAMPLES:
            changes.examples.append({**example, "fields": sorted(fields)})


def _iou(masks: Sequence[bytes], a: tuple[Part, int], b: tuple[Part, int]) -> float | None:
    """Intersection over union of two masks, 1 for two empty ones; None where one is missing or of another size."""
    sizes = [tuple(int(part.column(name)[at]) for name in ("height", "width")) for part, at in (a, b)]
    if not all(masks) or sizes[0] != sizes[1]:
        return None
    ours, theirs = (decode_mask(data, *sizes[0]) for data in masks)
    union = int(np.bitwise_count(ours | theirs).sum())
    return int(np.bitwise_count(ours & theirs).sum()) / union if union else 1.0


def _name(store: Store) -> dict:
    return {"path": str(store.path), "store_id": store.store_id, "num_rows": store.num_rows}


def _first(keys: Sequence[str]) -> dict:
    return {"num_rows": len(keys), "keys": list(keys[:EXAMPLES])}


def _summary(ious: Sequence[float]) -> dict | None:
    if not ious:
        return None
    counts, _ = np.histogram(ious, IOU_EDGES)
    bins = {f"{low:g} to {high:g}": int(n) for low, high, n in zip(IOU_EDGES, IOU_EDGES[1:], counts, strict=False)}
    return {
        "num_rows": len(ious),
        "mean": round(float(np.mean(ious)), 4),
        "min": round(min(ious), 4),
        "rows_by_iou": bins,
    }
