"""Building a store: every image of a data set through a detector, a threshold and a fill; one part is one task."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.build.tiled_background import FILLS, encode_background, parameters
from saliency.binarise import DEFAULT_THRESHOLD, binarise
from saliency.detector import Detector, MaskError, open_detector
from saliency.find_maps import batch_size, find_maps
from stores import engines, schema
from stores.dataset_index import DatasetIndex
from stores.disk_errors import disk_errors
from stores.errors import ImageError, UserError
from stores.image_codec import decode_rgb, sha256
from stores.mask_codec import pack_rows
from stores.provenance import environment, log_event
from stores.reader import open_store
from stores.schema import Status
from stores.writer import (
    StoreRow,
    finish,
    missing_parts,
    open_for_build,
    part_rows_for,
    read_attributes,
    rows_of_part,
    write_part,
)

# Raised by hand whenever the same image, map and settings would give another row.
ALGORITHM_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """What a user may choose about a store's content."""

    threshold: float = DEFAULT_THRESHOLD
    """Foreground is where the saliency is greater, [0, 1)."""
    fill: str = "tile"
    """How backgrounds are filled, one of `tiled_background.FILLS`."""
    keeps_soft_maps: bool = False
    """Whether 8-bit soft maps are stored too, so that others can choose another threshold without a detector."""
    background_max_side_px: int = 256
    """Longest side of a stored background; views are cut from it at 224 px and less."""
    background_quality: int = 90
    """JPEG quality of the stored backgrounds, 1 to 95."""


@dataclass(frozen=True)
class BuildSpec:
    """What a worker needs to compute any part."""

    index: DatasetIndex
    detector: str | Detector
    out: Path
    settings: BuildSettings


def build_store(
    index: DatasetIndex,
    detector_name: str | Detector,
    out: Path,
    settings: BuildSettings,
    *,
    num_workers: int,
    engine: str = "local",
) -> dict:
    """Build a store, or go on with one that was begun with the same data set, detector and settings.

    The bytes of the store are the same for any number of workers, any engine and any interruption.

    Args:
        index: the data set; row i of the store is row i of the index.
        detector_name: as `saliency.detector.open_detector` takes it; or a picklable detector itself.
        out: the store's folder; `<out>.build.jsonl` beside it logs the builds.
        settings: what else decides the content.
        num_workers: processes.
        engine: how parts are run, one of `stores.engines.NAMES`.

    Returns:
        store (path), store_id, num_rows, status (count per status), rows_built (by this call), seconds,
        rows_per_second.

    Raises:
        UserError: settings out of range, no such detector or engine, a place taken by something else or by a store of
            another identity, a full disk, an image changed since it was indexed.
    """
    if engine not in engines.NAMES:
        raise UserError(f"no engine {engine!r}; there are {', '.join(engines.NAMES)}")
    out = Path(out)
    spec = BuildSpec(index, detector_name, out, settings)
    open_for_build(out, store_identity(spec), len(index), part_rows_for(len(index)))
    start = time.monotonic()
    rows_built = _build_missing_parts(spec, num_workers, engine)
    store_id = finish(out)
    seconds = time.monotonic() - start
    status = open_store(out).status
    summary = {
        "store": str(out),
        "store_id": store_id,
        "num_rows": len(index),
        "status": {kind.label: int((status == kind).sum()) for kind in Status},
        "rows_built": rows_built,
        "seconds": round(seconds, 3),
        "rows_per_second": round(rows_built / seconds, 2),
    }
    with disk_errors(out):
        log_event(out, "finished", **summary)
    return summary


def store_identity(spec: BuildSpec) -> dict:
    """Everything that decides the content of a store; no path, no time, no number of workers."""
    settings = spec.settings
    _check(settings)
    return {
        "dataset": spec.index.dataset,
        "split": spec.index.split,
        "index_sha256": spec.index.digest,
        "detector": _detector(spec.detector).identity,
        "mask": {"threshold": float(settings.threshold), "comparator": ">"},
        "background": {
            **parameters(settings.fill),
            "max_side_px": settings.background_max_side_px,
            "jpeg_quality": settings.background_quality,
            "jpeg_subsampling": "4:2:0",
        },
        "soft_maps": "uint8" if settings.keeps_soft_maps else None,
        "image_decoding": {"orientation": "exif applied", "colour": "rgb"},
        "builder_version": ALGORITHM_VERSION,
        "schema_version": schema.SCHEMA_VERSION,
    }


def run_part(spec: BuildSpec, part: int, rows_done: Callable[[int], None] = lambda num_rows: None) -> dict:
    """Compute one part and commit it.

    Args:
        spec: the build.
        part: number of the part.
        rows_done: called with the number of rows done since the last call.

    Returns:
        The part's receipt.

    Raises:
        UserError: the disk is full, or an image changed since it was indexed.
    """
    detector = _detector(spec.detector)
    numbers = rows_of_part(read_attributes(spec.out), part)
    rows: list[StoreRow] = []
    # Batches begin with the part, so that their members, and with them the last bits of a map, never depend on workers.
    size = batch_size(detector)
    for start in range(0, len(numbers), size):
        batch = _build_rows(spec, detector, numbers[start : start + size])
        rows.extend(batch)
        rows_done(len(batch))
    return write_part(spec.out, part, rows)


def _build_missing_parts(spec: BuildSpec, num_workers: int, engine: str) -> int:
    """Run the parts that are not there; how many rows they hold."""
    missing = missing_parts(spec.out)
    attributes = read_attributes(spec.out)
    num_rows = sum(len(rows_of_part(attributes, part)) for part in missing)
    with disk_errors(spec.out):
        log_event(spec.out, "started", rows=num_rows, workers=num_workers, engine=engine, **environment())
    run = import_module(f"stores.engines.{engine}").run
    done = len(spec.index) - num_rows
    with tqdm(total=len(spec.index), initial=done, unit="row", desc=spec.out.name, smoothing=0.05) as bar:
        run(run_part, spec, missing, num_workers=num_workers, progress=bar.update)
    return num_rows


@functools.lru_cache(maxsize=1)
def _opened(name: str) -> Detector:
    """A worker opens its detector once."""
    return open_detector(name)


def _detector(detector: str | Detector) -> Detector:
    return _opened(detector) if isinstance(detector, str) else detector


def _check(settings: BuildSettings) -> None:
    if settings.fill not in FILLS:
        raise UserError(f"no background fill {settings.fill!r}; there are {', '.join(FILLS)}")
    if not 0 <= settings.threshold < 1:
        raise UserError(f"threshold {settings.threshold}; give a number of at least 0 and below 1")
    if not 1 <= settings.background_quality <= 95:
        raise UserError(f"JPEG quality {settings.background_quality}; give 1 to 95")
    if settings.background_max_side_px < 32:
        raise UserError(f"backgrounds of at most {settings.background_max_side_px} px; give 32 or more")


def _build_rows(spec: BuildSpec, detector: Detector, numbers: Sequence[int]) -> list[StoreRow]:
    """Images to rows; what cannot be read or has no mask becomes a status with its reason."""
    read = [_read_row(spec.index, row) for row in numbers]
    decoded = [(base.key, image_HWC) for base, image_HWC in read if image_HWC is not None]
    maps = iter(find_maps(detector, [image_HWC for _, image_HWC in decoded], [key for key, _ in decoded]))
    return [
        base if image_HWC is None else _found_row(base, image_HWC, next(maps), spec.settings)
        for base, image_HWC in read
    ]


def _read_row(index: DatasetIndex, row: int) -> tuple[StoreRow, np.ndarray | None]:
    """What the file of a row says, and its pixels; without pixels the status is decode-error."""
    base = StoreRow(
        row=row,
        key=index.keys[row],
        label=int(index.labels[row]),
        height=0,
        width=0,
        status=Status.DECODE_ERROR,
        mask_packed=None,
    )
    try:
        data = index.read(row)
    except OSError as error:
        return replace(base, message=f"cannot be read: {error.strerror}"), None
    if len(data) != index.sizes_bytes[row]:
        raise UserError(
            f"{index.path(row)} has {len(data)} bytes where the index has {index.sizes_bytes[row]}: the data set "
            "changed while its store was built. Build a new store with another --out once it is settled."
        )
    base = replace(base, source_sha256=sha256(data), source_bytes=len(data))
    try:
        image_HWC = decode_rgb(data)
    except ImageError as error:
        return replace(base, message=str(error)), None
    return replace(base, height=image_HWC.shape[0], width=image_HWC.shape[1]), image_HWC


def _found_row(
    base: StoreRow, image_HWC: np.ndarray, found: np.ndarray | MaskError, settings: BuildSettings
) -> StoreRow:
    if isinstance(found, MaskError):
        return replace(base, status=Status.MASK_ERROR, message=str(found))
    assert found.shape == image_HWC.shape[:2], f"{base.key}: map of {found.shape}"
    return _with_content(base, image_HWC, found, settings)


def _with_content(base: StoreRow, image_HWC: np.ndarray, saliency_HW: np.ndarray, settings: BuildSettings) -> StoreRow:
    """Add what the pixels decide."""
    mask_HW, status = binarise(saliency_HW, settings.threshold)
    soft_HW = np.rint(np.clip(saliency_HW, 0, 1) * 255).astype(np.uint8) if settings.keeps_soft_maps else None
    background_jpeg = encode_background(
        image_HWC, mask_HW, settings.fill, settings.background_max_side_px, settings.background_quality
    )
    return replace(
        base, status=status, mask_packed=pack_rows(mask_HW), saliency_HW=soft_HW, background_jpeg=background_jpeg
    )
