"""Rows of a global batch in another order over the processes: each is sent to the one process that takes it, and back.

Shapes: B rows of one process, N = W * B rows of all.
"""

import numpy as np
import torch

from backdrop.trainer.parts.collectives import exchanged, num_processes, rank


class RowExchange:
    """An order of a global batch, of which process 0 takes the first B rows, process 1 the next B, and so on."""

    def __init__(self, order_N: np.ndarray, device: torch.device) -> None:
        """Work out who sends what to whom; nothing is sent, and no GPU waited for.

        Args: order_N: the same permutation of 0 .. N - 1 in every process. device: that the rows are on.
        """
        size, own = num_processes(), rank()
        taken_WB = order_N.reshape(size, -1)
        # Row g of the global batch is row g // W of process g % W.
        self._to_each = [int((taken_B % size == own).sum()) for taken_B in taken_WB]
        self._of_each = [int((taken_WB[own] % size == sender).sum()) for sender in range(size)]
        sent_B = order_N[order_N % size == own] // size
        # What comes is sorted by its sender, and within one as it is taken.
        place_B = np.argsort(taken_WB[own] % size, kind="stable")
        self._sent_B = torch.from_numpy(sent_B).to(device, non_blocking=True)
        self._place_B = torch.from_numpy(place_B).to(device, non_blocking=True)

    def there(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows that this process takes, in their order. Gradients stop here.

        Args: rows: (B, ...), this process's of the global batch. Returns: (B, ...).
        """
        sent = rows.detach()[self._sent_B]
        return sent if num_processes() == 1 else _placed(exchanged(sent, self._to_each, self._of_each), self._place_B)

    def back(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows made of those that `there` gave to where these came from, in the batch's order.

        Args: rows: (B, ...), one for each. Returns: (B, ...).
        """
        if num_processes() > 1:
            rows = exchanged(rows.detach()[self._place_B], self._of_each, self._to_each)
        return _placed(rows, self._sent_B)


def _placed(rows: torch.Tensor, place_B: torch.Tensor) -> torch.Tensor:
    result = torch.empty_like(rows)
    result[place_B] = rows
    return result
