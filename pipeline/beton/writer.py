"""A store and its images as a .beton, which the loader reads at full speed.

Sample i of it is row i of the store. Few rows are one file; many are shards (`shards`), written side by side by any
engine of a build, each of which is kept once it is whole. A file gets its name only after it was read back, and its
sidecar (`<name>.beton.json`: sha256, store, settings) after that: what has none is half written. What a worker holds in
memory is of its shard alone.
"""

import copy
import hashlib
import json
import math
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from backdrop.devices import num_cores
from backdrop.disk_errors import disk_errors
from backdrop.durable_files import PARTIAL, sync, write_aside, written_aside
from backdrop.errors import CorruptStore, UserError
from backdrop.pipeline.beton import shards
from backdrop.pipeline.beton.file_writer import write_file
from backdrop.pipeline.beton.hashed_images import HashedImages
from backdrop.pipeline.beton.layout import FORMAT, FORMAT_VERSION, PLANES_VERSION, SHARDS_VERSION
from backdrop.pipeline.beton.reader import (
    SHARD_TYPES,
    BetonSettings,
    default_settings,
    is_of,
    is_written,
    of_others,
    page_bytes,
    parsed_sidecar,
    read_blob,
    sidecar_path,
)
from backdrop.pipeline.beton.scene import (
    BLOBS,
    SCENE_DTYPE,
    STORE_ARRAYS,
    Scene,
    scene_blobs,
    scene_of_row,
)
from backdrop.pipeline.beton.table_reader import (
    MAX_SIDE_PX,
    TABLE_START,
    map_file,
    open_records,
    records_checksum,
    table_checksum,
)
from backdrop.progress import note, stage_bar
from backdrop.settings import check_settings
from backdrop.stores.engines import ENGINES
from backdrop.stores.format.provenance import identity_digest
from backdrop.stores.format.reader import Store
from backdrop.stores.format.schema import Status
from backdrop.stores.indexes.dataset_index import DatasetIndex

CHECKED_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class ExportWork:
    """How a .beton is written; nothing of it changes a byte.

    engine, num_workers: what writes shards, as of a build (`stores.engines`). hashed_since: see `HashedImages`.
    overwrite: replace a .beton of another store or other settings that lies there.
    """

    engine: str = "local"
    num_workers: int | None = None
    hashed_since: float | None = None
    overwrite: bool = False


def export_beton(
    store: Store,
    index: DatasetIndex,
    out: Path | None = None,
    *,
    max_side_px: int | None = None,
    settings: BetonSettings | None = None,
    work: ExportWork | None = None,
) -> Path:
    """Write a store and its images to a .beton; one of the same store and settings is kept, shards of it too.

    Args: store: a finished store. index: the images it was built from. out: the .beton; None = beside the store.
        settings: None = `default_settings`, with max_side_px where it is given. work: None = by all cores of this
        machine.
    Returns: out; where other processes still write shards (engine `rank`), it is not complete yet.
    Raises: UserError where the index or an image is not what the store was built from, a setting is out of range, or
        out is something else. PartsFailed: see `stores.engines`.
    """
    settings, work = settings or default_settings(store.dataset, max_side_px=max_side_px), work or ExportWork()
    check_settings(settings)
    out = store.path.with_suffix(".beton") if out is None else Path(out)
    if store.identity.get("index_sha256") != index.digest:
        raise UserError(
            f"the images in {index.root} ({len(index)}) are not those the store {store.path} was built from "
            f"({store.num_rows} rows): names, sizes or classes differ; give the folder of that data set"
        )
    if _is_kept(out, store, settings, work.overwrite):
        return out
    store.prefetch(*STORE_ARRAYS)
    if settings.pixels == "yuv420":
        note(f"{out.name} will have about {planes_bytes(store, settings) / 1e9:,.2f} GB: planes, not JPEGs")
    images = HashedImages(store=store, root=index.root, archive=index.archive, hashed_since=work.hashed_since)
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        if store.num_rows <= settings.shard_rows:
            make_room(out)
            with stage_bar(total=store.num_rows, unit="row", stage=f"export {out.name}") as bar:
                _write_one(out, images, range(store.num_rows), settings, num_cores(), bar.update)
        else:
            _write_shards(out, images, settings, work)
    return out


def _is_kept(out: Path, store: Store, settings: BetonSettings, overwrite: bool) -> bool:
    """Whether all is there already. Raises: UserError: something else is, and it may not be written over."""
    try:
        if is_written(out, store, settings):
            return True
        for sidecar in _finished_shards(out):
            if not _is_same_set(sidecar, store, settings):
                raise of_others(out, sidecar)
    except UserError:
        if not overwrite:
            raise
        make_room(out)
    return False


def make_room(out: Path) -> None:
    """Remove what lies at out: half written or damaged, or to be written over."""
    with disk_errors(out):
        if not out.is_dir():
            sidecar_path(out).unlink(missing_ok=True)
            out.unlink(missing_ok=True)
            return
        ours = [file for file in out.iterdir() if shards.is_ours(file.name)]
        # What says that the others are whole goes first.
        for file in sorted(ours, key=lambda file: not file.name.endswith(".json")):
            file.unlink()
        if any(out.iterdir()):
            raise UserError(f"{out} is a folder with other files in it; give another --out")
        out.rmdir()


def planes_bytes(store: Store, settings: BetonSettings) -> int:
    """Return about how many bytes images and backgrounds of a store take as planes; backgrounds: at most."""
    opened, total = copy.copy(store), 0.0  # it keeps what it reads, and goes
    for number in range(opened.num_parts):
        part = opened.part(number)
        has_mask = np.isin(part.column("status"), [status for status in Status if status.has_mask])
        height, width = (part.column(side)[has_mask].astype(np.float64) for side in ("height", "width"))
        longest = np.maximum(np.maximum(height, width), 1)
        for side_px in (settings.max_side_px, _background_side_px(store, settings)):
            total += (1.5 * height * width * np.minimum(1, side_px / longest) ** 2).sum()
    return int(total)


def _background_side_px(store: Store, settings: BetonSettings) -> int:
    side_px = int(store.identity.get("background", {}).get("max_side_px", MAX_SIDE_PX))
    return min(side_px, settings.background_side_px or side_px)


# --- one file -------------------------------------------------------------------------------------------------------


def _write_one(
    out: Path,
    images: HashedImages,
    rows: range,
    settings: BetonSettings,
    num_threads: int,
    progress: Callable[[int], object],
    **said: object,
) -> dict[str, Any]:
    """Write the file of some rows, and its sidecar.

    Args: said: what else the sidecar says. Returns: what it says.
    """
    # An engine may have two workers at one shard.
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}{PARTIAL}" if said else out.name + PARTIAL)
    try:
        scenes = _ahead(lambda row: scene_of_row(images, row, **settings.of_scenes), rows, num_threads)
        page = page_bytes(settings, _background_side_px(images.store, settings))
        write_file(partial, scenes, num_rows=len(rows), page_bytes=page, progress=progress)
        _check_written(partial, images, rows, settings)
        digest, num_bytes = _sync_and_hash(partial)
        table = table_checksum(map_file(partial), len(rows))
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    version = SHARDS_VERSION if said else PLANES_VERSION if settings.has_planes else FORMAT_VERSION
    facts = {"sha256": digest, "num_bytes": num_bytes, "num_rows": len(rows), "table_checksum": table, **said}
    return _write_sidecar(out, images.store, settings, version, facts)


def _ahead(make: Callable[[int], Scene], rows: range, num_threads: int) -> Iterator[Scene]:
    """Make the scenes of rows, in order, some of them ahead by threads."""
    pool = ThreadPoolExecutor(num_threads)
    try:
        waiting: deque[Future[Scene]] = deque()
        for row in rows:
            waiting.append(pool.submit(make, row))
            if len(waiting) == 2 * num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _check_written(path: Path, images: HashedImages, rows: range, settings: BetonSettings) -> None:
    """Read the file back: every record in its place, every blob inside the file, some rows equal to their source."""
    records, blobs = open_records(path, first_row=rows.start), map_file(path)
    for name in BLOBS:
        ends = records[f"{name}_ptr"].astype(np.int64) + records[f"{name}_bytes"]
        assert (ends <= blobs.size).all(), f"every {name} lies inside the file"
    for at in np.random.default_rng(0).permutation(len(rows))[:CHECKED_ROWS].tolist():
        scene = scene_of_row(images, rows[at], **settings.of_scenes)
        assert records[at]["status"] == scene.status, "statuses are those of the store"
        for name, data in scene_blobs(scene).items():
            assert read_blob(blobs, records[at], name) == data, f"row {rows[at]}: {name} was written as it is"


def _sync_and_hash(path: Path) -> tuple[str, int]:
    sync(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, file.tell()


def _masks_of(store: Store) -> dict[str, Any]:
    """Whose masks these are and where they were cut, for those who have the .beton alone; {} of a store without."""
    if "mask" not in store.identity:
        return {}
    # An identity has its fractions as text.
    return {"detector": store.identity["detector"]["name"], "threshold": float(store.identity["mask"]["threshold"])}


def _write_sidecar(
    out: Path, store: Store, settings: BetonSettings, version: int, facts: dict[str, Any]
) -> dict[str, Any]:
    """Write the sidecar of a file, a shard or a folder. Args: facts: of its content. Returns: all that it says."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "format_version": version,
        **facts,
        "store_id": store.store_id,
        "dataset": store.dataset,
        "split": store.split,
        "settings": asdict(settings),
        "masks": _masks_of(store),
    }
    # Last and of all the others: a sidecar that was changed is noticed.
    content["digest"] = identity_digest(content)
    write_aside(sidecar_path(out), json.dumps(content, indent=2) + "\n")
    return content


# --- many shards ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Shards:
    """What a worker has to know of the shards of a folder; some hundred bytes, whatever the rows.

    num_threads: that prepare rows, in each worker.
    """

    folder: Path
    images: HashedImages
    settings: BetonSettings
    num_threads: int

    @property
    def count(self) -> int:
        return math.ceil(self.images.store.num_rows / self.settings.shard_rows)

    def rows(self, number: int) -> range:
        return shards.rows_of_shard(number, self.images.store.num_rows, self.settings.shard_rows)

    def file(self, number: int) -> Path:
        return self.folder / shards.shard_name(self.folder.stem, number, self.count)


def _write_shards(out: Path, images: HashedImages, settings: BetonSettings, work: ExportWork) -> None:
    """Have the shards written that are not there, and put what is said of all beside them."""
    if not out.is_dir():
        make_room(out)
    out.mkdir(exist_ok=True)
    sidecar_path(out).unlink(missing_ok=True)
    count = math.ceil(images.store.num_rows / settings.shard_rows)
    done = {sidecar["shard"] for sidecar in _finished_shards(out)}
    missing = [number for number in range(count) if number not in done]
    workers = min(work.num_workers or num_cores(), len(missing)) or 1
    threads = max(1, num_cores() // workers) if work.engine == "local" else 1
    spec = _Shards(folder=out, images=images, settings=settings, num_threads=threads)
    num_rows, rows_left = images.store.num_rows, sum(len(spec.rows(number)) for number in missing)
    run = ENGINES.load(work.engine).run
    with stage_bar(total=num_rows, initial=num_rows - rows_left, unit="row", stage=f"export {out.name}") as bar:
        run(write_shard, spec, missing, num_workers=work.num_workers, progress=bar.update)
    if len(found := _finished_shards(out)) == count:
        for partial in out.glob(f"*.beton.*{PARTIAL[1:]}"):  # of workers that were killed, or too slow
            partial.unlink(missing_ok=True)
        _write_sidecar(out, images.store, settings, SHARDS_VERSION, _write_records(out, found))
    else:
        note(f"this process's share of {out.name} is done; the last one to end finishes it")


def write_shard(spec: _Shards, number: int, rows_done: Callable[[int], None]) -> dict:
    """Write a shard and its sidecar: what an engine calls in a worker.

    Args: number: of the shard. rows_done: called with rows that are written. Returns: the receipt.
    """
    store = copy.copy(spec.images.store)  # opened anew: one keeps what it has read of other shards
    rows, out = spec.rows(number), spec.file(number)
    said = {"shard": number, "num_shards": spec.count, "first_row": rows.start}
    with disk_errors(out):
        if (sidecar := _finished_shard(out)) is not None:  # by a faster worker
            return {"num_rows": len(rows), "sha256": sidecar["sha256"]}
        sidecar_path(out).unlink(missing_ok=True)
        images = replace(spec.images, store=store)
        sidecar = _write_one(out, images, rows, spec.settings, spec.num_threads, rows_done, **said)
    return {"num_rows": len(rows), "sha256": sidecar["sha256"]}


def _finished_shards(folder: Path) -> list[dict[str, Any]]:
    """The sidecars of the shards of a folder that are whole, each with its file's "name", in order."""
    named = [path.with_suffix("") for path in sorted(folder.glob("*.beton.json"))] if folder.is_dir() else []
    found = {shard: _finished_shard(shard) for shard in named if shards.SHARD_NAME.fullmatch(shard.name)}
    return [{**sidecar, "name": shard.name} for shard, sidecar in found.items() if sidecar is not None]


def _finished_shard(shard: Path) -> dict[str, Any] | None:
    """What is said of a shard that is whole; None of any other."""
    if not shard.is_file() or not sidecar_path(shard).is_file():
        return None
    sidecar = parsed_sidecar(shard)
    return sidecar if shard.stat().st_size == sidecar["num_bytes"] else None


def _is_same_set(sidecar: dict[str, Any], store: Store, settings: BetonSettings) -> bool:
    """Whether a shard is of these, and dealt out as they will be."""
    return is_of(sidecar, store, settings) and sidecar["settings"].get("shard_rows") == settings.shard_rows


def _write_records(folder: Path, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the records of all shards as one table, a shard at a time. Returns: what the folder's sidecar says."""
    starts = shards.places([shard["num_bytes"] for shard in found])
    path = folder / shards.RECORDS
    with written_aside(path) as aside:
        with aside.open("wb") as file:
            for shard, start in zip(found, starts, strict=False):
                file.write(_moved_records(folder / shard["name"], shard, start).tobytes())
        table = records_checksum(map_file(aside).view(SCENE_DTYPE))
        digest, _ = _sync_and_hash(aside)
    listed = [{name: shard[name] for name in (*SHARD_TYPES, "table_checksum")} for shard in found]
    return {
        "sha256": identity_digest({"shards": listed}),
        "num_bytes": sum(shard["num_bytes"] for shard in found),
        "num_rows": sum(shard["num_rows"] for shard in found),
        "table_checksum": table,
        "shards": listed,
        "records_sha256": digest,
    }


def _moved_records(file: Path, shard: dict[str, Any], start: int) -> np.ndarray:
    """The records of a shard, checked, with their pointers counted from the first of all shards on."""
    if table_checksum(map_file(file), shard["num_rows"]) != shard["table_checksum"]:
        raise CorruptStore(f"{file} is damaged: remove it, and export again, which writes it alone")
    records = np.fromfile(file, SCENE_DTYPE, count=shard["num_rows"], offset=TABLE_START)
    for name in BLOBS:
        records[f"{name}_ptr"][records[f"{name}_bytes"] > 0] += np.uint64(start)
    return records
