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
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

# Exit code of a child whose parent is gone: nobody asks for it.
ORPHANED = 1


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


@contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Let the processes started meanwhile not hear Ctrl-C, which reaches all of a terminal: their parent ends them."""
    resource_tracker.ensure_running()  # the first child would start it, and thereby unblock the signal
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
