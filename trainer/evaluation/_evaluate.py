"""Score a run or a weights file with one evaluation, and keep the scores where they belong."""

import copy
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stores.errors import UserError
from trainer import evaluation
from trainer.evaluation.knn import CORRUPT_IMAGE
from trainer.parts.backbones import Backbone
from trainer.run import checkpoint, run_folder

UNTRAINED = "-untrained"


def evaluate_run(task: str, run_or_weights: Path, data: str | Path, json_path: Path | None = None) -> dict[str, Any]:
    """Score a trained backbone and, beside it, an untrained one of the same kind.

    A run's scores also go into its results.csv (the untrained backbone's as `<task>-untrained`) and `<task>.json`.

    Args:
        task: a file of trainer/evaluation.
        run_or_weights: a run's folder, or a .safetensors file of `checkpoint.save_backbone`.
        data: a folder that holds train/ and val/, or "sample".
        json_path: where the summary is written too.
    Returns: the summary: task, data, image size, `scores` and `untrained` as {metric: value}, corrupt images by name.
    Raises: UserError: unknown task, no such run, data of another layout.
    """
    if task not in evaluation.NAMES:
        raise UserError(f"There is no evaluation {task!r}. Choose one of: {', '.join(evaluation.NAMES)}.")
    is_run = Path(run_or_weights).is_dir()
    backbone = checkpoint.load_backbone(Path(run_or_weights))
    given: dict[str, Any] = {"device": "cuda" if torch.cuda.is_available() else "cpu"}
    if is_run:
        # Features are at home at the resolution they were learned at.
        given["image_size"] = run_folder.read_settings(Path(run_or_weights)).views[0].size_px
    run = import_module(f"trainer.evaluation.{task}").run
    scores = run(backbone.to(given["device"]), data, **given)
    untrained = run(_untrained_like(backbone).to(given["device"]), data, **given)
    summary = {
        "evaluation": task,
        "backbone": str(run_or_weights),
        "data": str(data if str(data) == "sample" else Path(data).absolute()),
        "settings": given,
        "scores": dict(_without_names(scores)),
        "untrained": dict(_without_names(untrained)),
        "corrupt_images": [metric.removeprefix(CORRUPT_IMAGE) for metric, _ in scores if _is_name(metric)],
    }
    if is_run:
        folder = Path(run_or_weights)
        run_folder.add_results(folder, task, _without_names(scores))
        run_folder.add_results(folder, task + UNTRAINED, _without_names(untrained))
        run_folder.write_json(folder / f"{task}.json", summary)
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        run_folder.write_json(json_path, summary)
    return summary


def _untrained_like(backbone: Backbone) -> Backbone:
    """Return a copy whose weights are drawn anew, as `build_backbone` draws them; always the same ones."""
    untrained = copy.deepcopy(backbone)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in untrained.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
    return untrained


def _is_name(metric: str) -> bool:
    return metric.startswith(CORRUPT_IMAGE)


def _without_names(scores: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """File names are no metrics: they stay out of results.csv, which any program may read."""
    return [(metric, value) for metric, value in scores if not _is_name(metric)]
