"""Some rows of a finished store computed anew, the others taken as they are; a new store, for that one never changes.

The result has the identity, and byte for byte the content, of a build from scratch with the images as they are now:
unchanged ones, or some of the chosen rows repaired.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backdrop.errors import UserError
from backdrop.pipeline.build.masks_and_backgrounds import (
    BuildSpec,
    build_rows,
    settings_of,
    store_identity,
    use_detector,
)
from backdrop.pipeline.build.run_parts import NewStore, Workers, run_parts
from backdrop.saliency.detector import Detector
from backdrop.stores.format import schema
from backdrop.stores.format.provenance import differing_fields, plain_identity
from backdrop.stores.format.reader import Store, open_store
from backdrop.stores.format.schema import Status
from backdrop.stores.format.writer import (
    EncodedRow,
    StoreRow,
    checked_part_files,
    read_attributes,
    read_receipt,
    rows_of_part,
    write_part,
    write_part_files,
)
from backdrop.stores.indexes.dataset_index import DatasetIndex
from backdrop.stores.indexes.named_rows import named_rows

INDEX_FIELD = "index_sha256"


@dataclass(frozen=True)
class RecomputeSpec:
    """What a worker needs to compute or copy any part."""

    build: BuildSpec
    parent: Store
    """Pickled as path and id, so that every worker reads the same store."""
    rows: frozenset[int]
    """Those computed anew."""


def chosen_rows(store: Store, *, where: str | None, numbers: str | None) -> list[int]:
    """The rows that a user chose, by a condition, by number or in a file of keys.

    Args: store: a finished store. where: as `rows_where` takes it. numbers: as `named_rows` takes them.
    Raises: UserError: neither or both were given; as those.
    """
    if (where is None) == (numbers is None):
        raise UserError("give either --where CONDITION or --rows NUMBERS|@FILE.")
    if where is not None:
        return rows_where(store, where)
    return named_rows(str(numbers), store.num_rows, store.key, option="--rows")


def rows_where(store: Store, condition: str) -> list[int]:
    """The rows that a condition chooses.

    Args:
        store: a finished store.
        condition: "status=" and one or several of the statuses' names, separated by commas: "status=decode-error".

    Raises:
        UserError: another condition, no such status, or no row has it.
    """
    labels = {status.label: status for status in Status}
    name, _, given = condition.partition("=")
    chosen = given.split(",")
    if name != "status" or not set(chosen) <= labels.keys():
        raise UserError(f"--where {condition!r}: give status= and one or more of {', '.join(labels)}, with commas")
    rows = np.flatnonzero(np.isin(store.status, [labels[label] for label in chosen])).tolist()
    if not rows:
        raise UserError(f"no row of {store.path} has status {given}; there is nothing to compute anew")
    return rows


def recompute_store(
    parent_path: Path,
    index: DatasetIndex,
    detector_name: str | Detector,
    out: Path,
    rows: Sequence[int],
    *,
    num_workers: int | None,
    engine: str = "local",
) -> dict:
    """Build a store like another one, with chosen rows computed anew, or go on with one that was begun so.

    A detector that works in batches (`batch_size`) gets the batches a build would give it; where a repaired image
    joins its batch, the whole batch is computed anew, because it may move the last bits of its neighbours.

    Args:
        parent_path: a finished store of `build-store`; it is only read.
        index: the data set as it is now.
        detector_name: the detector that built it, by name or itself.
        out: the new store's folder.
        rows: those to compute anew.
        num_workers: processes; None = as many as the engine finds fit.
        engine: how parts are run, one of `stores.engines.NAMES`.

    Returns:
        As `masks_and_backgrounds.build_store`, and rows_chosen.

    Raises:
        UserError: the detector or a version is another than the store's (named), the images of other rows changed
            (the first key is named), a row that is not there, or `out` is taken.
    """
    parent = open_store(parent_path)
    spec = RecomputeSpec(
        BuildSpec(index, detector_name, Path(out), settings_of(parent.identity)), parent, frozenset(rows)
    )
    if not rows or not all(0 <= row < parent.num_rows for row in rows):
        raise UserError(f"{sorted(rows)[:5]}: give rows of 0 to {parent.num_rows - 1} to compute anew, at least one")
    if spec.build.out.absolute() == parent.path:
        raise UserError(f"{parent.path} is finished and never changes; give the new store another place with --out")
    identity = store_identity(spec.build)
    _refuse_other_identity(parent, identity)
    _refuse_other_images(spec)
    summary = run_parts(
        run_part,
        spec,
        NewStore(out=spec.build.out, identity=identity, num_rows=parent.num_rows, part_rows=parent.part_rows),
        Workers(engine=engine, num_workers=num_workers, uses_gpu=use_detector(spec.build.detector).uses_gpu),
        from_store=parent.store_id,
        rows_chosen=len(spec.rows),
    )
    return {**summary, "rows_chosen": len(spec.rows)}


def run_part(spec: RecomputeSpec, part: int, rows_done: Callable[[int], None] = lambda num_rows: None) -> dict:
    """Compute or copy one part and commit it.

    Args:
        spec: the build.
        part: number of the part.
        rows_done: called with the number of rows done since the last call.

    Returns:
        The part's receipt.

    Raises:
        UserError: the disk is full, or the image of a row that was not chosen changed.
        CorruptStore: the parent store is damaged.
    """
    out, parent = spec.build.out, spec.parent
    numbers = rows_of_part(read_attributes(out), part)
    parent.part(part)  # compares its receipt with the manifest
    if spec.rows.isdisjoint(numbers):
        counts = read_receipt(parent.path, part)[1]["status_counts"]
        receipt = write_part_files(out, part, checked_part_files(parent.path, part), counts)
        rows_done(len(numbers))
        return receipt
    rows: list[StoreRow | EncodedRow] = []
    size = use_detector(spec.build.detector).batch_size
    for start in range(0, len(numbers), size):
        rows.extend(_batch(spec, numbers[start : start + size]))
        rows_done(min(size, len(numbers) - start))
    return write_part(out, part, rows)


def _batch(spec: RecomputeSpec, numbers: Sequence[int]) -> Sequence[StoreRow | EncodedRow]:
    """The rows of one batch of the detector."""
    if spec.rows.isdisjoint(numbers):
        return [_taken(spec.parent, row) for row in numbers]
    built = build_rows(spec.build, use_detector(spec.build.detector), numbers)
    for new in built:
        if new.row not in spec.rows and new.source_sha256 != spec.parent.source_sha256(new.row):
            raise UserError(_image_changed(spec.parent, new.row))
    height = spec.parent.part(numbers[0] // spec.parent.part_rows).column("height")
    if any((new.height > 0) != (height[new.row % spec.parent.part_rows] > 0) for new in built):
        return built  # an image more or less in the batch
    return [new if new.row in spec.rows else _taken(spec.parent, new.row) for new in built]


def _taken(parent: Store, row: int) -> EncodedRow:
    """A row of the parent as its bytes are, checked."""
    number, at = divmod(row, parent.part_rows)
    part = parent.part(number)
    columns = {column.name: part.column(column.name)[at] for column in schema.COLUMNS}
    return EncodedRow(row, columns, {blob.name: part.blob(blob.name, at) for blob in schema.BLOBS})


def _refuse_other_identity(parent: Store, identity: dict) -> None:
    ours = {**plain_identity(identity), INDEX_FIELD: parent.identity[INDEX_FIELD]}
    lines = differing_fields(ours, parent.identity)
    if lines:
        raise UserError(
            f"rows computed now would not fit those of {parent.path}:\n  "
            + "\n  ".join(lines)
            + "\nGive the detector and the data set it was built with (and that version of Backdrop), or build it anew."
        )


def _refuse_other_images(spec: RecomputeSpec) -> None:
    """Refuse where the data set changed in other rows than those computed anew; found by name, class and size."""
    index, parent = spec.build.index, spec.parent
    if len(index) != parent.num_rows:
        raise UserError(
            f"{index.root} holds {len(index)} images, {parent.path} was built from {parent.num_rows}; build it anew"
        )
    for row in range(parent.num_rows):
        if index.keys[row] != parent.key(row) or index.labels[row] != parent.label[row]:
            raise UserError(
                f"row {row} of {parent.path} is {parent.key(row)} (class {parent.label[row]}), the data set now has "
                f"{index.keys[row]} (class {index.labels[row]}) there; build it anew"
            )
        was_read = any(parent.source_sha256(row))  # otherwise its size was never known
        if row not in spec.rows and was_read and index.sizes_bytes[row] != parent.source_bytes[row]:
            raise UserError(_image_changed(parent, row))


def _image_changed(parent: Store, row: int) -> str:
    return (
        f"row {row} ({parent.key(row)}): its image changed since {parent.path} was built. Choose that row too, or "
        "restore the file."
    )
