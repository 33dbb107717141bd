"""One cell with one seed: trained, scored, one row."""

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from backdrop.pipeline.beton.beton_of_store import StoreSource
from backdrop.stores.datasets import open_index
from backdrop.stores.drawn_sample import background_variants
from backdrop.trainer.evaluation import knn
from backdrop.trainer.evaluation.data.images import Images
from backdrop.trainer.evaluation.data.transforms import as_published, standard
from backdrop.trainer.evaluation.harness.evaluate import evaluate_run
from backdrop.trainer.evaluation.harness.subject import weights_digest
from backdrop.trainer.evaluation.probing.features import FeatureFile
from backdrop.trainer.parts import nearest_neighbours
from backdrop.trainer.run import checkpoint
from backdrop.trainer.run.loop import RunRequest, pretrain
from backdrop.trainer.run.metrics_log import read_metrics
from backdrop.trainer.run.run_folder import read_run, read_settings
from tests.study.cells import RECIPE, SIZE_PX, Cell
from tests.study.data import store_path

# Inverse strength of the L2 penalty of the linear classifier, on unit-length features.
_LINEAR_C = 10.0
# Steps at the start that are left out of the speed: kernels are compiled in them.
_WARMUP_STEPS = 5


def timed_trial(cell: Cell, seed: int, root: Path, folder: Path) -> dict[str, Any]:
    """Return the row of `run_trial` with its seconds, computed by one thread: runs side by side take less time."""
    torch.set_num_threads(1)
    begun = time.perf_counter()
    row = run_trial(cell, seed, root, folder)
    return row | {"seconds": round(time.perf_counter() - begun, 1)}


def run_trial(cell: Cell, seed: int, root: Path, folder: Path) -> dict[str, Any]:
    """Train and score one cell.

    Args: root: the data set's folder, see `data.prepared`. folder: where runs are kept; a killed run goes on from its
        latest checkpoint. Returns: a row of study.csv but for what it ran on.
    """
    out = folder / f"{cell.data}-{cell.name}-{cell.size_px}-{cell.masks}-{seed}".replace(" ", "_")
    pretrain(
        RunRequest(
            method=cell.method,
            background=cell.background,
            recipe=RECIPE,
            overrides=(*cell.settings, f"seed={seed}"),
        ),
        StoreSource(store=store_path(root, cell.masks)),
        out=out,
        resume=True,
    )
    scores = scores_of(out, root)
    row = {
        "data": cell.data,
        "training": cell.name,
        "px": cell.size_px,
        "masks": cell.masks,
        "seed": seed,
        "recipe": RECIPE,
        "commit": read_run(out)["commit"],
        "store_id": read_run(out)["store_id"],
        **{name: round(value, 3) for name, value in scores.items()},
        "steps_per_s": round(_steps_per_s(out), 3),
    }
    shutil.rmtree(out)
    return row


def scores_of(run: Path, root: Path) -> dict[str, float]:
    """Return kNN and linear accuracies on val and its variants, the background gaps, and the grounding IoU."""
    backbone, size_px = checkpoint.load_backbone(run), read_settings(run).views[0].size_px
    features = _features(backbone.eval(), root, size_px, run)
    train, tests = features.pop("train"), features
    num_classes = int(train.label_N.max()) + 1
    scores = {}
    for name, test in tests.items():
        scores[f"knn_{name}"] = nearest_neighbours.top_accuracies(
            train, test, num_classes=num_classes, k=(20,), temperature=0.07
        )[0][0]
    classifier = LogisticRegression(C=_LINEAR_C, max_iter=2000).fit(_array(train), train.label_N.numpy())
    for name, test in tests.items():
        scores[f"linear_{name}"] = 100.0 * classifier.score(_array(test), test.label_N.numpy())
    for kind in ("knn", "linear"):
        scores[f"{kind}_bg_gap"] = scores[f"{kind}_mixed_same"] - scores[f"{kind}_mixed_rand"]
    if size_px <= SIZE_PX:  # a map of one cell points nowhere
        return scores
    store = store_path(root, "true", "val")
    grounding = evaluate_run("grounding", run, root / "val", overrides=[f"store={store}"])
    return scores | {"grounding_iou": 100.0 * grounding["scores"]["mean_iou"]}


def _features(backbone: nn.Module, root: Path, size_px: int, folder: Path) -> dict[str, nearest_neighbours.Features]:
    """Unit-length features of train, val and the variants."""
    places = {"train": root / "train", "val": root / "val"}
    places |= {name: root / "variants" / name for name in background_variants.NAMES}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    digest = weights_digest(backbone, None)
    found = {}
    for name, place in places.items():
        index = open_index("folder", root=place)
        found[name] = knn.extract(
            backbone.to(device),
            Images(index.root, tuple(index.keys), index.labels),
            as_published(size_px) if name in background_variants.NAMES else standard(size_px),
            file=FeatureFile(folder=folder / "features", name=f"knn-{name}", dtype="float32"),
            weights_sha256=digest,
            device=device,
        )
    return found


def _array(features: nearest_neighbours.Features) -> np.ndarray:
    return features.chunk(0, len(features), "cpu").numpy()


def _steps_per_s(run: Path) -> float:
    """Steps per second of the training, device stage and loader included, evaluations not."""
    lines = read_metrics(run)[_WARMUP_STEPS:]
    batch_size = read_settings(run).batch_size
    return float(np.median([line["images_per_s"] for line in lines])) / batch_size
