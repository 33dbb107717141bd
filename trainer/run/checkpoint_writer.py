"""Checkpoints written by a thread from a copy of the state, while training goes on; one at a time."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from backdrop.progress import warn
from backdrop.trainer.run.checkpoint import Snapshot


class CheckpointWriter:
    """Holds one copy of the state at most: the next is taken when the one before is on disk."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def start(self, take: Callable[[], Snapshot | None]) -> None:
        """Have a checkpoint written.

        Args: take: gives what is written, None in the processes that write nothing.
        Raises: what `take` raises, and what the checkpoint before met: OSError, the disk refuses.
        """
        self.wait()
        snapshot = take()
        if snapshot is not None:
            self._pending = self._thread.submit(snapshot.write)

    def check(self) -> None:
        """Ask, without waiting, whether the pending checkpoint could be written. Raises: OSError: it could not."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the pending checkpoint is on disk. Raises: OSError: the disk refuses."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """End the thread, once the pending checkpoint is written."""
        self._thread.shutdown(wait=True)


@contextmanager
def checkpoint_writer() -> Iterator[CheckpointWriter]:
    """Give a writer; at the end, however it comes, the pending checkpoint is written. Raises: OSError: it cannot be."""
    writer = CheckpointWriter()
    try:
        yield writer
        writer.wait()
    except BaseException:
        # What ended the training is what the user is told of; a checkpoint lost beside it is told of as well.
        try:
            writer.wait()
        except OSError as error:
            warn(
                f"warning: the latest checkpoint was not written ({error}); "
                "the same command goes on from the one before"
            )
        raise
    finally:
        writer.close()
