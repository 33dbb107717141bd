"""What every process that we start does: it ends with the one that started it, whatever ended that, and says nothing.

A process that is killed cannot end its children, and a child that waits for work at a queue waits for ever: the other
end of the queue is in the children too. So each child listens to its parent's end.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker, shared_memory
from multiprocessing.connection import Connection, wait
from typing import Any

from backdrop.errors import UserError

# Exit code of a child whose parent is gone: nobody asks for it.
ORPHANED = 1
SHARED_MEMORY = "/dev/shm"


def end_with_parent(*, with_group: bool = False) -> None:
    """End this process as soon as the one that started it has ended, by any signal. Call it first in a child.

    Args: with_group: it leads a process group of its own, which ends with it.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "called in a process that multiprocessing started"

    def listen() -> None:
        wait([parent.sentinel])
        if with_group:
            os.killpg(0, signal.SIGKILL)
        os._exit(ORPHANED)

    threading.Thread(target=listen, name="end-with-parent", daemon=True).start()


def tell(pipe: Connection, message: Any) -> None:
    """Send the parent a message from a child; where it is gone, end this process without a word."""
    try:
        pipe.send(message)
    except ConnectionError:
        os._exit(ORPHANED)


def check_shared_memory(what: str, num_bytes: int = 1 << 16) -> None:
    """Refuse work that could not share memory and locks between its processes.

    Args: what: is to be done. num_bytes: that it shares.
    Raises: UserError: the machine has no shared memory, or too little is left.
    """
    mend = f"mount it: mount -t tmpfs tmpfs {SHARED_MEMORY} (a container: docker run --shm-size=1g)"
    try:
        multiprocessing.get_context("spawn").Lock()
        memory = shared_memory.SharedMemory(create=True, size=num_bytes)
    except OSError as error:
        raise UserError(
            f"{what} needs shared memory, and {SHARED_MEMORY} does not give any ({error}); {mend}"
        ) from error
    memory.close()
    memory.unlink()
    place = os.statvfs(SHARED_MEMORY) if os.path.isdir(SHARED_MEMORY) else None
    # Memory that is not there is noticed only when it is written to, and then ends the process without a word.
    if place is not None and place.f_blocks and place.f_bavail * place.f_frsize < num_bytes:
        free = place.f_bavail * place.f_frsize
        raise UserError(f"{what} needs {num_bytes:,} bytes of shared memory, {SHARED_MEMORY} has {free:,} left; {mend}")


@contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Let the processes started meanwhile not hear Ctrl-C, which reaches all of a terminal: their parent ends them."""
    resource_tracker.ensure_running()  # the first child would start it, and thereby unblock the signal
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
