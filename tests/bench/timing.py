"""How measurements are taken: the best of several repetitions, because other work on a machine only ever adds time."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch


def best_seconds(work: Callable[[], object], *, repetitions: int = 5) -> float:
    """Return the least wall-clock seconds that `work` took, after one call to warm up."""
    work()
    taken = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def best_cpu_seconds(works: dict[str, Callable[[], object]], *, rounds: int = 9) -> dict[str, float]:
    """Return the least processor seconds, of all threads, that each of `works` took, one after the other in rounds.

    In turn, so that what else a machine does meets all of them alike.
    """
    for work in works.values():
        work()
    best = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            start = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - start)
    return best


def row(value: float, unit: str, *, peer: float | None = None, ratio: float | None = None, what: str) -> dict:
    """Return one entry of bench.json; `what` says what each side does."""
    return {"value": value, "unit": unit, "peer": peer, "ratio": ratio, "what": what}


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process and all its threads on one core, so that every side is given the same."""
    allowed, num_threads = os.sched_getaffinity(0), torch.get_num_threads()
    _stay_on({min(allowed)})
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _stay_on(allowed)
        torch.set_num_threads(num_threads)


def _stay_on(cores: set[int]) -> None:
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it has ended since it was listed
            os.sched_setaffinity(int(thread.name), cores)
