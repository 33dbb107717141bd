"""Another threshold for a store that kept its soft maps: masks, statuses and backgrounds anew, no detector, no GPU.

The result is, byte for byte and by its id, the store that `build-store` with that threshold and with soft maps gives:
a build that keeps soft maps cuts its masks from the 8-bit maps as well (see `masks_and_backgrounds.with_content`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from backdrop.errors import UserError
from backdrop.pipeline.build.masks_and_backgrounds import (
    BuildSettings,
    identity_of,
    read_row,
    settings_of,
    with_content,
)
from backdrop.pipeline.build.run_parts import NewStore, Workers, run_parts
from backdrop.saliency.binarise import dequantise
from backdrop.settings import check_settings
from backdrop.stores.format.provenance import differing_fields, plain_identity
from backdrop.stores.format.reader import Store, open_store
from backdrop.stores.format.schema import Status
from backdrop.stores.format.writer import StoreRow, read_attributes, rows_of_part, write_part
from backdrop.stores.indexes.dataset_index import DatasetIndex

# What a new threshold may change of an identity; anything else must be as this version would write it.
CHANGED_FIELDS = "mask."


@dataclass(frozen=True)
class RethresholdSpec:
    """What a worker needs to compute any part."""

    index: DatasetIndex
    parent: Store
    """With soft maps. Pickled as path and id, so that every worker reads the same store."""
    out: Path
    settings: BuildSettings


def rethreshold_store(
    parent_path: Path,
    index: DatasetIndex,
    out: Path,
    *,
    threshold: float,
    num_workers: int | None,
    engine: str = "local",
) -> dict:
    """Build a store from another one's soft maps, or go on with one that was begun so.

    Args:
        parent_path: a finished store that kept soft maps; it is only read.
        index: the data set it was built from; its images give the backgrounds.
        out: the new store's folder.
        threshold: foreground is where the saliency is greater, [0, 1).
        num_workers: processes; None = as many as the engine finds fit.
        engine: how parts are run, one of `stores.engines.NAMES`.

    Returns:
        As `masks_and_backgrounds.build_store`.

    Raises:
        UserError: the parent kept no soft maps or is of other algorithm versions, the images are not those it was
            built from (the key is named), the threshold is out of range, or `out` is taken.
    """
    parent = open_store(parent_path)
    old = settings_of(parent.identity)
    if not old.keeps_soft_maps:
        raise UserError(
            f"{parent.path} kept no soft maps, so its masks cannot be cut again; build it anew with --soft-maps, or "
            f"build with --threshold {threshold} and the detector"
        )
    spec = RethresholdSpec(index, parent, Path(out), replace(old, threshold=threshold))
    check_settings(spec.settings)
    identity = identity_of(index, parent.identity["detector"], spec.settings)
    _refuse_other_data_or_version(parent, identity, index)
    if spec.out.absolute() == parent.path:
        raise UserError(f"{parent.path} is finished and never changes; give the new store another place with --out")
    return run_parts(
        run_part,
        spec,
        NewStore(out=spec.out, identity=identity, num_rows=parent.num_rows, part_rows=parent.part_rows),
        Workers(engine=engine, num_workers=num_workers),
        from_store=parent.store_id,
    )


def run_part(spec: RethresholdSpec, part: int, rows_done: Callable[[int], None] = lambda num_rows: None) -> dict:
    """Compute one part and commit it.

    Args:
        spec: the build.
        part: number of the part.
        rows_done: called with the number of rows done since the last call.

    Returns:
        The part's receipt.

    Raises:
        UserError: the disk is full, or an image is not the one that the parent store was built from.
        CorruptStore: the parent store is damaged.
    """
    rows = []
    for row in rows_of_part(read_attributes(spec.out), part):
        rows.append(_row(spec, row))
        rows_done(1)
    return write_part(spec.out, part, rows)


def _row(spec: RethresholdSpec, row: int) -> StoreRow:
    parent, at = spec.parent, row % spec.parent.part_rows
    columns = parent.part(row // parent.part_rows)  # not the store's own arrays, which span all its parts
    base, image_HWC = read_row(spec.index, row)
    if base.key != parent.key(row) or base.source_sha256 != parent.source_sha256(row):
        raise UserError(
            f"row {row} ({parent.key(row)}): its image file is not the one that {parent.path} was built from. Restore "
            "the file, or have the row computed anew with 'store recompute'."
        )
    status = Status(int(columns.column("status")[at]))
    if not status.has_mask:  # what was wrong then is wrong now: the file is the same
        height, width = int(columns.column("height")[at]), int(columns.column("width")[at])
        return replace(base, height=height, width=width, status=status, message=parent.message(row))
    soft_HW = parent.saliency(row)
    if image_HWC is None or soft_HW is None or soft_HW.shape != image_HWC.shape[:2]:
        why = base.message or "its soft map is missing, or of another size than the image"
        raise UserError(f"row {row} ({base.key}) of {parent.path} cannot be cut again: {why}")
    return with_content(base, image_HWC, dequantise(soft_HW), spec.settings)


def _refuse_other_data_or_version(parent: Store, identity: dict, index: DatasetIndex) -> None:
    lines = differing_fields(plain_identity(identity), parent.identity)
    if any(line.startswith("index_sha256") for line in lines):
        raise UserError(
            f"the images in {index.root} ({len(index)}) are not those {parent.path} was built from ({parent.num_rows} "
            "rows): names, sizes or classes differ; give the folder of that data set with --root"
        )
    others = [line for line in lines if not line.startswith(CHANGED_FIELDS)]
    if others:
        raise UserError(
            f"{parent.path} cannot be cut again by this version, which would write other fields too:\n  "
            + "\n  ".join(others)
            + "\nUse the version of Backdrop that built it, or build it anew."
        )
