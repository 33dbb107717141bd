"""A run folder of `saliency train` belongs to one training: the settings.json in it says which."""

import json
from pathlib import Path
from typing import Any

from backdrop.durable_files import write_aside
from backdrop.errors import UserError

SETTINGS_FILE = "settings.json"


def claim(run: Path, identity: dict[str, Any]) -> None:
    """Make the folder this training's.

    Args: run: made where it is absent. identity: JSON-able, all that decides the detector.
    Raises: UserError: it holds something else, or a training with other settings.
    """
    path = run / SETTINGS_FILE
    try:
        run.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            strangers = [entry.name for entry in run.iterdir() if not entry.name.startswith(".")]
            if strangers:
                raise UserError(f"{run} is not empty and holds no training ({strangers[0]}, ...): give another --out")
            write_aside(path, (json.dumps(identity, indent=2) + "\n").encode())
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{run} cannot be a run folder ({error}): give another --out") from error
    differences = _differences(found, identity)
    if differences:
        raise UserError(
            f"{run} holds a training with other settings: {'; '.join(differences)}. Give another --out, or the same "
            "settings to go on with it"
        )


def _differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    """What two JSON values disagree on, one line per leaf."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted(found.keys() | wanted.keys())
        lines = [_differences(found.get(key), wanted.get(key), f"{name}.{key}".lstrip(".")) for key in keys]
        return [line for group in lines for line in group]
    return [] if found == wanted else [f"{name} is {found} there, {wanted} now"]
