"""One process of many that a scheduler started: it computes every size-th part, on this machine's processes.

Which one it is, is read from the environment, so that any scheduler will do: RANK and WORLD_SIZE (torchrun), or
SLURM_ARRAY_TASK_ID with SLURM_ARRAY_TASK_MIN and SLURM_ARRAY_TASK_COUNT (a job array of consecutive numbers). The
processes tell each other nothing: parts become visible by one rename each, and whoever finds all of them there
finishes the store. What a lost process leaves is computed by the same command again, on any machine.

Processes of one machine, which torchrun numbers in LOCAL_RANK and LOCAL_WORLD_SIZE, share its GPUs and cores.
"""

import os
from collections.abc import Callable, Iterable

from backdrop.devices import num_cores, visible_gpus
from backdrop.errors import UserError
from backdrop.stores.engines import RunPart
from backdrop.stores.engines.local import run_on


def run(
    run_part: RunPart,
    spec: object,
    parts: Iterable[int],
    *,
    num_workers: int | None,
    progress: Callable[[int], None],
    uses_gpu: bool = False,
) -> list[dict]:
    """Compute this process's share of the parts; arguments, result and errors are those of the local engine.

    Raises:
        UserError: the environment does not say which process this is.
    """
    rank, size = place()
    mine = [part for part in parts if part % size == rank]
    gpus, num_neighbours = share_of_machine(visible_gpus() if uses_gpu else [])
    if num_workers is None:
        num_workers = len(gpus) or max(1, num_cores() // num_neighbours)
    return run_on(gpus, run_part, spec, mine, num_workers=num_workers, progress=progress)


def share_of_machine(gpus: list[str]) -> tuple[list[str], int]:
    """This process's GPUs among those of its machine, and how many processes share the machine.

    Args:
        gpus: of the machine.
    """
    local_rank, size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return gpus[local_rank::size] or gpus[local_rank % max(1, len(gpus)) :][:1], size


def place() -> tuple[int, int]:
    """This process's number from 0, and how many there are.

    Raises:
        UserError: the environment says neither, or the impossible.
    """
    given = os.environ
    try:
        if "RANK" in given and "WORLD_SIZE" in given:
            rank, size = int(given["RANK"]), int(given["WORLD_SIZE"])
        else:
            rank = int(given["SLURM_ARRAY_TASK_ID"]) - int(given["SLURM_ARRAY_TASK_MIN"])
            size = int(given["SLURM_ARRAY_TASK_COUNT"])
    except (KeyError, ValueError) as error:
        raise UserError(
            "--engine rank: the environment does not say which process this is; set RANK and WORLD_SIZE, or start it "
            "as a Slurm job array"
        ) from error
    if not 0 <= rank < size:
        raise UserError(f"--engine rank: process {rank} of {size}; numbers go from 0, without gaps")
    return rank, size
