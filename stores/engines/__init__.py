"""Ways to run the parts of a build; a file's name is the engine's name on the command line."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from backdrop.open_sets import OpenSet

# run_part(spec, part, rows_done) computes and commits one part, calls rows_done(n) as it goes, and returns the receipt.
RunPart = Callable[[Any, int, Callable[[int], None]], dict]


class EngineFile(Protocol):
    """What a file of `stores/engines/`, or a plug-in of the set `engines`, provides."""

    def run(
        self,
        run_part: RunPart,
        spec: object,
        parts: Iterable[int],
        *,
        num_workers: int | None,
        progress: Callable[[int], None],
        uses_gpu: bool = False,
    ) -> list[dict]:
        """Compute parts; which process computes a part, and in which order, changes no byte of it.

        Args:
            run_part: an importable function that computes a part and commits it itself; it may be called again for a
                part whose worker died.
            spec: what it needs, picklable.
            parts: numbers of the parts to compute.
            num_workers: processes; None = as many as the engine finds fit.
            progress: called with the number of rows finished since the last call; a negative number takes back those
                of a part that has to start again.
            uses_gpu: whether parts are computed on a GPU where there is one.
        Returns: the receipts of the parts that this process answers for, in the order of `parts`.
        Raises:
            UserError: `run_part` raised it, at once; or the engine cannot work here.
            PartsFailed: parts failed as often as they may; after all others are done.
        """


ENGINES: OpenSet[EngineFile] = OpenSet("engines", __name__, __path__, contract=EngineFile)
NAMES = ENGINES.built_in()
