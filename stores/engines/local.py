"""Parts computed by processes of this machine; a worker that dies is replaced, and its part given to another.

Workers are spawned, never forked (a fork of a process that has used threads or a GPU can hang), and single-threaded, so
that no byte of a store depends on how many threads a library finds; the processes are the parallelism. Where parts use
GPUs, each worker sees exactly one. The standard pools do not do: `multiprocessing.Pool` hangs when a worker is killed,
`ProcessPoolExecutor` drops all that is queued.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from backdrop.child_processes import end_with_parent, tell, without_ctrl_c
from backdrop.devices import num_cores, visible_gpus
from backdrop.errors import UserError
from backdrop.stores.engines import RunPart
from backdrop.stores.engines._attempts import attempt
from backdrop.stores.engines._pool import run_pool

ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)


def run(
    run_part: RunPart,
    spec: object,
    parts: Iterable[int],
    *,
    num_workers: int | None,
    progress: Callable[[int], None],
    uses_gpu: bool = False,
) -> list[dict]:
    """Compute parts in `num_workers` processes.

    Args:
        run_part: an importable function that computes a part and commits it itself; it may be called again for a part
            whose worker died.
        spec: what it needs, picklable; sent once to each worker.
        parts: numbers of the parts to compute.
        num_workers: processes; None = one per GPU where parts use them, else one per core; 0 = none, everything in this
            one with the threads it has (for a debugger).
        progress: called with the number of rows finished since the last call; a negative number takes back those of a
            part that has to start again.
        uses_gpu: whether parts are computed on a GPU where there is one; the GPUs go round among the workers.

    Returns:
        The receipts, in the order of `parts`.

    Raises:
        UserError: `run_part` raised it (a full disk, say); at once, all workers are ended.
        PartsFailed: parts killed their worker, or raised, `MAX_ATTEMPTS` times; after all others are done.
    """
    gpus = visible_gpus() if uses_gpu else []
    if num_workers is None:
        num_workers = len(gpus) or num_cores()
    return run_on(gpus, run_part, spec, parts, num_workers=num_workers, progress=progress)


def run_on(
    gpus: Sequence[str],
    run_part: RunPart,
    spec: object,
    parts: Iterable[int],
    *,
    num_workers: int,
    progress: Callable[[int], None],
) -> list[dict]:
    """Compute parts in processes that each see one of `gpus`, as CUDA_VISIBLE_DEVICES names them; else as `run`."""
    if num_workers < 0:
        raise UserError(f"{num_workers} workers; give 1 or more")
    if num_workers == 0:
        return [run_part(spec, part, progress) for part in parts]
    return run_pool(_Processes(run_part, spec, gpus), list(parts), num_workers=num_workers, progress=progress)


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    gpu: str | None


@dataclass
class _Processes:
    """Workers of `_pool`: spawned processes, each at the other end of a pipe."""

    run_part: RunPart
    spec: object
    gpus: Sequence[str]
    alive: list[_Worker] = field(default_factory=list)

    def start(self) -> _Worker:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=_work, args=(theirs, self.run_part, self.spec), daemon=True
        )
        worker = _Worker(process, ours, self._least_used_gpu())
        variables = dict.fromkeys(ONE_THREAD, "1")
        if worker.gpu is not None:
            variables["CUDA_VISIBLE_DEVICES"] = worker.gpu
        with environment(variables), without_ctrl_c():
            process.start()
        theirs.close()
        self.alive.append(worker)
        return worker

    def _least_used_gpu(self) -> str | None:
        """The next in turn; after a death, the one that became free."""
        used = [worker.gpu for worker in self.alive]
        return min(self.gpus, key=used.count, default=None)

    def give(self, worker: _Worker, part: int) -> None:
        with suppress(ConnectionError):  # it has died: its end of the pipe says so at the next wait
            worker.pipe.send(part)

    def listen(self, workers: Sequence[_Worker]) -> list[tuple[_Worker, str, Any]]:
        talking = wait([worker.pipe for worker in workers])
        return [(worker, *self._hear(worker)) for worker in workers if worker.pipe in talking]

    def _hear(self, worker: _Worker) -> tuple[str, Any]:
        try:
            return worker.pipe.recv()
        except (EOFError, OSError):
            return "died", self._how_it_died(worker)

    def _how_it_died(self, worker: _Worker) -> str:
        worker.process.join(timeout=5)  # its end of the pipe closes a little before
        self.end([worker])
        code = worker.process.exitcode
        if code is not None and code < 0:
            return f"signal {-code} ended its worker" + (" (out of memory?)" if code == -signal.SIGKILL else "")
        return f"its worker exited with {code}; its error stands above"

    def end(self, workers: Sequence[_Worker]) -> None:
        for worker in workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in workers:
            worker.process.join(timeout=10)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self.alive = [worker for worker in self.alive if worker not in workers]


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for what is started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(pipe: Connection, run_part: RunPart, spec: object) -> None:
    """Life of a worker: compute what is sent until the pipe closes, which it also does when the parent is killed."""
    end_with_parent()
    tell(pipe, ("ready", None))
    with suppress(EOFError, ConnectionError):
        while True:
            part = pipe.recv()
            limit_threads()
            tell(pipe, attempt(run_part, spec, part, lambda num_rows: tell(pipe, ("rows", num_rows))))


def limit_threads() -> None:
    """One thread for torch too, which does not ask the environment of a thread that is not its first."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
