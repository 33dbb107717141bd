"""Threads in the place of processes that torchrun starts: collectives of milliseconds, for tests of what is shared."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from backdrop.trainer.parts import pieces


class Threads:
    """W threads, each of which is a process to `parts/pieces.py`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._own = threading.local()
        self._barrier = threading.Barrier(size)
        self._said: list[Any] = [None] * size

    def rank(self) -> int:
        """Of this thread."""
        return int(self._own.rank)

    def all_gather_object(self, values: list[Any], value: Any) -> None:
        """As torch's."""
        values[:] = self._exchanged(value)

    def all_gather(self, values: list[torch.Tensor], value: torch.Tensor) -> None:
        """As torch's, which takes tensors of one shape and dtype."""
        for mine, of_other in zip(values, self._exchanged(value), strict=True):
            assert (mine.shape, mine.dtype) == (of_other.shape, of_other.dtype)
            mine.copy_(of_other)

    def run(self, work: Callable[[], Any]) -> list[Any]:
        """What each thread's work gives."""

        def of_rank(rank: int) -> Any:
            self._own.rank = rank
            return work()

        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(self.size) as pool:
            patch.setattr(pieces, "rank", self.rank)
            patch.setattr(pieces, "num_processes", lambda: self.size)
            patch.setattr(pieces, "distributed", self)
            return list(pool.map(of_rank, range(self.size)))

    def _exchanged(self, value: Any) -> list[Any]:
        self._said[self.rank()] = copy.deepcopy(value)
        self._barrier.wait(timeout=5)
        said = list(self._said)
        self._barrier.wait(timeout=5)
        return said
