"""Where a detector's training stands: one safetensors file, progress in its header."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backdrop.errors import UserError
from backdrop.tensor_files import named_below, read_tensors, write_tensors

FILE = "state.safetensors"
_BEGIN_AGAIN = "remove it to begin the training again; the classical maps are kept"


@dataclass(kw_only=True)
class Progress:
    """What has been done."""

    phase: int = 0
    # number of the phase in progress
    num_epochs: int = 0
    # finished in that phase
    log: list[dict[str, Any]] = field(default_factory=list)
    # one record per finished epoch of all phases


def save_state(run: Path, progress: Progress, tensors: dict[str, Tensor]) -> None:
    """Replace the state of a run.

    Args:
        run: the run folder.
        progress: what has been done.
        tensors: of `training_tensors`, or none between two phases.
    """
    write_tensors(run / FILE, tensors, {"progress": json.dumps(asdict(progress))})


def load_state(run: Path) -> tuple[Progress, dict[str, Tensor]]:
    """The state of a run; a fresh one where nothing was saved yet.

    Args:
        run: the run folder.

    Raises:
        UserError: the file is damaged.
    """
    if not (run / FILE).is_file():
        return Progress(), {}
    tensors, texts = read_tensors(run / FILE, _BEGIN_AGAIN)
    try:
        return Progress(**json.loads(texts["progress"])), tensors
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run / FILE} is no state of a detector's training ({error}); {_BEGIN_AGAIN}") from error


def training_tensors(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights, buffers and optimiser state under flat names.

    Args:
        model: being trained.
        optimiser: of its parameters.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, entries in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": tensor for name, tensor in entries.items()}
    return tensors


def restore(model: nn.Module, optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put `training_tensors` back.

    Args:
        model: of the same architecture.
        optimiser: fresh, of its parameters.
        tensors: as `training_tensors` gave them.
    """
    model.load_state_dict(named_below(tensors, "model."))
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in named_below(tensors, "optimiser.").items():
        number, entry = name.split(".", 1)
        state.setdefault(int(number), {})[entry] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
