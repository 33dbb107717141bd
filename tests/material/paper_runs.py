"""Runs of rows of the papers' tables, as their folders would say them; nothing is trained."""

from pathlib import Path

import torch

from backdrop.tensor_files import write_tensors
from backdrop.trainer.paper_tables.matching import NUM_IMAGES, TrainedRun
from backdrop.trainer.paper_tables.records import Training
from backdrop.trainer.run.checkpoint import BACKBONE_FILE
from backdrop.trainer.run.trained_store import TrainedStore
from backdrop.trainer.settings import RunSettings

_SIDE_PX = {"imagenet": 512, "coco": 640}


def store_of(training: Training) -> TrainedStore:
    """The store that a row states: masks of U2Net come from a folder."""
    return TrainedStore(
        dataset=training.data,
        num_rows=NUM_IMAGES[training.data],
        max_side_px=_SIDE_PX[training.data],
        detector={"u2net": "masks", "": "rbd"}.get(training.masks, "deepusps"),
        threshold=training.threshold,
    )


def run_of(training: Training, settings: RunSettings | None = None) -> TrainedRun:
    """A finished run with exactly a row's settings, or others, on the row's store."""
    return TrainedRun(
        settings=settings or training.resolved(),
        store=store_of(training),
        masks=training.masks if training.masks == "u2net" else "",
        start_from=run_of(training.start_from) if training.start_from else None,
    )


def finish(folder: Path, epochs: int) -> None:
    """Leave what a run leaves that came to its end; its weights are none."""
    write_tensors(folder / BACKBONE_FILE, {"none": torch.zeros(1)}, {"epochs": str(epochs)})
