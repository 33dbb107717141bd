"""Parts computed by processes of this machine; a worker that dies is replaced, and its part given to another.

Workers are spawned, never forked (a fork of a process that has used threads or a GPU can hang), and single-threaded, so
that no byte of a store depends on how many threads a library finds; the processes are the parallelism. The standard
pools do not do: `multiprocessing.Pool` hangs when a worker is killed, `ProcessPoolExecutor` drops all that is queued.
"""

import multiprocessing
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from stores.errors import PartsFailed, UserError

MAX_ATTEMPTS = 3
ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)

# run_part(spec, part, rows_done) computes and commits one part, calls rows_done(n) as it goes, and returns the receipt.
RunPart = Callable[[object, int, Callable[[int], None]], dict]


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    is_ready: bool = False
    part: int | None = None
    rows_reported: int = 0


@dataclass
class _Run:
    """What the parent knows."""

    run_part: RunPart
    spec: object
    progress: Callable[[int], None]
    todo: deque[int]
    workers: list[_Worker] = field(default_factory=list)
    attempts: dict[int, int] = field(default_factory=dict)
    receipts: dict[int, dict] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    failed_starts: int = 0


def run(
    run_part: RunPart, spec: object, parts: Iterable[int], *, num_workers: int, progress: Callable[[int], None]
) -> list[dict]:
    """Compute parts in `num_workers` processes.

    Args:
        run_part: an importable function that computes a part and commits it itself; it may be called again for a part
            whose worker died.
        spec: what it needs, picklable; sent once to each worker.
        parts: numbers of the parts to compute.
        num_workers: processes; 0 = none, everything in this one with the threads it has (for a debugger).
        progress: called with the number of rows finished since the last call; a negative number takes back those of a
            part that has to start again.

    Returns:
        The receipts, in the order of `parts`.

    Raises:
        UserError: `run_part` raised it (a full disk, say); at once, all workers are ended.
        PartsFailed: parts killed their worker, or raised, `MAX_ATTEMPTS` times; after all others are done.
    """
    parts = list(parts)
    if num_workers < 0:
        raise UserError(f"{num_workers} workers; give 1 or more")
    if num_workers == 0:
        return [run_part(spec, part, progress) for part in parts]
    state = _Run(run_part, spec, progress, deque(parts))
    try:
        while _staff(state, num_workers):
            talking = wait([worker.pipe for worker in state.workers])
            for worker in [worker for worker in state.workers if worker.pipe in talking]:
                _hear(state, worker)
    finally:
        _end(state.workers)
    if state.errors:
        raise PartsFailed(_failure(state), state.errors)
    return [state.receipts[part] for part in parts]


def _staff(state: _Run, num_workers: int) -> bool:
    """Hand parts to idle workers, let go those without work, start those that are needed; whether any is left."""
    for worker in [worker for worker in state.workers if worker.is_ready and worker.part is None]:
        if state.todo:
            worker.part, worker.rows_reported = state.todo.popleft(), 0
            _send(worker, worker.part)
        else:
            state.workers.remove(worker)
            _end([worker], gently=True)
    starting = sum(not worker.is_ready for worker in state.workers)
    for _ in range(min(num_workers - len(state.workers), len(state.todo) - starting)):
        state.workers.append(_start(state.run_part, state.spec))
    return bool(state.workers)


def _hear(state: _Run, worker: _Worker) -> None:
    """Take one message of a worker, or the news of its death."""
    try:
        kind, content = worker.pipe.recv()
    except (EOFError, OSError):
        _bury(state, worker)
        return
    if kind == "ready":
        worker.is_ready, state.failed_starts = True, 0
    elif kind == "rows":
        worker.rows_reported += content
        state.progress(content)
    elif kind == "done":
        state.receipts[_returned(worker)] = content
    elif kind == "user error":
        raise UserError(content)
    else:
        _failed(state, worker, content)


def _bury(state: _Run, worker: _Worker) -> None:
    """A worker has died: give its part to another, or give up where workers do not even start."""
    state.workers.remove(worker)
    _end([worker])
    code = worker.process.exitcode
    how = f"signal {-code} ended its worker" if code is not None and code < 0 else f"its worker exited with {code}"
    if worker.is_ready and worker.part is not None:
        _failed(state, worker, how + (" (out of memory?)" if code == -signal.SIGKILL else ""))
        return
    state.failed_starts += 1
    if state.failed_starts >= MAX_ATTEMPTS:
        raise UserError(f"no worker can be started ({how} before its first part); its error stands above")


def _failed(state: _Run, worker: _Worker, how: str) -> None:
    state.progress(-worker.rows_reported)
    part = _returned(worker)
    state.attempts[part] = state.attempts.get(part, 0) + 1
    if state.attempts[part] < MAX_ATTEMPTS:
        state.todo.append(part)
    else:
        state.errors[part] = how


def _returned(worker: _Worker) -> int:
    """Take the part back from a worker."""
    part, worker.part = worker.part, None
    assert part is not None
    return part


def _failure(state: _Run) -> str:
    lines = [f"part {part}: {how.strip()}" for part, how in sorted(state.errors.items())]
    return (
        f"{len(lines)} of {len(lines) + len(state.receipts)} parts failed {MAX_ATTEMPTS} times; the others are done. "
        "The same command tries those again.\n" + "\n".join(lines[:5]) + ("\n..." if len(lines) > 5 else "")
    )


def _start(run_part: RunPart, spec: object) -> _Worker:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(theirs, run_part, spec), daemon=True)
    resource_tracker.ensure_running()  # here: started by the first worker, it would unblock the signal blocked below
    # Ctrl-C reaches every process of the terminal; a worker inherits the blocked signal, and is ended by the parent.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _environment(dict.fromkeys(ONE_THREAD, "1")):
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    theirs.close()
    return _Worker(process, ours)


def _send(worker: _Worker, part: int) -> None:
    with suppress(ConnectionError):  # it has died: its end of the pipe says so at the next wait
        worker.pipe.send(part)


def _end(workers: list[_Worker], gently: bool = False) -> None:
    """End workers: gently, by closing the pipe they wait at, or at once; parts they were at leave nothing visible."""
    for worker in workers:
        worker.pipe.close()
        if not gently:
            worker.process.terminate()
    for worker in workers:
        worker.process.join(timeout=10)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
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
    with suppress(EOFError, ConnectionError):
        pipe.send(("ready", None))
        while True:
            part = pipe.recv()
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(1)
            pipe.send(_attempt(pipe, run_part, spec, part))


def _attempt(pipe: Connection, run_part: RunPart, spec: object, part: int) -> tuple[str, object]:
    try:
        return "done", run_part(spec, part, lambda num_rows: pipe.send(("rows", num_rows)))
    except UserError as error:
        return "user error", str(error)
    except ConnectionError:
        raise
    except Exception:  # one part's failure must not end the others; the parent tries it again, then reports it
        return "error", traceback.format_exc()
