"""What the processes of one training tell each other inside a step; everything is the identity in a process alone.

A global batch is dealt like cards: process r of W holds rows r, r + W, r + 2 W, ... (`pipeline/loader/epoch_order.py`).
So rows gathered here are in the order that one process with the whole batch would have them in.

Shapes: B rows of one process, N = W * B rows of all.
"""

import torch
from torch import distributed


def num_processes() -> int:
    """Return W."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return r of this process."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def gathered(rows: torch.Tensor) -> torch.Tensor:
    """Return the rows of all processes in the order of the global batch. Gradients stop here.

    Args: rows: (B, ...), of the same shape in every process. Returns: (N, ...).
    """
    if num_processes() == 1:
        return rows
    rows = rows.detach().contiguous()
    pieces = [torch.empty_like(rows) for _ in range(num_processes())]
    distributed.all_gather(pieces, rows)
    return torch.stack(pieces, dim=1).flatten(0, 1)


def exchanged(rows: torch.Tensor, to_each: list[int], of_each: list[int]) -> torch.Tensor:
    """Return what came for this process: first from process 0, then from process 1, and so on. Gradients stop here.

    Args: rows: (M, ...), first those for process 0, then those for process 1, and so on. to_each: how many for each,
        M together. of_each: how many come of each, L together. Returns: (L, ...).
    """
    rows = rows.detach().contiguous()
    received = rows.new_empty(sum(of_each), *rows.shape[1:])
    distributed.all_to_all_single(received, rows, of_each, to_each)
    return received


def own_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return this process's rows of a global batch, the inverse of `gathered`. Args: rows: (N, ...)."""
    return rows if num_processes() == 1 else rows[rank() :: num_processes()]


def summed(values: torch.Tensor) -> torch.Tensor:
    """Return the sum over processes, the same bits in each. Gradients stop here. Args: values: any shape."""
    return values if num_processes() == 1 else _reduced(values, distributed.ReduceOp.SUM)


def largest(values: torch.Tensor) -> torch.Tensor:
    """Return the largest over processes. Gradients stop here. Args: values: any shape."""
    return values if num_processes() == 1 else _reduced(values, distributed.ReduceOp.MAX)


def _reduced(values: torch.Tensor, operation: distributed.ReduceOp.RedOpType) -> torch.Tensor:
    result = values.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(result, operation)
    return result
