"""Building a store: every image of a data set through a detector, a threshold and a fill; one part is one task."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np

from backdrop.errors import ImageError, UserError
from backdrop.pipeline.build.first_look import refuse_hopeless
from backdrop.pipeline.build.run_parts import NewStore, Workers, run_parts
from backdrop.pipeline.build.tiled_background import FILLS, encode_background, parameters
from backdrop.saliency.binarise import binarise, dequantise, quantise
from backdrop.saliency.detector import Detector, MaskError, Threshold
from backdrop.saliency.detectors import open_detector
from backdrop.settings import at_least, check_settings, from_below, one_of, within
from backdrop.stores.format import schema
from backdrop.stores.format.mask_codec import pack_rows
from backdrop.stores.format.schema import Status
from backdrop.stores.format.writer import StoreRow, part_rows_for, read_attributes, rows_of_part, write_part
from backdrop.stores.images.image_codec import decode_rgb, sha256
from backdrop.stores.indexes.dataset_index import DatasetIndex

# Raised by hand whenever the same image, map and settings would give another row.
ALGORITHM_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """What a user may choose about a store's content."""

    threshold: Annotated[
        float | None, from_below(0, 1), "Foreground is where the saliency is greater; none = the detector's own"
    ] = None
    fill: Annotated[str, one_of(FILLS), "How backgrounds are filled"] = "tile"
    keeps_soft_maps: Annotated[
        bool,
        "Whether 8-bit soft maps are stored too, so that others can choose another threshold without a detector",
    ] = False
    background_max_side_px: Annotated[
        int,
        at_least(32),
        "Longest side of a stored background; views are cut from it at 224 px and less. At 256 px a pasted one has "
        "0.63 of an image's fine detail, at 384 px 0.86, at 512 px 0.92 (tests/bench/backgrounds.py)",
    ] = 384
    background_quality: Annotated[int, within(1, 95), "JPEG quality of the stored backgrounds"] = 90


@dataclass(frozen=True)
class BuildSpec:
    """What a worker needs to compute any part."""

    index: DatasetIndex
    detector: str | Detector
    out: Path
    settings: BuildSettings
    """With a threshold."""


def specify(index: DatasetIndex, detector: str | Detector, out: Path, settings: BuildSettings) -> BuildSpec:
    """Decide what the detector decides: the threshold, where none was given.

    Args: as `build_store`.
    Raises: UserError: a setting is out of range, or there is no such detector.
    """
    check_settings(settings)  # before the detector is opened, which may take a while
    if settings.threshold is None:
        settings = replace(settings, threshold=default_threshold(index, detector).value)
    return BuildSpec(index, detector, Path(out), settings)


def default_threshold(index: DatasetIndex, detector: str | Detector) -> Threshold:
    """Return where maps are cut unless a user says: where the detector says; DeepUSPS's on COCO where CAST does.

    Of another detector CAST's threshold says nothing: on 128 images of COCO rbd's masks have an IoU of .346 with all
    objects at its own, .288 at CAST's.

    Args: as `build_store`.
    """
    opened = use_detector(detector)
    if index.dataset == "coco" and opened.identity["name"] == "deepusps":
        return Threshold(value=0.5, source="CAST's release, for DeepUSPS on coco")
    return opened.threshold


def threshold_source(index: DatasetIndex, detector: str | Detector, settings: BuildSettings) -> str:
    """Say where the threshold of a build comes from, as the store's log does. Args: as `build_store`."""
    return "given" if settings.threshold is not None else default_threshold(index, detector).source


def build_store(
    index: DatasetIndex,
    detector_name: str | Detector,
    out: Path | str,
    settings: BuildSettings = BuildSettings(),
    *,
    num_workers: int | None = None,
    engine: str = "local",
) -> dict:
    """Build a store, or go on with one that was begun with the same data set, detector and settings.

    The bytes of the store are the same for any number of workers, any engine and any interruption.

    Args:
        index: the data set; row i of the store is row i of the index.
        detector_name: as `saliency.detectors.open_detector` takes it; or a picklable detector itself.
        out: the store's folder; `<out>.build.jsonl` beside it logs the builds.
        settings: what else decides the content.
        num_workers: processes; None = as many as the engine finds fit.
        engine: how parts are run, one of `stores.engines.NAMES`.

    Returns:
        As `run_parts`; threshold and threshold_source.

    Raises:
        UserError: settings out of range, no such detector or engine, a place taken by something else or by a store of
            another identity, a full disk, an image changed since it was indexed; nearly all rows would have no mask.
    """
    spec = specify(index, detector_name, Path(out), settings)
    if not (spec.out / schema.MANIFEST).exists():
        refuse_hopeless(index, use_detector(detector_name))
    threshold = {
        "threshold": spec.settings.threshold,
        "threshold_source": threshold_source(index, detector_name, settings),
    }
    summary = run_parts(
        run_part,
        spec,
        NewStore(out=spec.out, identity=store_identity(spec), num_rows=len(index), part_rows=part_rows_for(len(index))),
        Workers(engine=engine, num_workers=num_workers, uses_gpu=use_detector(spec.detector).uses_gpu),
        **threshold,
    )
    return {**summary, **threshold}


def store_identity(spec: BuildSpec) -> dict:
    """Everything that decides the content of a store; no path, no time, no number of workers."""
    return identity_of(spec.index, use_detector(spec.detector).identity, spec.settings)


def identity_of(index: DatasetIndex, detector_identity: dict, settings: BuildSettings) -> dict:
    """The identity of a store of `index` with these settings, whoever found its soft maps.

    Args:
        index: the data set.
        detector_identity: of the detector that found, or once found, the soft maps.
        settings: what else decides the content; checked, with a threshold.
    """
    assert settings.threshold is not None
    mask = {"threshold": float(settings.threshold), "comparator": ">"}
    return {
        "dataset": index.dataset,
        "split": index.split,
        "index_sha256": index.digest,
        "detector": detector_identity,
        "mask": {**mask, "cut_from": "8-bit soft map"} if settings.keeps_soft_maps else mask,
        "background": {
            **parameters(settings.fill),
            "max_side_px": settings.background_max_side_px,
            "jpeg_quality": settings.background_quality,
            "jpeg_subsampling": "4:2:0",
        },
        "soft_maps": "uint8" if settings.keeps_soft_maps else None,
        "image_decoding": {"orientation": "exif applied", "colour": "rgb"},
        "builder_version": ALGORITHM_VERSION,
        "schema_version": schema.FIELDS_VERSION,
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
    detector = use_detector(spec.detector)
    detector.hold()
    numbers = rows_of_part(read_attributes(spec.out), part)
    rows: list[StoreRow] = []
    # Batches begin with the part, so that their members, and with them the last bits of a map, never depend on workers.
    size = detector.batch_size
    for start in range(0, len(numbers), size):
        batch = build_rows(spec, detector, numbers[start : start + size])
        rows.extend(batch)
        rows_done(len(batch))
    return write_part(spec.out, part, rows)


@functools.lru_cache(maxsize=1)
def _opened(name: str) -> Detector:
    """A worker opens its detector once."""
    return open_detector(name)


def settings_of(identity: dict) -> BuildSettings:
    """The settings a store was built with, from its identity.

    Raises:
        UserError: the identity is none of `build-store`.
    """
    try:
        return BuildSettings(
            threshold=float(identity["mask"]["threshold"]),
            fill=identity["background"]["fill"],
            keeps_soft_maps=identity["soft_maps"] is not None,
            background_max_side_px=int(identity["background"]["max_side_px"]),
            background_quality=int(identity["background"]["jpeg_quality"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the store's identity has no settings of build-store ({error!r}): it was made otherwise, or by a version "
            "too old. Build it anew with build-store."
        ) from error


def use_detector(detector: str | Detector) -> Detector:
    """A detector by its name, opened once in this process; or the one given."""
    return _opened(detector) if isinstance(detector, str) else detector


def build_rows(spec: BuildSpec, detector: Detector, numbers: Sequence[int]) -> list[StoreRow]:
    """Images to rows; what cannot be read or has no mask becomes a status with its reason.

    Args:
        spec: the build.
        detector: that of the build, opened.
        numbers: of the rows, one batch of the detector.

    Raises:
        UserError: an image changed since it was indexed.
    """
    read = [read_row(spec.index, row) for row in numbers]
    decoded = [(base.key, image_HWC) for base, image_HWC in read if image_HWC is not None]
    maps = iter(detector.maps([image_HWC for _, image_HWC in decoded], [key for key, _ in decoded]))
    return [
        base if image_HWC is None else _found_row(base, image_HWC, next(maps), spec.settings)
        for base, image_HWC in read
    ]


def read_row(index: DatasetIndex, row: int) -> tuple[StoreRow, np.ndarray | None]:
    """What the file of a row says, and its pixels (H, W, 3) uint8; without pixels the status is decode-error.

    Raises:
        UserError: the file changed since it was indexed, or is gone.
    """
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
    return with_content(base, image_HWC, found, settings)


def with_content(base: StoreRow, image_HWC: np.ndarray, saliency_HW: np.ndarray, settings: BuildSettings) -> StoreRow:
    """Add what the pixels decide: status, mask, background and, where they are kept, the soft map.

    Where soft maps are kept the mask is cut from the 8-bit map, so that whoever cuts it again at another threshold
    gets, bit for bit, what a build with that threshold gives. Otherwise it is cut from the map itself. The two differ
    where the saliency lies within 1/510 of the threshold; at the papers' 0.9, which is 229.5 of 255, only at a tie.

    Args:
        base: key, label, size and source of the row.
        image_HWC: uint8 RGB.
        saliency_HW: float in [0, 1].
        settings: of the store.
    """
    assert settings.threshold is not None
    soft_HW = quantise(saliency_HW) if settings.keeps_soft_maps else None
    mask_HW, status = binarise(saliency_HW if soft_HW is None else dequantise(soft_HW), settings.threshold)
    background_jpeg = encode_background(
        image_HWC, mask_HW, settings.fill, settings.background_max_side_px, settings.background_quality
    )
    return replace(
        base, status=status, mask_packed=pack_rows(mask_HW), saliency_HW=soft_HW, background_jpeg=background_jpeg
    )
