"""A run's networks as its latest checkpoint left them, or before its first step: backbone, heads and key network."""

from pathlib import Path

import torch

from backdrop.errors import UserError
from backdrop.trainer.parts import checkpoint_files
from backdrop.trainer.parts.pretraining_method import PretrainingMethod
from backdrop.trainer.run import checkpoint
from backdrop.trainer.run.run_folder import read_settings
from backdrop.trainer.run.training import start


def trained_method(run: Path, device: torch.device) -> PretrainingMethod:
    """Return a run's method with the weights of its latest checkpoint, in evaluation mode.

    Args: run: the run's folder. device: where it is wanted.
    Raises: UserError: there is no checkpoint, or it is damaged.
    """
    training = start(read_settings(run), steps_per_epoch=1, device=device)
    last = checkpoint_files.latest(run)
    if last is None:
        raise UserError(f"run {run} has no checkpoint yet; train it first")
    # How many processes trained it decides how it goes on, not what it has become.
    checkpoint.load(last, training.method, training.optimiser, processes_may_change=True)
    return training.method.eval()


def untrained_method(run: Path, device: torch.device) -> PretrainingMethod:
    """Return a run's method as it stood before its first step, in evaluation mode; arguments as above."""
    return start(read_settings(run), steps_per_epoch=1, device=device).method.eval()
