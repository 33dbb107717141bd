"""The ladder of detectors: every detector on every set with true masks, measured once and kept.

A cell is one detector on one set; what is measured lies in a file of its own as soon as it is, so that the same call
goes on where an earlier one ended, and measures anew only what has changed: the detector's identity, its threshold,
the images or the true masks.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backdrop.data_folders import ROOT_VARIABLE, all_data
from backdrop.devices import num_cores
from backdrop.durable_files import write_aside
from backdrop.errors import UserError
from backdrop.progress import note
from backdrop.saliency.detector import Detector
from backdrop.saliency.detectors import open_detector
from backdrop.saliency.mask_folder import MaskFolder
from backdrop.saliency.scoring.metrics import scored_images, summarise
from backdrop.saliency.scoring.needs import needs_of
from backdrop.saliency.scoring.threshold_calibration import THRESHOLDS_T, iou_by_threshold
from backdrop.stores.datasets import open_index
from backdrop.stores.format.provenance import canonical_json

# Raised by every change that makes the same detector score otherwise on the same set.
CELL_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One detector on one set.

    needs: in words, see `needs_of`. scores: of `summarise`. iou: mean IoU of the masks cut at the threshold; None where
    every true mask is empty. images_per_s: one after the other in one process, with decoding and scoring; None = it was
    not kept. where: on what.
    """

    detector: str
    needs: str
    set_name: str
    num_images: int
    threshold: float
    scores: dict[str, Any]
    iou: float | None
    images_per_s: float | None
    where: str


def sets_with_masks(folders: Sequence[Path] = ()) -> list[Path]:
    """Return the sets to measure on.

    Args: folders: as a user named them, each with `images` and true `masks`; none = all of that kind below the folder
        of data sets.
    Raises: UserError: one is not of that kind, or there is none.
    """
    for folder in folders:
        if not _is_set(folder):
            raise UserError(f"{folder} does not hold images/ and masks/: give a folder with both")
    found = list(folders) or [folder for folder in all_data() if _is_set(folder)]
    if not found:
        raise UserError(
            "there is no set to measure on: give --on DIR, a folder with images/ and masks/, or lay some below the "
            f"folder that {ROOT_VARIABLE} names"
        )
    return found


def _is_set(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "masks").is_dir()


def measure_all(detectors: Sequence[str], sets: Sequence[Path], out: Path) -> list[Cell]:
    """Measure every detector on every set, set by set; what was measured before is read.

    Args: detectors: as `open_detector` takes them. sets: of `sets_with_masks`. out: folder for the cells.
    Raises: UserError: as `evaluate_folder`, or a cell's file is damaged.
    """
    opened = {name: open_detector(name) for name in detectors}
    out.mkdir(parents=True, exist_ok=True)
    return [_cell(name, detector, folder, out) for folder in sets for name, detector in opened.items()]


def _cell(name: str, detector: Detector, folder: Path, out: Path) -> Cell:
    index, masks = open_index("folder", root=folder / "images"), folder / "masks"
    decides = {
        "cell_version": CELL_VERSION,
        "detector": detector.identity,
        "threshold": detector.threshold.value,
        "images": index.digest,
        "masks": MaskFolder(masks).identity,
    }
    path = out / f"{hashlib.sha256(canonical_json(decides)).hexdigest()[:16]}.json"
    if path.is_file():
        return _read(path, name, folder.name)
    began = time.perf_counter()
    scores = [scored.scores for scored in scored_images(index, masks, detector)]
    images_per_s = len(index) / (time.perf_counter() - began)
    iou = None
    if any(score.curve is not None for score in scores):
        iou = float(iou_by_threshold(scores)[np.abs(THRESHOLDS_T - detector.threshold.value).argmin()])
    cell = Cell(
        detector=name,
        needs=needs_of(name),
        set_name=folder.name,
        num_images=len(index),
        threshold=detector.threshold.value,
        scores=summarise(scores),
        iou=iou,
        images_per_s=images_per_s,
        where=_where(detector),
    )
    write_aside(path, (json.dumps(asdict(cell), indent=2) + "\n").encode())
    note(f"ladder: {name} on {folder.name}: {images_per_s:.1f} images/s, in {path}")
    return cell


def _read(path: Path, name: str, set_name: str) -> Cell:
    """A cell, under the names that detector and set have now."""
    try:
        now = {"detector": name, "needs": needs_of(name), "set_name": set_name}
        return Cell(**{**json.loads(path.read_bytes()), **now})
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove it, and the same command measures it anew") from error


def _where(detector: Detector) -> str:
    import torch

    if detector.uses_gpu and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{num_cores()} cores, in one process"
