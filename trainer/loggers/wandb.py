"""Weights & Biases: a run named as the folder; its own variables say where to: WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY.

A run that goes on is the same one there; it takes no step a second time, so that the few steps since the last
checkpoint keep their first numbers.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backdrop.errors import UserError


def open(folder: Path, settings: Mapping[str, Any], first_step: int) -> "_Wandb":
    """Start or continue the run. Raises: UserError: the package is missing, or it cannot start a run."""
    try:
        import wandb
    except ImportError as error:
        raise UserError("--log wandb needs the package wandb: pip install 'backdrop-ssl[wandb]'") from error
    run_id = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:16]
    project = os.environ.get("WANDB_PROJECT", "backdrop")
    words = {"project": project, "name": folder.name, "id": run_id, "config": dict(settings), "dir": str(folder)}
    try:
        return _Wandb(wandb.init(**words, resume="allow"))
    except wandb.Error as error:
        raise UserError(
            f"wandb starts no run: {error}. Log in with 'wandb login', or set WANDB_MODE=offline and send it later "
            "with 'wandb sync'"
        ) from error


class _Wandb:
    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, values: Mapping[str, float], unix_time: float) -> None:
        """Add the numbers to the run's history."""
        self._run.log({**values, "_timestamp": unix_time}, step=step)

    def close(self) -> None:
        """Send or write what is left."""
        self._run.finish()
