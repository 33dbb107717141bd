"""What the papers' tables say of the training of each row, and what a run's settings say of the same.

`tables.csv` of the reference facts has one number a line; its column `setting` names what a row states, split by "; ".
"""

import csv
from pathlib import Path
from typing import Any

from backdrop.trainer import cast
from backdrop.trainer.settings import RunSettings

TABLES = Path(__file__).resolve().parents[3] / "shared" / "reference" / "tables.csv"
# Of a row that says nothing of it: the paper's own defaults.
_DEFAULTS = {
    "p_pos": 0.0, "p_neg": 0.0, "FG_min": 0.0, "applies_to": "global", "order": "after", "negatives": 1.0,
    "matches": "query", "negative": "independent", "mlp": "2048/128", "crop boundary s": 0.14, "warm-up": 0.0,
    "mask rotation": 0.0, "mask shear": 0.0, "mask translation": 0.0, "mask flip probability": 0.0, "mask": "saliency",
    "crop": "random",
    "phi": 0.0, "lambda": 0.0, "head": "linear", "region": "query",
}  # fmt: skip
_WORDS = {
    "query only": ("applies_to", "query"), "key only": ("applies_to", "key"), "order=before": ("order", "before"),
    "negative matches key": ("matches", "key"), "negative coupled": ("negative", "coupled"),
    "bounding-box mask": ("mask", "box"),
    "centre crop": ("crop", "centre"), "mlp head": ("head", "mlp"), "intersection": ("region", "intersection"),
}  # fmt: skip
# Of scoring, of what follows a training, or said by the method's recipe.
_NOT_OF_TRAINING = ("linear ", "fine-tuned ", "w/", "retrain", "finetune", "backbone=")
_OF_RYALI = tuple(name for name in _DEFAULTS if name not in ("phi", "lambda", "head", "region"))
_OF_CAST = ("phi", "lambda", "head", "region")


def all_lines() -> list[dict[str, str]]:
    """Return every line of the reference facts."""
    with TABLES.open(newline="") as file:
        return list(csv.DictReader(file))


def rows(paper: str, table: str) -> list[dict[str, str]]:
    """Return the lines of a table whose row is trained, and can be: no published ones."""
    return [
        row
        for row in all_lines()
        if (row["paper"], row["table"]) == (paper, table)
        and row["background"]
        and row["method"] not in ("", "none")
        and not (paper == "cast" and row["method"] == "supervised" and row["pretrain_data"] != "coco")
        and "published" not in row["setting"]
    ]


def stated(row: dict[str, str]) -> dict[str, Any]:
    """Return what a line says of its training, by name; what it is silent on is the paper's default."""
    found = dict(_DEFAULTS)
    for item in filter(None, row["setting"].split("; ")):
        if item.startswith(_NOT_OF_TRAINING):
            continue
        name, _, value = item.partition("=")
        if item in _WORDS:
            name, value = _WORDS[item]
            found[name] = value
        elif name == "mlp":
            found[name] = value
        else:
            assert name in found, item
            number = float(value.removesuffix("%").split()[0])
            found[name] = number / 100 if value.endswith("%") else number
    if row["paper"] == "ryali" and row["method"] == "rotnet":
        found["order"] = "before"
    names = _OF_CAST if row["paper"] == "cast" else _OF_RYALI
    epochs = {} if row["paper"] == "cast" else {"epochs": float(row["epochs"] or 0)}
    return {"method": row["method"], "background": row["background"]} | epochs | {name: found[name] for name in names}


def of_run(paper: str, settings: RunSettings) -> dict[str, Any]:
    """Return what a run's settings say of the same names."""
    if paper == "cast":
        is_on = cast.in_use(settings.cast) is not None
        return {
            "method": "cast" if is_on else settings.method.replace("cast", "moco"),
            "background": settings.background.name,
            "phi": max(view.min_foreground for view in settings.views),
            "lambda": settings.cast.weight if settings.cast else 0.0,
            "head": getattr(settings.algorithm, "head", "linear"),
            "region": settings.cast.region if settings.cast else "query",
        }
    background, mask = settings.background, settings.background.mask
    is_swav = settings.method == "swav"
    widths = f"{settings.algorithm.hidden_dim}/{settings.algorithm.embedding_dim}" if is_swav else "2048/128"
    has_negative = background.name == "swaps"
    return {
        "method": settings.method,
        "background": background.name,
        "epochs": float(settings.epochs),
        "p_pos": background.probability,
        "p_neg": background.negative_probability if has_negative else 0.0,
        "FG_min": max(view.min_foreground for view in settings.views),
        "applies_to": background.applies_to,
        "order": background.order,
        "negatives": float(background.num_negatives),
        "matches": background.negative_matches,
        "negative": background.negative_draw,
        "mlp": widths,
        "crop boundary s": settings.views[0].scale[0] if is_swav else 0.14,
        "warm-up": float(background.warmup_epochs),
        "mask rotation": mask.max_rotation_degrees,
        "mask shear": mask.max_shear_degrees,
        "mask translation": mask.max_shift_fraction,
        "mask flip probability": mask.flip_probability,
        "mask": "box" if mask.is_box else "saliency",
        "crop": "centre" if settings.views[0].is_centre_crop else "random",
    }
