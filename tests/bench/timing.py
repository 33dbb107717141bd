"""How measurements are taken: the best of several repetitions, because other work on a machine only ever adds time."""

import time
from collections.abc import Callable


def best_seconds(work: Callable[[], object], *, repetitions: int = 5) -> float:
    """Return the least wall-clock seconds that `work` took, after one call to warm up."""
    work()
    taken = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def row(value: float, unit: str, *, peer: float | None = None, ratio: float | None = None, what: str) -> dict:
    """Return one entry of bench.json; `what` says what each side does."""
    return {"value": value, "unit": unit, "peer": peer, "ratio": ratio, "what": what}
