"""Rows that change places between processes, with threads in their stead; real ones are in test_distributed.py."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from backdrop.trainer.parts import row_exchange
from backdrop.trainer.parts.row_exchange import RowExchange

NUM_ROWS = 24


class Threads:
    """As many threads as there would be processes, and what they tell each other."""

    def __init__(self, size: int) -> None:
        self.size, self.own = size, threading.local()
        self._barrier = threading.Barrier(size)
        self._board: dict[int, tuple[torch.Tensor, ...]] = {}
        self.num_received = 0

    def exchanged(self, rows: torch.Tensor, to_each: list[int], of_each: list[int]) -> torch.Tensor:
        own = self.own.rank
        self._barrier.wait(timeout=10)
        self._board[own] = rows.split(to_each)
        self._barrier.wait(timeout=10)
        received = [self._board[sender][own] for sender in range(self.size)]
        assert [len(piece) for piece in received] == of_each
        self.num_received += sum(of_each) - of_each[own]
        return torch.cat(received)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_every_process_gets_its_run_of_the_order_and_gives_each_row_back(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = Threads(size)
    monkeypatch.setattr(row_exchange, "num_processes", lambda: size)
    monkeypatch.setattr(row_exchange, "rank", lambda: threads.own.rank)
    monkeypatch.setattr(row_exchange, "exchanged", threads.exchanged)
    order_N = np.random.default_rng(0).permutation(NUM_ROWS)
    rows_N2 = torch.arange(2.0 * NUM_ROWS).reshape(NUM_ROWS, 2)

    def work(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        threads.own.rank = rank
        exchange = RowExchange(order_N, torch.device("cpu"))
        taken = exchange.there(rows_N2[rank::size])
        return taken, exchange.back(-taken)

    with ThreadPoolExecutor(size) as pool:
        found = list(pool.map(work, range(size)))
    assert torch.equal(torch.cat([taken for taken, _ in found]), rows_N2[order_N])
    assert torch.equal(torch.stack([own for _, own in found], dim=1).flatten(0, 1), -rows_N2)
    # There and back: no row goes to more than one other process.
    assert threads.num_received <= 2 * NUM_ROWS
