"""Where a run goes unless it is told; apart, for those who ask without importing torch."""

from pathlib import Path

from backdrop.data_folders import ARTIFACTS
from backdrop.progress import note_default


def default_run(method: str, background: str, with_cast: bool) -> Path:
    """Return the folder of a run that was given none, and say so.

    Args: method: a file of trainer/methods. background: a file of pipeline/views/backgrounds. with_cast: add CAST.
    """
    folder = ARTIFACTS / f"{method}{'-cast' if with_cast else ''}-{background}"
    note_default("run", folder, "the default of --out")
    return folder
