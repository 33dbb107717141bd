"""Parts handed one by one to workers that may die, whatever the workers are: processes of this machine, Ray actors."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from backdrop.errors import UserError
from backdrop.stores.engines._attempts import Attempts


class Workers(Protocol):
    """A kind of worker. A worker may be any object; the pool only hands it around."""

    def start(self) -> Any:
        """Start a worker."""
        ...

    def give(self, worker: Any, part: int) -> None:
        """Send a part to an idle worker; one that died meanwhile says so when it is listened to."""
        ...

    def listen(self, workers: Sequence[Any]) -> list[tuple[Any, str, Any]]:
        """Wait a while for news: worker, kind and content.

        Kinds: "ready" (it can be given parts), "rows" (how many more it has finished), what `attempt` returns, and
        "died" (how).
        """
        ...

    def end(self, workers: Sequence[Any]) -> None:
        """End workers at once; parts they were at leave nothing visible."""
        ...


@dataclass(eq=False)
class _Place:
    """A worker, and what it is at."""

    worker: Any
    is_ready: bool = False
    part: int | None = None
    rows_reported: int = 0


@dataclass
class _Pool:
    workers: Workers
    todo: deque[int]
    num_workers: int
    progress: Callable[[int], None]
    attempts: Attempts = field(default_factory=Attempts)
    places: list[_Place] = field(default_factory=list)


def run_pool(
    workers: Workers, parts: Sequence[int], *, num_workers: int, progress: Callable[[int], None]
) -> list[dict]:
    """Have all parts computed by `num_workers` workers, or fewer where there are fewer parts.

    A worker that dies is replaced; a part whose worker dies, or that raises, is tried again up to `MAX_ATTEMPTS` times.

    Args:
        workers: what to start.
        parts: their numbers.
        num_workers: at least 1.
        progress: called with the number of rows finished since the last call; a negative number takes back those of a
            part that has to start again.

    Returns:
        The receipts, in the order of `parts`.

    Raises:
        UserError: a part raised it, at once; or no worker can be started.
        PartsFailed: some parts failed too often; after all others are done.
    """
    pool = _Pool(workers, deque(parts), num_workers, progress)
    try:
        while pool.todo or any(place.part is not None for place in pool.places):
            _staff(pool)
            by_worker = {id(place.worker): place for place in pool.places}
            for worker, kind, content in workers.listen([place.worker for place in pool.places]):
                _take(pool, by_worker[id(worker)], kind, content)
    finally:
        workers.end([place.worker for place in pool.places])
    return pool.attempts.outcome(parts)


def _staff(pool: _Pool) -> None:
    """Hand parts to idle workers, and start as many workers as the rest can use."""
    for place in pool.places:
        if pool.todo and place.is_ready and place.part is None:
            place.part, place.rows_reported = pool.todo.popleft(), 0
            pool.workers.give(place.worker, place.part)
    starting = sum(not place.is_ready for place in pool.places)
    for _ in range(min(pool.num_workers - len(pool.places), len(pool.todo) - starting)):
        pool.places.append(_Place(pool.workers.start()))


def _take(pool: _Pool, place: _Place, kind: str, content: Any) -> None:
    """Take one piece of news of a worker."""
    match kind:
        case "ready":
            place.is_ready = True
            pool.attempts.started()
        case "rows":
            place.rows_reported += content
            pool.progress(content)
        case "done":
            pool.attempts.done(_returned(place), content)
        case "user error":
            raise UserError(content)
        case "error":
            _failed(pool, place, content)
        case "died":
            _bury(pool, place, content)
        case _:
            raise AssertionError(kind)


def _bury(pool: _Pool, place: _Place, how: str) -> None:
    """Let go of a worker that has died; its part is tried again, by another."""
    pool.places.remove(place)
    pool.workers.end([place.worker])
    if place.part is not None:
        _failed(pool, place, how)
    elif not place.is_ready:
        pool.attempts.failed_to_start(how)


def _failed(pool: _Pool, place: _Place, how: str) -> None:
    pool.progress(-place.rows_reported)
    part = _returned(place)
    if pool.attempts.failed(part, how):
        pool.todo.append(part)


def _returned(place: _Place) -> int:
    """Take the part back from a worker."""
    part, place.part = place.part, None
    assert part is not None
    return part
