"""What a method's file states where it has nothing of its own to check: `check_labels = any_labels`."""

import numpy as np

from backdrop.errors import UserError


def any_labels(settings: object, label_N: np.ndarray) -> None:
    """Accept every store: the method learns from no labels."""


def whole_batch_only(settings: object, part_size: int, num_processes: int) -> None:
    """Refuse to take a step in parts. Raises: UserError always."""
    raise UserError(
        "accumulation_steps is above 1: a step of this method taken in parts is not the step of the whole batch, which "
        "its BatchNorms or codes are computed over; set accumulation_steps=1 with a smaller batch_size, or start more "
        "processes with torchrun"
    )


def check_several(batch_size: int, method: str) -> None:
    """Raise UserError where a step has one image of a process: BatchNorm has nothing to normalise over.

    Args: batch_size: images a step of one process. method: whose, for the message.
    """
    if batch_size < 2:
        raise UserError(
            f"batch_size={batch_size}: {method} normalises over the images of a step, on each process; give 2 or more"
        )
