"""A store and its images as one .beton file, which FFCV reads at full speed.

Sample i of the file is row i of the store. FFCV's writer runs in a process of its own that is watched, because it waits
for ever when a worker of it dies; the file gets its name only after it was read back, and its sidecar
(`<name>.beton.json`: sha256, store, settings) last. A .beton without a sidecar is half written.
"""

import errno
import functools
import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from multiprocessing import shared_memory
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from tqdm import tqdm

from backdrop.child_processes import check_shared_memory, end_with_parent, tell
from backdrop.devices import num_cores
from backdrop.disk_errors import check_open_files, disk_errors
from backdrop.durable_files import PARTIAL, sync, write_aside
from backdrop.errors import UserError
from backdrop.pipeline.beton.ffcv_field import SceneField
from backdrop.pipeline.beton.ffcv_names import DatasetWriter, MemoryAllocator
from backdrop.pipeline.beton.layout import FORMAT, FORMAT_VERSION, PLANES_VERSION
from backdrop.pipeline.beton.reader import BetonSettings, is_written, page_bytes, read_blob, side_px_of, sidecar_path
from backdrop.pipeline.beton.scene import (
    BLOBS,
    FIELD_NAME,
    SCENE_DTYPE,
    STORE_ARRAYS,
    Scene,
    scene_blobs,
    scene_of_row,
)
from backdrop.pipeline.beton.table_reader import (
    MAX_SIDE_PX,
    map_file,
    open_records,
    table_checksum,
)
from backdrop.progress import note, stage_bar
from backdrop.settings import check_settings
from backdrop.stores.format.provenance import identity_digest
from backdrop.stores.format.reader import Store
from backdrop.stores.format.schema import Status
from backdrop.stores.indexes.dataset_index import DatasetIndex

CHUNK_ROWS = 64
CHECKED_ROWS = 16
POLL_S = 0.2
# What starting the writing process takes: where fewer can be opened, the server it is forked of ends in a traceback.
OPEN_FILES = 24


def export_beton(
    store: Store,
    index: DatasetIndex,
    out: Path | None = None,
    *,
    max_side_px: int | None = None,
    settings: BetonSettings | None = None,
    num_threads: int = 0,
    timeout_s: float = 300.0,
) -> Path:
    """Write a store and its images to a .beton file; an existing one of the same store and settings is kept.

    The bytes are the same for any number of threads: FFCV's writer gets one worker, whose rows are prepared ahead.

    Args: store: a finished store. index: the images it was built from. out: the .beton file; None = beside the store.
        max_side_px: longest side of an image; None = that of the data set, `side_px_of`. settings: instead of that.
        num_threads: rows prepared at once, 0 = one per core.
        timeout_s: longest wait for a single row before the writer counts as hung.
    Returns: out.
    Raises: UserError where the index or an image is not what the store was built from, or a setting is out of range.
    """
    if settings is None:
        side_px = side_px_of(store.dataset) if max_side_px is None else max_side_px
        settings = BetonSettings(max_side_px=side_px)
    check_settings(settings)
    out = store.path.with_suffix(".beton") if out is None else Path(out)
    if store.identity.get("index_sha256") != index.digest:
        raise UserError(
            f"the images in {index.root} ({len(index)}) are not those the store {store.path} was built from "
            f"({store.num_rows} rows): names, sizes or classes differ; give the folder of that data set"
        )
    if is_written(out, store, settings):
        return out
    store.prefetch(*STORE_ARRAYS)
    if settings.pixels == "yuv420":
        note(f"{out.name} will have about {planes_bytes(store, settings.max_side_px) / 1e9:,.2f} GB: planes, not JPEGs")
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        sidecar_path(out).unlink(missing_ok=True)
        partial = out.with_name(out.name + PARTIAL)
        partial.unlink(missing_ok=True)
        out.unlink(
            missing_ok=True
        )  # half written or damaged, and in the way of the new one on a disk that is nearly full
        try:
            _write_watched(store, index, partial, settings, num_threads or num_cores(), timeout_s)
            _check_written(partial, store, index, settings)
            digest, num_bytes = _sync_and_hash(partial)
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
        _write_sidecar(out, store, settings, digest, num_bytes)
    return out


def planes_bytes(store: Store, max_side_px: int) -> int:
    """Return about how many bytes images and backgrounds of a store take as planes; backgrounds: at most."""
    has_mask = np.isin(store.status, [status for status in Status if status.has_mask])
    height, width = (np.asarray(side)[has_mask].astype(np.float64) for side in (store.height, store.width))
    longest = np.maximum(np.maximum(height, width), 1)
    shrinks = (np.minimum(1, side_px / longest) for side_px in (max_side_px, _background_side_px(store)))
    return int(sum((1.5 * height * width * shrink**2).sum() for shrink in shrinks))


def _background_side_px(store: Store) -> int:
    return int(store.identity.get("background", {}).get("max_side_px", MAX_SIDE_PX))


# --- the writing process -------------------------------------------------------------------------------------------


class _Scenes:
    """The rows as FFCV's writer asks for them, each prepared ahead by a few threads."""

    def __init__(self, store: Store, index: DatasetIndex, settings: BetonSettings, threads: int, reply: Connection):
        self._store, self._index, self._settings = store, index, settings
        self._threads, self._reply = threads, reply
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: deque[tuple[int, Future[Scene]]] = deque()
        self._next = 0

    def __len__(self) -> int:
        return self._store.num_rows

    def __getitem__(self, row: int) -> tuple[Scene]:
        row = int(row)
        if self._pool is None:  # here, not in __init__: threads do not survive the writer's fork
            end_with_parent()  # FFCV's worker; its rows are the first thing of ours that it runs
            self._pool = ThreadPoolExecutor(self._threads)
        while self._next < len(self) and len(self._ahead) < 2 * self._threads:
            self._ahead.append((self._next, self._pool.submit(self._scene, self._next)))
            self._next += 1
        expected, future = self._ahead.popleft()
        assert expected == row, "FFCV's writer asks for the rows in order"
        try:
            scene = future.result()
        except Exception as error:  # FFCV would wait for ever; the parent raises this again
            tell(
                self._reply,
                ("failed", error if isinstance(error, UserError) else RuntimeError(f"row {row}: {error!r}")),
            )
            raise
        tell(self._reply, ("row", row))
        return (scene,)

    def _scene(self, row: int) -> Scene:
        return scene_of_row(self._store, self._index, row, **asdict(self._settings))


class _Writer(DatasetWriter):
    """FFCV's writer, which also tells the name of its shared memory: it leaks where the writer is killed."""

    reply: Connection

    def prepare(self) -> None:
        super().prepare()
        tell(self.reply, ("memory", self.metadata_sm.name))


class _Pages(MemoryAllocator):
    """FFCV's pages, which also tell of a page that the disk did not take: FFCV goes on after half a page."""

    def __init__(self, reply: Connection, fname: str, offset_start: int, page_size: int) -> None:
        super().__init__(fname, offset_start, page_size)
        self._reply = reply

    def flush_page(self) -> None:
        try:
            super().flush_page()
            if self.my_page >= 0 and self.fp.tell() != self.offset + (self.my_page + 1) * self.page_size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            tell(self._reply, ("failed", error))
            raise


def _write(store: Store, index: DatasetIndex, path: Path, settings: BetonSettings, threads: int, reply: Connection):
    """Body of the writing process."""
    os.setsid()  # so that the parent can end it together with FFCV's worker
    end_with_parent(with_group=True)
    try:
        _write_all(store, index, path, settings, threads, reply)
    except OSError as error:  # the parent raises it again
        tell(reply, ("failed", error))


def _write_all(store: Store, index: DatasetIndex, path: Path, settings: BetonSettings, threads: int, reply: Connection):
    import ffcv.writer

    # FFCV's worker would otherwise be started as this process was, and import everything once more.
    multiprocessing.set_start_method("fork", force=True)
    ffcv.writer.tqdm = _no_bar  # the parent shows progress, in rows
    ffcv.writer.MemoryAllocator = functools.partial(_Pages, reply)
    threading.Thread(target=_watch_worker, args=(reply,), daemon=True).start()
    writer = _Writer(
        str(path), {FIELD_NAME: SceneField()}, page_size=page_bytes(settings, _background_side_px(store)), num_workers=1
    )
    writer.reply = reply
    writer.from_indexed_dataset(_Scenes(store, index, settings, threads, reply), chunksize=CHUNK_ROWS)
    tell(reply, ("done", None))


def _no_bar(*args: Any, **kwargs: Any) -> tqdm:
    return tqdm(*args, **{**kwargs, "disable": True})


def _watch_worker(reply: Connection) -> None:
    """Tell the parent when FFCV's worker died without a word (killed, out of memory)."""
    seen: set[Any] = set()  # a finished process leaves multiprocessing's own list, and its exit code with it
    while True:
        seen.update(multiprocessing.active_children())
        codes = [process.exitcode for process in seen if process.exitcode]
        if codes:
            tell(reply, ("died", codes[0]))
            return
        time.sleep(POLL_S)


def _write_watched(
    store: Store, index: DatasetIndex, path: Path, settings: BetonSettings, threads: int, timeout_s: float
) -> None:
    """Run the writing process; end it and raise when a row fails, a worker dies or nothing moves."""
    check_open_files(OPEN_FILES)
    check_shared_memory("the export of a .beton", store.num_rows * SCENE_DTYPE.itemsize)
    # Not a fork of this process, which has threads; of a server that has only imported this module.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_write, args=(store, index, path, settings, threads, send), name="beton-writer")
    process.start()
    send.close()
    memory_name: list[str] = []
    try:
        with stage_bar(total=store.num_rows, unit="row", stage=f"export {path.name.removesuffix(PARTIAL)}") as bar:
            _follow(process, receive, bar, memory_name, timeout_s)
        process.join(timeout_s)
        if process.exitcode != 0:
            raise RuntimeError(f"the writer of {path} ended with exit code {process.exitcode}")
        memory_name.clear()
    finally:
        _end(process)
        receive.close()
        for name in memory_name:
            _unlink_memory(name)


def _follow(process: Any, receive: Connection, bar: tqdm, memory_name: list[str], timeout_s: float) -> None:
    """Take the writer's messages until it is done."""
    last, moved = -1, time.monotonic()
    while True:
        # First the process: what a dead one sent is then all there.
        is_alive = process.is_alive()
        if not receive.poll(POLL_S):
            if not is_alive:  # FFCV's worker, which holds the other end of the pipe too, may live on
                _fail(f"the writer died (exit code {process.exitcode}) after row {last}")
            if time.monotonic() - moved > timeout_s:
                _fail(f"the writer has not moved for {timeout_s:.0f} s after row {last}")
            continue
        moved = time.monotonic()
        try:
            kind, value = receive.recv()
        except EOFError:
            kind, value = "died", "unknown"
        match kind:
            case "done":
                return
            case "memory":
                memory_name.append(value)
            case "row":
                last = value
                bar.update()
            case "failed":
                raise value
            case _:
                _fail(f"FFCV's worker died (exit code {value}) after row {last}")


def _fail(what: str) -> NoReturn:
    raise UserError(f"{what}; is there memory and disk left? The same command starts again")


def _end(process: Any) -> None:
    """End the writing process and FFCV's worker, which is in its group and may have outlived it."""
    if process.exitcode != 0:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has not made its group yet
            process.kill()
    process.join()


def _unlink_memory(name: str) -> None:
    try:
        memory = shared_memory.SharedMemory(name)
    except FileNotFoundError:
        return
    memory.close()
    memory.unlink()


def _check_written(path: Path, store: Store, index: DatasetIndex, settings: BetonSettings) -> None:
    """Read the file back: every record in its place, every blob inside the file, some rows equal to their source."""
    records = open_records(path)
    blobs = map_file(path)
    assert (records["row"] == np.arange(store.num_rows)).all(), "every row was written to its own place"
    assert (records["status"] == store.status).all(), "statuses are those of the store"
    for name in BLOBS:
        ends = records[f"{name}_ptr"].astype(np.int64) + records[f"{name}_bytes"]
        assert (ends <= blobs.size).all(), f"every {name} lies inside the file"
    chosen = np.random.default_rng(0).permutation(store.num_rows)[:CHECKED_ROWS]
    for row in chosen:
        scene = scene_of_row(store, index, int(row), **asdict(settings))
        for name, data in scene_blobs(scene).items():
            assert read_blob(blobs, records[row], name) == data, f"row {row}: {name} was written as it is"


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


def _write_sidecar(out: Path, store: Store, settings: BetonSettings, digest: str, num_bytes: int) -> None:
    content = {
        "format": FORMAT,
        "format_version": PLANES_VERSION if settings.pixels == "yuv420" else FORMAT_VERSION,
        "sha256": digest,
        "num_bytes": num_bytes,
        "num_rows": store.num_rows,
        "table_checksum": table_checksum(map_file(out), store.num_rows),
        "store_id": store.store_id,
        "dataset": store.dataset,
        "split": store.split,
        "settings": asdict(settings),
        "masks": _masks_of(store),
    }
    # Last and of all the others: a sidecar that was changed is noticed.
    content["digest"] = identity_digest(content)
    write_aside(sidecar_path(out), json.dumps(content, indent=2) + "\n")
