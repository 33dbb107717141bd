"""Settings in a file: a TOML file for `--config`, or the settings.json of a run.

    epochs = 100
    views.size_px = 96          # every view
    views.0.blur_probability = 1.0
    [optimiser]
    lr = 0.03

Each value is what `--set name=value` would give; `written_config` writes a file that says all of them.
"""

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from backdrop.bounded_files import read_bounded
from backdrop.errors import UserError
from backdrop.settings import leaves, written

# All settings with their sentences have some kilobytes.
MAX_CONFIG_BYTES = 1 << 20


def read_config(path: Path) -> dict[str, str]:
    """Return what a file sets: {"optimiser.lr": "0.03", ...}, as `overrides` takes it, in the file's order.

    Args:
        path: FILE.toml, or the settings.json of a run's folder.

    Raises:
        UserError: no such file, or it cannot be read as either.
    """
    read: Callable[[str], Any] = json.loads if path.suffix == ".json" else tomllib.loads
    try:
        data = read(read_bounded(path, MAX_CONFIG_BYTES).decode())
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}; --config takes a TOML file, or a run's settings.json") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if path.suffix == ".json" and isinstance(data, dict) and isinstance(data.get("settings"), dict):
        data = data["settings"]  # that of a detector's run says more of the run than its settings
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no settings; write lines like epochs = 100")
    try:
        return dict(_flat(data, "", path))
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, tables in tables
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read as settings: {error}")


def written_config(record: Any) -> str:
    """Return the text of a TOML file that sets every single setting of a record, each under its sentence.

    Args: record: a dataclass of settings.
    """
    lines = []
    for leaf in leaves(record):
        said = "; ".join([*([leaf.meaning] if leaf.meaning else []), *([str(leaf.allowed)] if leaf.allowed else [])])
        lines += [f"# {said}"] if said else []
        lines.append(f"{leaf.path} = {_toml(leaf.value)}")
    return "\n".join(lines) + "\n"


def save_config(record: Any, path: Path) -> None:
    """Write `written_config` to a file. Raises: UserError: it is there already, or cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(written_config(record))
    except FileExistsError as error:
        raise UserError(f"{path} is there already; remove it, or give --save-config another name") from error
    except OSError as error:
        raise UserError(f"--save-config {path} cannot be written: {error.strerror}") from error


def _flat(data: Any, prefix: str, path: Path) -> Iterator[tuple[str, str]]:
    """Every value below a table by its path, tables in a list by their number."""
    is_list_of_tables = isinstance(data, list) and bool(data) and isinstance(data[0], dict)
    if isinstance(data, dict) or is_list_of_tables:
        for name, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _flat(value, f"{prefix}.{name}".lstrip("."), path)
        return
    parts = data if isinstance(data, list) else [data]
    if not all(part is None or isinstance(part, str | int | float) for part in parts):
        raise UserError(f"{path}: {prefix} is neither a number, a text, true or false, nor a list of them")
    yield prefix, written(data)


def _toml(value: Any) -> str:
    """A value in TOML, which has no None: there it is the text that `overrides` reads as such."""
    text = json.dumps("none" if value is None else value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")  # the one character that JSON leaves and TOML wants escaped
