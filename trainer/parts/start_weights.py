"""Weights of another run to start from, as retraining a classifier and fine-tuning do."""

from collections.abc import Sequence
from pathlib import Path

import safetensors
from torch import nn

from backdrop.errors import UserError
from backdrop.trainer.parts import checkpoint_files


def load_parts(run: Path, method: nn.Module, parts: Sequence[str]) -> None:
    """Fill some of a method's modules from a run's latest checkpoint, parameters and buffers.

    Args: run: the run's folder. method: holds modules under the same names. parts: their names.
    Raises: UserError: no checkpoint, a damaged one, or one whose modules are of other kinds or sizes.
    """
    path = checkpoint_files.latest(run)
    if path is None:
        raise UserError(f"{run} is no folder of a run with a checkpoint; give one of a finished run of pretrain")
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            for part in parts:
                prefix = f"method.{part}."
                names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
                tensors = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
                method.get_submodule(part).load_state_dict(tensors)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is no readable safetensors file ({error})") from error
    except RuntimeError as error:
        raise UserError(f"{', '.join(parts)} of {path} do not fit this run's settings: {error}") from error
