"""The thread that prepares the batches of an epoch while others are trained on.

Errors reach who takes batches; leaving an epoch early ends the thread; a slot of the ring is written again only after
the batches promised in `batch.py` were taken and, on CUDA, their copies are done.
"""

import queue
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from backdrop.pipeline.loader.batch_ring import BatchRing
from backdrop.pipeline.loader.scene_decoder import SceneDecoder
from backdrop.pipeline.loader.trace import BATCH, WAIT_FOR_BATCH, WAIT_FOR_SLOT


class Filled(NamedTuple):
    """A batch that was prepared."""

    rows: np.ndarray  # int64 (B,); where a row was replaced, the other
    flat_BN: np.ndarray  # uint8, its slot
    skipped: tuple[str, ...]  # a line for each row that could not be read


class Producer:
    """An epoch's batches in order, prepared ahead on a thread of their own; iterate, and `close` in the end."""

    def __init__(self, decoder: SceneDecoder, ring: BatchRing, batches: Iterator[np.ndarray], epoch: int) -> None:
        """Start the thread.

        Args: decoder: fills batches. ring: lends the slots; half of them are prepared before any is taken.
            batches: int64 (B,), the rows of each batch. epoch: its number, for the draws.
        """
        self._decoder, self._ring, self._batches, self._epoch = decoder, ring, batches, epoch
        self._ahead = ring.num_slots // 2
        self._to_prepare = threading.Semaphore(self._ahead)
        self._copied: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[Filled | BaseException | None] = queue.SimpleQueue()
        self._called_off = threading.Event()
        self._memory, self._first_slot = ring.lend()
        self._num_taken = 0
        self._thread = threading.Thread(target=self._run, name="backdrop-batches", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Filled]:
        return self

    def __next__(self) -> Filled:
        with self._decoder.trace.span(WAIT_FOR_BATCH):
            result = self._ready.get()
        if result is None:
            raise StopIteration
        if isinstance(result, BaseException):
            raise result
        # Whatever was taken before has been handed to the device by now, or is not needed any more.
        self._copied.put(_event_of_this_stream())
        self._to_prepare.release()
        self._num_taken += 1
        return result

    def close(self) -> None:
        """End the thread and give the slots back."""
        self._called_off.set()
        self._to_prepare.release()
        self._thread.join()
        self._ring.take_back(self._memory, self._slot(self._num_taken))

    def _slot(self, number: int) -> int:
        return (self._first_slot + number) % self._ring.num_slots

    def _run(self) -> None:
        """Put batch after batch, at last None, or the error that ended it."""
        try:
            draws = self._decoder.draws(self._epoch)
            for number, rows in enumerate(self._batches):
                if not self._has_slot(number):
                    return
                with self._decoder.trace.span(BATCH) as details:
                    details["number"] = number
                    # Its own: rows may be replaced; contiguous, as the kernels are compiled for.
                    rows = np.array(rows, dtype=np.int64)
                    flat_BN = self._memory[self._slot(number)][: len(rows)]
                    skipped = self._decoder.fill(rows, flat_BN, draws, self._called_off)
                self._ready.put(Filled(rows, flat_BN, skipped))
            self._ready.put(None)
        except BaseException as error:  # handed to the consumer, who raises it
            self._ready.put(error)

    def _has_slot(self, number: int) -> bool:
        """Wait until a batch may be prepared, and the device has read what its slot held; False where called off."""
        with self._decoder.trace.span(WAIT_FOR_SLOT):
            self._to_prepare.acquire()
            if self._called_off.is_set():
                return False
            event = self._copied.get() if number >= self._ahead else None  # one for each batch that was taken
            if event is not None:
                event.synchronize()
        return True


def _event_of_this_stream() -> Any:
    if not torch.cuda.is_initialized():
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream())
    return event
