"""The slots that batches are written to, kept from epoch to epoch: a new page costs more than what is put on it."""

import numpy as np
import torch

from backdrop.progress import warn


class BatchRing:
    """Slots for batches, in turn.

    An epoch starts behind the last slot that was taken, so that batches stay valid as long as within an epoch. A second
    epoch at the same time gets slots of its own.
    """

    def __init__(self, num_slots: int, batch_size: int, row_bytes: int) -> None:
        """Nothing is allocated before an epoch wants it. Args: row_bytes: of a row of a batch."""
        self.num_slots, self._shape = num_slots, (num_slots, batch_size, row_bytes)
        self._spare: np.ndarray | None = None
        self._next_slot = 0

    @property
    def num_bytes(self) -> int:
        """Size of what an epoch allocates."""
        return int(np.prod(self._shape))

    def lend(self) -> tuple[np.ndarray, int]:
        """Return slots, uint8 (slots, batch size, row bytes), and the one to begin with."""
        if self._spare is None:
            return _memory(self._shape), 0
        if torch.cuda.is_initialized():
            torch.cuda.current_stream().synchronize()  # whatever is still being copied out of it
        memory, self._spare = self._spare, None
        return memory, self._next_slot

    def take_back(self, memory: np.ndarray, next_slot: int) -> None:
        """Keep what was lent; next_slot: behind the last that was taken."""
        if self._spare is None:
            self._spare, self._next_slot = memory, next_slot


def _memory(shape: tuple[int, ...]) -> np.ndarray:
    """Memory that a GPU copies from without a further copy, where there is one."""
    if torch.cuda.is_available():
        try:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()
        except RuntimeError as error:  # the system allows no more of it
            warn(f"the loader's batches are in ordinary memory, copies to the GPU take longer: {error}")
    return torch.empty(shape, dtype=torch.uint8).numpy()
