"""What a training of DeepUSPS2, or FOUND, has written about itself: the loss of every epoch, the scores of a phase."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backdrop.errors import UserError
from backdrop.saliency.trained_detector.run_layout import run_and_ending

LOG_FILE = "training.jsonl"
VALIDATION_FILE = "validation.jsonl"
# What a training of FOUND's head has in place of a stage; it has no methods and no rounds.
FOUND_STAGE = "found"


@dataclass(frozen=True, kw_only=True)
class TrainingLog:
    """A run folder of `saliency train`, finished or not.

    epochs: per epoch, in order: stage, method (None in stage 2), round, epoch, loss, learning_rate.
    scores: per scored phase, in order: phase (its title) and the scores of `saliency.scoring.metrics.summarise`.
    """

    run: Path
    epochs: Sequence[dict[str, Any]]
    scores: Sequence[dict[str, Any]]

    @property
    def is_of_found(self) -> bool:
        """Whether it is FOUND's; its epochs are the steps between two states."""
        return any(record["stage"] == FOUND_STAGE for record in self.epochs)


def run_of(detector: str) -> Path | None:
    """The run folder that a detector's name means, None where it is no training's.

    Args:
        detector: as `open_detector` takes it.
    """
    run, _ = run_and_ending(detector)
    return run if (run / LOG_FILE).is_file() else None


def read_training_log(run: Path) -> TrainingLog:
    """Read what a training has written so far.

    Args:
        run: its folder.

    Raises:
        UserError: no epoch is finished yet, or a file is damaged.
    """
    if not (run / LOG_FILE).is_file():
        raise UserError(f"{run} has no {LOG_FILE}: give a folder of `saliency train` that has finished an epoch")
    return TrainingLog(run=run, epochs=_records(run / LOG_FILE), scores=_records(run / VALIDATION_FILE))


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    except ValueError as error:
        raise UserError(f"{path} holds a line that is no JSON ({error}): it was changed by hand or damaged") from error
