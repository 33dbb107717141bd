"""Parts computed by Ray actors: on the cluster that RAY_ADDRESS names, or on a Ray of this machine, for this run.

The output folder, the data set and the detector must be on a file system that all nodes see under the same path: actors
write parts straight to it, only receipts and counts come back through Ray. An actor takes one core, or one GPU where
parts use one and the cluster has some; those that find no room wait for it. Actors that die, with their node too, are
replaced here and not by Ray, whose own retries would neither count per part nor take back the progress.
"""

import logging
import os
import pickle
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backdrop.devices import num_cores, visible_gpus
from backdrop.errors import UserError
from backdrop.stores.engines import RunPart
from backdrop.stores.engines._attempts import attempt
from backdrop.stores.engines._pool import run_pool
from backdrop.stores.engines.local import ONE_THREAD, environment, limit_threads

try:
    import ray
    import ray.exceptions
except ImportError as missing:
    raise UserError("--engine ray needs the package ray: pip install ray") from missing

PROGRESS_SECONDS = 1.0
SPARE_OBJECT_STORE_BYTES = 128 * 2**20


def run(
    run_part: RunPart,
    spec: object,
    parts: Iterable[int],
    *,
    num_workers: int | None,
    progress: Callable[[int], None],
    uses_gpu: bool = False,
) -> list[dict]:
    """Compute parts in `num_workers` actors; arguments, result and errors are those of the local engine, except:

    Args:
        run_part: importable on all nodes.
        spec: picklable; goes to each node once.
        parts: numbers of the parts to compute.
        num_workers: actors; None = one per GPU of the cluster where parts use them, else one per core.
        progress: as in the local engine.
        uses_gpu: whether parts are computed on a GPU where there is one; each actor then has a whole one.

    Raises:
        UserError: also when no cluster answers at RAY_ADDRESS, or a node does not see the folder this was started in.
    """
    parts = list(parts)
    if num_workers is not None and num_workers < 1:
        raise UserError(f"{num_workers} workers; give 1 or more")
    if not parts:
        return []
    pickled = pickle.dumps((run_part, spec))
    with _cluster(num_workers, uses_gpu, len(pickled)):
        resources = ray.cluster_resources()
        needs_gpu = uses_gpu and resources.get("GPU", 0) >= 1
        if num_workers is None:
            num_workers = int(resources["GPU" if needs_gpu else "CPU"])
        actors = _Actors(ray.put(pickled), Path.cwd(), needs_gpu)
        return run_pool(actors, parts, num_workers=num_workers, progress=progress)


@contextmanager
def _cluster(num_workers: int | None, uses_gpu: bool, spec_bytes: int) -> Iterator[None]:
    """Join the cluster, or start one of this machine; leave it, or end it."""
    if ray.is_initialized():  # by a program that calls us
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    try:
        if address:
            _check_that_somebody_answers(address)
            ray.init(address, logging_level=logging.ERROR)
        else:
            gpus = visible_gpus() if uses_gpu else []
            with environment(quiet):
                ray.init(
                    "local",
                    num_cpus=num_workers or max(num_cores(), len(gpus)),
                    num_gpus=len(gpus),
                    include_dashboard=False,
                    object_store_memory=SPARE_OBJECT_STORE_BYTES + 2 * spec_bytes,
                    logging_level=logging.ERROR,
                )
    except (OSError, RuntimeError, ValueError) as error:
        where = f"RAY_ADDRESS={address}: this cluster cannot be joined" if address else "Ray cannot be started"
        raise UserError(f"--engine ray: {where}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_that_somebody_answers(address: str) -> None:
    """Raise OSError where nobody does: Ray would find out after five minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():  # not where it is "auto"
        socket.create_connection((host, int(port)), timeout=10).close()


class _Actor:
    """What runs on the nodes. Its methods run side by side: `rows` tells how far `attempt` has come."""

    def __init__(self, pickled: bytes, folder: Path) -> None:
        self._pickled, self._folder, self._rows = pickled, folder, 0

    def prepare(self) -> tuple[int, str, Any]:
        if not self._folder.is_dir():
            mistake = (
                f"--engine ray: {self._folder}, where this was started, is not there on {socket.gethostname()}. Start "
                "it, and put data and --out, on a file system that all nodes of the cluster see."
            )
            return 0, "user error", mistake
        os.chdir(self._folder)  # paths may be relative to it
        self._run_part, self._spec = pickle.loads(self._pickled)
        return 0, "ready", None

    def attempt(self, part: int) -> tuple[int, str, Any]:
        limit_threads()
        kind, content = attempt(self._run_part, self._spec, part, self._add_rows)
        rows, self._rows = self._rows, 0
        return rows, kind, content

    def _add_rows(self, num_rows: int) -> None:
        self._rows += num_rows

    def rows(self) -> int:
        return self._rows


@dataclass(eq=False)
class _Worker:
    actor: Any
    answer: Any
    # what `prepare` or `attempt` will return; None when it is idle
    count: Any = None
    # what `rows` will return, once asked
    rows: int = 0
    # of its part, reported so far


@dataclass
class _Actors:
    """Workers of `_pool`: Ray actors, asked for their progress every `PROGRESS_SECONDS`."""

    pickled: Any
    folder: Path
    needs_gpu: bool

    def start(self) -> _Worker:
        actor: Any = (
            ray.remote(_Actor)
            .options(
                num_cpus=1,
                num_gpus=1 if self.needs_gpu else 0,
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=2,
                runtime_env={"env_vars": dict.fromkeys(ONE_THREAD, "1")},
            )
            .remote(self.pickled, self.folder)
        )
        return _Worker(actor, actor.prepare.remote())

    def give(self, worker: _Worker, part: int) -> None:
        worker.answer, worker.count, worker.rows = worker.actor.attempt.remote(part), None, 0

    def listen(self, workers: Sequence[_Worker]) -> list[tuple[_Worker, str, Any]]:
        busy = {worker.answer: worker for worker in workers if worker.answer is not None}
        answered, waiting = ray.wait(list(busy), timeout=PROGRESS_SECONDS)
        news = [news for answer in waiting for news in self._counted(busy[answer])]
        return news + [news for answer in answered for news in self._answered(busy[answer])]

    def _counted(self, worker: _Worker) -> Iterator[tuple[_Worker, str, Any]]:
        """How far a worker has come, where it has said so since it was asked."""
        if worker.count is None:
            worker.count = worker.actor.rows.remote()
        elif ray.wait([worker.count], timeout=0)[0]:
            asked, worker.count = worker.count, None
            with suppress(ray.exceptions.RayError):  # it has died: its answer says so too
                yield from self._rows_until(worker, ray.get(asked))

    def _answered(self, worker: _Worker) -> Iterator[tuple[_Worker, str, Any]]:
        try:
            rows, kind, content = ray.get(worker.answer)
        except ray.exceptions.RayError as error:
            yield worker, "died", f"its actor is lost: {error}"
            return
        worker.answer = None
        yield from self._rows_until(worker, rows)
        yield worker, kind, content

    def _rows_until(self, worker: _Worker, rows: int) -> Iterator[tuple[_Worker, str, Any]]:
        new, worker.rows = rows - worker.rows, rows
        if new:
            yield worker, "rows", new

    def end(self, workers: Sequence[_Worker]) -> None:
        for worker in workers:
            ray.kill(worker.actor)
