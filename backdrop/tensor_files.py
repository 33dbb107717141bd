"""Tensors in files: our own safetensors, whole or not at all, and what others published; read without running code."""

import hashlib
import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors
import torch
from torch import Tensor

from backdrop.durable_files import written_aside
from backdrop.errors import UserError

# The format's names of types, and its order of them in a file, the highest first.
_DTYPES = {
    torch.bool: (0, "BOOL"),
    torch.uint8: (1, "U8"),
    torch.int8: (2, "I8"),
    torch.int16: (3, "I16"),
    torch.float16: (4, "F16"),
    torch.bfloat16: (5, "BF16"),
    torch.int32: (6, "I32"),
    torch.float32: (7, "F32"),
    torch.float64: (8, "F64"),
    torch.int64: (9, "I64"),
}
# Where release files keep the weights; of a teacher and its student the teacher is what is published, a decoder is
# FOUND's head.
_CONTAINERS = ("state_dict", "model", "model_state_dict", "teacher", "student", "decoder")


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
    # Tensor by tensor, and not by safetensors: its `save` holds all of them twice more, and with its `save_file` a full
    # disk is no OSError like any other, which says so to the user.
    names = sorted(tensors, key=lambda name: (-_DTYPES[tensors[name].dtype][0], name))
    with written_aside(path) as aside, aside.open("wb") as file:
        file.write(_header(tensors, names, texts))
        for name in names:
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)


def _header(tensors: Mapping[str, Tensor], names: Sequence[str], texts: dict[str, str] | None) -> bytes:
    """What a safetensors file begins with: its length as 8 bytes, and where each tensor lies, as JSON."""
    entries: dict[str, Any] = {} if texts is None else {"__metadata__": texts}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        kind = _DTYPES[tensor.dtype][1]
        entries[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


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


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Digest of named tensors, the same however a file lays them out.

    Args:
        tensors: any shapes and dtypes.
    """
    digest = hashlib.sha256()
    for what, values in named_bytes(tensors):
        digest.update(what + b"\n")
        digest.update(values)
    return digest.hexdigest()


def read_published(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read a file of weights that others published: safetensors, or .pt and .pth with `weights_only=True`.

    Args: path: of the file.
    Returns: tensors on the CPU, by the file's names; the entry that they lay in (`model`), "" = none.
    Raises: UserError: it cannot be read, or holds more than tensors.
    """
    container = ""
    with readable(path):
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt", device="cpu") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, container  # noqa: SIM118
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kinds of files and tensors that are refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    for name in _CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content, container = content[name], name
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no dictionary of tensors")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        _check_tensor(path, name, tensor)
    return tensors, container


def _check_archive(path: Path) -> None:
    """Refuse an archive that would be more than the file when it is read: torch compresses none of its own."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        num_bytes = sum(member.file_size for member in archive.infolist())
    if num_bytes > path.stat().st_size:
        raise ValueError(f"it is an archive of {num_bytes:,} bytes in {path.stat().st_size:,}, not one of torch's.")


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse a tensor whose values are not all in the file: one would become a trillion as soon as it is copied."""
    is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not is_plain or tensor.dtype not in _DTYPES:
        kind = f"{str(tensor.dtype).removeprefix('torch.')}, {str(tensor.layout).removeprefix('torch.')}"
        raise UserError(f"{path}: its {name} is {kind}, on {tensor.device}. Allowed are plain tensors of real numbers")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UserError(
            f"{path}: its {name} is {tuple(tensor.shape)}, of which the file has {tensor.untyped_storage().nbytes():,} "
            "bytes. Save it whole: tensor.clone()"
        )


def what_does_not_fit(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Return in words which tensors a network lacks, has no place for, or has in another shape; "" where all fit.

    Args: wanted: the network's, which need no values (`torch.device("meta")`). given: a file's.
    """
    missing, foreign = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    other = [name for name in sorted(wanted.keys() & given.keys()) if wanted[name].shape != given[name].shape]
    said = [f"it lacks {missing[0]}"] if missing else []
    said += [f"{foreign[0]} is no part of one"] if foreign else []
    said += [f"{other[0]} is {tuple(given[other[0]].shape)}, not {tuple(wanted[other[0]].shape)}"] if other else []
    return " and ".join(said)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what the readers of tensors raise into one message. Raises: UserError: the file cannot be read."""
    try:
        yield
    except (
        safetensors.SafetensorError,
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        EOFError,
        UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        # Torch's own words would have the user allow code to run.
        is_no_tensors = isinstance(error, UnpicklingError)
        words = "it holds other things than tensors." if is_no_tensors else str(error).strip()
        reason = words.splitlines()[0] if words else "it is empty or cut off."
        raise UserError(
            f"{path} cannot be read as weights: {reason} Allowed: safetensors, or .pt and "
            ".pth files that hold tensors and nothing else (code in them is never run)."
        ) from error
