"""Table 1 of Ryali et al. 2021: F and MAE of DeepUSPS2 on MSRA-B, ECSSD and DUT-OMRON, mean and error of several seeds.

Trained without labels on the train split of MSRA-B, scored on its test split and on the whole of the others, at squares
of 432 px, F at 0.5 for each image (beta^2 = 0.3). Trainings and scores that are there are not made again.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backdrop.data_folders import ROOT_VARIABLE, data_folder
from backdrop.durable_files import write_aside
from backdrop.errors import UserError
from backdrop.progress import note
from backdrop.saliency.detectors import open_detector
from backdrop.saliency.scoring.metrics import scored_images, summarise
from backdrop.stores.datasets import open_index
from backdrop.stores.indexes.dataset_index import DatasetIndex

SIZE_PX = 432
# A score, what it is called, and its factor: the paper's are in percent.
SCORES = {"f_beta": "f_fixed", "mae": "mae"}
# Folders of images and of true masks, as the sets are published and as `saliency ladder` has them.
_IMAGES, _MASKS = ("images", "DUT-OMRON-image"), ("masks", "ground_truth_mask", "pixelwiseGT-new-PNG")
# Training of one detector: seed to the run's folder.
Train = Callable[[int], Path]


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """A set to score on. name: as the table has it. index: its images. masks: folder of their true masks."""

    name: str
    index: DatasetIndex
    masks: Path


def test_sets() -> list[TestSet]:
    """Return the three sets of the table, below BACKDROP_DATA. Raises: UserError: one is not there."""
    root = _below_data("msra-b")
    found = [TestSet(name="MSRA-B", index=open_index("msra-b", root=root, split="test"), masks=root)]
    for name, folder in (("ECSSD", "ecssd"), ("DUT-OMRON", "dut-omron")):
        root = _below_data(folder)
        images, masks = (
            next((root / part for part in parts if (root / part).is_dir()), None) for parts in (_IMAGES, _MASKS)
        )
        if images is None or masks is None:
            raise UserError(f"{root} has no folder of images ({', '.join(_IMAGES)}) or of masks ({', '.join(_MASKS)})")
        found.append(TestSet(name=name, index=open_index("folder", root=images), masks=masks))
    return found


def _below_data(name: str) -> Path:
    folder = data_folder(name)
    if folder is None or not folder.is_dir():
        raise UserError(
            f"Table 1 scores on msra-b, ecssd and dut-omron below {ROOT_VARIABLE}, and {folder or name} is not there; "
            f"set {ROOT_VARIABLE} to the folder that holds the three"
        )
    return folder


def table_1(sets: Sequence[TestSet], out: Path, seeds: Sequence[int], train: Train) -> dict[str, Any]:
    """Train where it is to be done, score, and average.

    Args: sets: of `test_sets`. out: folder of the scores. seeds: of the trainings. train: trains one, or finds it
        finished, and returns its folder.
    Returns: seeds; for each set f_beta and mae in percent, each with mean, sem (None of one seed) and values.
    Raises: UserError: a training cannot be done, or a map is missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    values: dict[str, dict[str, list[float]]] = {one.name: {score: [] for score in SCORES} for one in sets}
    for seed in seeds:
        note(f"Table 1: seed {seed} ...")
        run = train(seed)
        for one in sets:
            scores = _scores(one, run, out / f"{one.name}-seed-{seed}.json")
            for score, name in SCORES.items():
                values[one.name][score].append(100 * scores[name])
    return {
        "seeds": list(seeds),
        "sets": {name: {score: _averaged(found) for score, found in of.items()} for name, of in values.items()},
    }


def _scores(one: TestSet, run: Path, file: Path) -> dict[str, Any]:
    """Scores of a detector on a set, computed now or kept from before; of the same detector and images."""
    detector = open_detector(str(run))
    identity = json.loads(json.dumps({"detector": detector.identity, "images": one.index.digest, "size_px": SIZE_PX}))
    if file.is_file() and (kept := json.loads(file.read_text()))["of"] == identity:
        return kept["scores"]
    found = [scored.scores for scored in scored_images(one.index, one.masks, detector, size_px=SIZE_PX)]
    scores = summarise(found)
    if scores["f_fixed"] is None:
        raise UserError(f"every true mask in {one.masks} is empty: there is no F")
    write_aside(file, json.dumps({"of": identity, "scores": scores}, indent=2) + "\n")
    return scores


def _averaged(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard error of the mean, and the values."""
    sem = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sem": sem, "values": list(values)}


def table(result: Mapping[str, Any]) -> str:
    """Return the result as lines of text, in percent: mean +- standard error."""
    lines = [f"{'set':<10} {'F':>14} {'MAE':>14}   of {len(result['seeds'])} seeds"]
    for name, scores in result["sets"].items():
        cells = [
            f"{found['mean']:.1f}" + ("" if found["sem"] is None else f" +- {found['sem']:.1f}")
            for found in scores.values()
        ]
        lines.append(f"{name:<10} {cells[0]:>14} {cells[1]:>14}")
    return "\n".join(lines)
