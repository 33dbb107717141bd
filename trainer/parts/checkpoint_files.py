"""Where a run's checkpoints lie: `RUN/checkpoints/step-<steps done>.safetensors`."""

import re
from pathlib import Path

_NAME = re.compile(r"step-(\d{8})\.safetensors")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the file of a run's checkpoint. Args: folder: the run's. step: steps done."""
    return folder / "checkpoints" / f"step-{step:08d}.safetensors"


def latest(folder: Path) -> Path | None:
    """Return the run's latest checkpoint, None before the first."""
    files = checkpoints(folder)
    return files[-1] if files else None


def step_of(path: Path) -> int:
    """Return how many steps were done when a checkpoint was written."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def checkpoints(folder: Path) -> list[Path]:
    """Return a run's checkpoints, the earliest first."""
    return sorted(path for path in (folder / "checkpoints").glob("step-*.safetensors") if _NAME.fullmatch(path.name))
