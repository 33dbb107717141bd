"""What a build will take, before it is begun: parts, bytes, time; from a few rows run through the code of the build."""

import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backdrop.errors import UserError
from backdrop.pipeline.build.first_look import refuse_hopeless, sampled_rows
from backdrop.pipeline.build.foreground_size import foreground_size
from backdrop.pipeline.build.masks_and_backgrounds import (
    BuildSettings,
    BuildSpec,
    build_rows,
    specify,
    store_identity,
    use_detector,
)
from backdrop.saliency.detector import Detector
from backdrop.stores.engines.local import run
from backdrop.stores.format import schema
from backdrop.stores.format.packed_arrays import pack
from backdrop.stores.format.writer import (
    EncodedRow,
    StoreRow,
    encode_row,
    missing_parts,
    open_for_build,
    part_files,
    part_rows_for,
    read_attributes,
    rows_of_part,
)
from backdrop.stores.indexes.dataset_index import DatasetIndex

NUM_SAMPLED = 32
NUM_PROCESSES = (1, 2, 4, 8)
ALLOCATION_BYTES = 24  # an entry of a .beton's table, per blob


@dataclass(frozen=True)
class SampleSpec:
    """What the measuring worker needs."""

    build: BuildSpec
    rows: tuple[int, ...]


def plan_store(
    index: DatasetIndex,
    detector_name: str | Detector,
    out: Path,
    settings: BuildSettings,
    *,
    num_sampled: int = NUM_SAMPLED,
    num_workers: int = 1,
) -> dict:
    """Estimate a build from evenly spaced rows, computed as a worker of the build would and not written.

    Not in the times: writing and flushing parts, and what processes that share a disk or a memory bus cost each other.

    Args:
        index: the data set.
        detector_name: as for `build_store`.
        out: where the store would go; where it has been begun, times are for what is left of it.
        settings: as for `build_store`.
        num_sampled: rows to measure.
        num_workers: 1 = in a process of its own, as a build does; 0 = in this one.

    Returns:
        num_rows, num_parts, part_rows, rows_left, parts_left; rows_sampled, with their status and foreground (of
        `foreground_size`); store_bytes, beton_bytes and
        bytes_error_fraction (two standard errors of the mean row); seconds_per_row and seconds_error_fraction;
        seconds (estimate by number of processes, one device each where the detector runs on one), memory_bytes of
        each process, spec_bytes sent to each.

    Raises:
        UserError: as `build_store`.
    """
    if num_sampled < 1:
        raise UserError(f"{num_sampled} rows to measure; give 1 or more")
    build = specify(index, detector_name, out, settings)
    part_rows = part_rows_for(len(index))
    rows_left, parts_left = _left(build, part_rows)
    refuse_hopeless(index, use_detector(detector_name))
    sampled = sampled_rows(len(index), num_sampled)
    run_part: Callable[..., dict] = measure
    measured = run(run_part, SampleSpec(build, sampled), [0], num_workers=num_workers, progress=lambda rows: None)[0]
    num_parts = -(-len(index) // part_rows)
    row_bytes, row_seconds = np.array(measured["row_bytes"]), np.array(measured["row_seconds"])
    seconds_per_row = float(row_seconds.mean())
    return {
        "num_rows": len(index),
        "num_parts": num_parts,
        "part_rows": part_rows,
        "rows_left": rows_left,
        "parts_left": parts_left,
        "rows_sampled": len(sampled),
        "status": measured["status"],
        "foreground": measured["foreground"],
        "store_bytes": int(num_parts * measured["part_bytes"] + len(index) * row_bytes.mean()),
        "beton_bytes": measured["beton_bytes"],
        "bytes_error_fraction": _error_fraction(row_bytes),
        "seconds_per_row": seconds_per_row,
        "seconds_error_fraction": _error_fraction(row_seconds),
        "seconds": {
            str(processes): round(
                measured["start_seconds"]
                + min(rows_left, -(-parts_left // processes) * part_rows) * seconds_per_row, 1
            )
            for processes in NUM_PROCESSES
        },
        # A part is held twice before it is written: its rows, and its files.
        "memory_bytes": measured["memory_bytes"] + int(2 * part_rows * row_bytes.mean()),
        "spec_bytes": len(pickle.dumps(build)),
    }  # fmt: skip


def measure(spec: SampleSpec, part: int, rows_done: Callable[[int], None] = lambda num_rows: None) -> dict:
    """Compute the sampled rows; an engine runs it in place of a part.

    Args:
        spec: the build, and which rows.
        part: not used.
        rows_done: called with the number of rows done since the last call.

    Returns:
        Plain numbers; bytes and seconds are one per row.
    """
    start = time.monotonic()
    detector = use_detector(spec.build.detector)
    size = detector.batch_size
    for row in build_rows(spec.build, detector, spec.rows[:size]):  # compiles kernels, fills caches
        encode_row(row)
    start_seconds = time.monotonic() - start
    rows: list[StoreRow] = []
    encoded: list[EncodedRow] = []
    seconds: list[float] = []
    for first in range(0, len(spec.rows), size):
        start = time.monotonic()
        batch = build_rows(spec.build, detector, spec.rows[first : first + size])
        encoded += map(encode_row, batch)
        seconds += [(time.monotonic() - start) / len(batch)] * len(batch)
        rows += batch
        rows_done(len(batch))
    memory_bytes = _peak_memory_bytes()
    row_bytes = [_row_bytes(row) for row in encoded]
    return {
        "start_seconds": start_seconds,
        "row_seconds": seconds,
        "row_bytes": row_bytes,
        "part_bytes": len(pack(part_files(encoded))[0]) - sum(row_bytes),
        "beton_bytes": _beton_bytes(spec.build.index, rows),
        "status": {status.label: sum(row.status == status for row in rows) for status in schema.Status},
        "foreground": foreground_size(
            np.array([row.columns["foreground_fraction"] for row in encoded], np.float32),
            np.array([row.status for row in rows], np.uint8),
        ),
        "memory_bytes": memory_bytes,
    }


def _left(build: BuildSpec, part_rows: int) -> tuple[int, int]:
    """Rows and parts that are not built yet."""
    if not (build.out / schema.ROOT_METADATA).exists():
        store_identity(build)  # refuses what a build would refuse
        return len(build.index), -(-len(build.index) // part_rows)
    open_for_build(build.out, store_identity(build), len(build.index), part_rows)  # there already: only compares
    missing, attributes = missing_parts(build.out), read_attributes(build.out)
    return sum(len(rows_of_part(attributes, part)) for part in missing), len(missing)


def _row_bytes(row: EncodedRow) -> int:
    columns = sum(np.dtype(column.dtype).itemsize * int(np.prod(column.row_shape)) for column in schema.COLUMNS)
    places = len(schema.BLOBS) * (8 + 4)  # an offset and a checksum each
    return columns + places + sum(map(len, row.blobs.values()))


def _beton_bytes(index: DatasetIndex, rows: list[StoreRow]) -> int:
    """Size of the whole .beton of the usual settings: pages of records, pages of blobs, the table of allocations."""
    # Here, after the memory was measured: these bring torch, which the workers of a build need not have.
    from backdrop.pipeline.beton.reader import BetonSettings, page_bytes
    from backdrop.pipeline.beton.scene import (
        ALIGNMENT_BYTES,
        BLOBS,
        SCENE_DTYPE,
        background_blob,
        encode_runs,
        resize_mask,
        training_jpeg,
    )

    settings, num_bytes = BetonSettings(), []
    for row in rows:
        blobs = [len(row.key.encode("utf-8", "surrogateescape"))]
        if row.mask_packed is not None:
            size = (row.height, row.width)
            jpeg, new_size = training_jpeg(index.read(row.row), size, settings.max_side_px, settings.jpeg_quality)
            runs = encode_runs(resize_mask(row.mask_packed, size, new_size), new_size[1])
            background, _ = background_blob(row.background_jpeg, settings.background_side_px)
            blobs += [len(jpeg or b""), runs.nbytes, len(background)]
        num_bytes.append(sum(-(-blob // ALIGNMENT_BYTES) * ALIGNMENT_BYTES for blob in blobs))
    page = page_bytes(settings)
    pages = math.ceil(SCENE_DTYPE.itemsize * len(index) / page) + math.ceil(np.mean(num_bytes) * len(index) / page)
    return pages * page + len(BLOBS) * ALLOCATION_BYTES * len(index)


def _error_fraction(values: np.ndarray) -> float:
    """Two standard errors of the mean, over the mean."""
    return round(2 * float(values.std()) / float(values.mean()) / len(values) ** 0.5, 3)


def _peak_memory_bytes() -> int:
    """Of this process; not `ru_maxrss`, in which a child begins with what its parent had."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
