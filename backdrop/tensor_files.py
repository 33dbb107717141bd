"""Tensors in safetensors files, with texts in the header: there whole or not at all, read without running any code."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors
from safetensors.torch import save
from torch import Tensor

from backdrop.durable_files import write_aside
from backdrop.errors import UserError


def write_tensors(path: Path, tensors: Mapping[str, Tensor], texts: dict[str, str] | None = None) -> None:
    """Write a file, durably, in the place of what is there; its folder is made.

    Tensors and texts share a file because two files cannot be replaced in one step.

    Args:
        path: of the file.
        tensors: by name, on any device.
        texts: for the header, by name.

    Raises: OSError: the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Through memory, not with `save_file`: a full disk is then an OSError like any other, which says so to the user.
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, texts)
    write_aside(path, content)


def read_tensors(path: Path, next_step: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file.

    Args:
        path: of the file.
        next_step: what a user should do where it cannot be read.

    Returns: tensors on the CPU, and the texts of the header, by name.

    Raises: UserError: it is missing, damaged, or no safetensors file.
    """
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is no readable safetensors file ({error}); {next_step}") from error


def named_below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def named_bytes(tensors: Mapping[str, Tensor]) -> Iterator[tuple[bytes, bytes]]:
    """Yield what digests of weights are over, whatever file they came from.

    Args: tensors: any shapes and dtypes, on any device.
    Yields: of each, in the order of their names, (b"name dtype shape", its values).
    """
    for name in sorted(tensors):
        array = tensors[name].detach().cpu().contiguous().numpy()
        yield f"{name} {array.dtype.str} {array.shape}".encode(), array.tobytes()
