"""TensorBoard: RUN/tensorboard; curves are drawn anew from the step on from which a run goes on."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def open(folder: Path, settings: Mapping[str, Any], first_step: int) -> "_TensorBoard":
    """Open the run's event file."""
    return _TensorBoard(folder, first_step)


class _TensorBoard:
    def __init__(self, folder: Path, first_step: int) -> None:
        with warnings.catch_warnings():
            # TensorBoard's import warns about its own dependencies.
            warnings.simplefilter("ignore")
            from torch.utils.tensorboard import SummaryWriter
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def log(self, step: int, values: Mapping[str, float], unix_time: float) -> None:
        """Add a point to every curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, walltime=unix_time)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
