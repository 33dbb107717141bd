"""One build from begin to end: the store opened, its missing parts given to an engine, the manifest, the log."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from backdrop.disk_errors import disk_errors
from backdrop.errors import PartsFailed
from backdrop.pipeline.build.foreground_size import foreground_size
from backdrop.progress import stage_bar
from backdrop.stores.engines import ENGINES
from backdrop.stores.format.provenance import environment, log_event
from backdrop.stores.format.reader import open_store
from backdrop.stores.format.schema import Status
from backdrop.stores.format.writer import finish, missing_parts, open_for_build, read_attributes, rows_of_part


@dataclass(frozen=True, kw_only=True)
class NewStore:
    """A store that is to be built.

    out: its folder. identity: everything that decides the content. num_rows: of the finished store. part_rows: of a
    part, but the last.
    """

    out: Path
    identity: dict
    num_rows: int
    part_rows: int


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Who computes parts.

    engine: one of `stores.engines.NAMES`. num_workers: processes; None = as many as the engine finds fit. uses_gpu:
    whether they compute on a GPU where there is one.
    """

    engine: str
    num_workers: int | None
    uses_gpu: bool = False


def run_parts(
    run_part: Callable[..., dict],
    spec: object,
    new: NewStore,
    workers: Workers,
    **logged: object,
) -> dict:
    """Build a store part by part, or go on with one that was begun with the same identity.

    Args:
        run_part: `run_part(spec, part, rows_done)` computes and commits a part; see `stores.engines`.
        spec: what it needs, picklable.
        new: the store; `<out>.build.jsonl` beside it logs the builds.
        workers: who computes the parts.
        logged: what else the log says of this build.

    Returns:
        store (path), store_id (None while other processes of the rank engine still build), num_rows, status (count
        per status), foreground (of `foreground_size`), rows_built (by this call), seconds, rows_per_second.

    Raises:
        UserError: no such engine, a place taken by something else or by a store of another identity, a full disk, and
            what `run_part` raises.
    """
    run, out, num_rows = _engine(workers), new.out, new.num_rows
    open_for_build(out, new.identity, num_rows, new.part_rows)
    start = time.monotonic()
    missing, attributes = missing_parts(out), read_attributes(out)
    rows_missing = sum(len(rows_of_part(attributes, part)) for part in missing)
    with disk_errors(out):
        log_event(
            out,
            "started",
            rows=rows_missing,
            workers=workers.num_workers,
            engine=workers.engine,
            **logged,
            **environment(),
        )
    with stage_bar(total=num_rows, initial=num_rows - rows_missing, unit="row", stage=f"build {out.name}") as bar:
        try:
            receipts = run(run_part, spec, missing, progress=bar.update)
        except PartsFailed as failure:
            with disk_errors(out):
                log_event(out, "failed", parts=failure.reasons)
            raise
    rows_built = sum(receipt["num_rows"] for receipt in receipts)
    # Where others build other parts, the last of them finds nothing missing; two that do write the same manifest.
    store_id = None if missing_parts(out) else finish(out)
    seconds = time.monotonic() - start
    store = open_store(out, allow_partial=True)
    status = store.status
    summary = {
        "store": str(out),
        "store_id": store_id,
        "num_rows": num_rows,
        "status": {kind.label: int((status == kind).sum()) for kind in Status},
        "foreground": foreground_size(store.foreground_fraction, status),
        "rows_built": rows_built,
        "seconds": round(seconds, 3),
        "rows_per_second": round(rows_built / seconds, 2),
    }
    with disk_errors(out):
        log_event(out, "finished" if store_id else "share done", **summary)
    return summary


def _engine(workers: Workers) -> Callable[..., list[dict]]:
    """The engine's `run` for these workers; before anything is written, because an engine may lack its package."""
    return partial(ENGINES.load(workers.engine).run, num_workers=workers.num_workers, uses_gpu=workers.uses_gpu)
