"""A run as read from its folder, and what is at hand of the store it was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backdrop.errors import UserError
from backdrop.stores.format.reader import Store
from backdrop.trainer.report.sources import find_beton, find_store
from backdrop.trainer.run import metrics_log, run_folder
from backdrop.trainer.settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, and what was found of its store."""

    folder: Path
    # What it is called on the page: "" where it is the only one.
    label: str
    settings: RunSettings
    provenance: dict[str, Any]
    # Recorded steps in order; of a long log a sample, see `sampled_metrics`.
    metrics: list[dict[str, Any]]
    has_every_step: bool
    beton: Path | None
    store: Store | None
    # Why .beton or store are missing; "" when both are there.
    missing: str

    @property
    def title(self) -> str:
        """Its label, or what it is."""
        return self.label or f"{self.settings.method}, background {self.settings.background.name}"

    @property
    def last_epoch(self) -> int:
        """Of the recorded steps; 0 before the first."""
        return int(self.metrics[-1].get("epoch", 0)) if self.metrics else 0

    def recorded(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps at which a metric was recorded and its values, float64 (N,) both."""
        pairs = [(record["step"], record[name]) for record in self.metrics if isinstance(record.get(name), int | float)]
        steps, values = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        return steps, values


def load(folder: Path, label: str = "") -> Run:
    """Read a run's folder and look for what it was trained on. Raises: UserError: the folder holds no run."""
    settings, provenance = run_folder.read_settings(folder), run_folder.read_run(folder)
    metrics, has_every_step = metrics_log.sampled_metrics(folder)
    beton, store, missing = None, None, ""
    try:
        beton = find_beton(folder, provenance)
        store = find_store(beton, provenance)
    except UserError as error:
        missing = str(error)
    return Run(
        folder=folder,
        label=label,
        settings=settings,
        provenance=provenance,
        metrics=metrics,
        has_every_step=has_every_step,
        beton=beton,
        store=store,
        missing=missing,
    )


def load_all(folders: Sequence[Path]) -> list[Run]:
    """Read several runs, called by the shortest end of their paths that tells them apart.

    Raises: UserError: a folder holds no run, or stands there twice.
    """
    absolute = [folder.absolute() for folder in folders]
    twice = [str(folder) for at, folder in enumerate(folders) if absolute[at] in absolute[:at]]
    if twice:
        raise UserError(f"{twice[0]} is given twice; name each run once")
    return [load(folder, label) for folder, label in zip(folders, labels(absolute), strict=True)]


def labels(folders: Sequence[Path]) -> list[str]:
    """Return for each of several different paths the shortest end that is its own; "" for a single one."""
    if len(folders) == 1:
        return [""]
    ends: list[str] = []
    for folder in folders:
        others = [other.parts for other in folders if other != folder]
        length = next(
            length
            for length in range(1, len(folder.parts) + 1)
            if all(other[-length:] != folder.parts[-length:] for other in others)
        )
        ends.append("/".join(folder.parts[-length:]))
    return ends
