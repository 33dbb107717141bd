"""What each process does in `tests/trainer/test_shared_evaluations.py`, over gloo on the CPU, and one process alone.

torchrun --nproc-per-node N -m tests.material.shared_evaluations OUT [--dies] PART...: what each part finds goes to
OUT/PART-r.json.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from backdrop.errors import UserError
from backdrop.ranks import joined
from backdrop.trainer.downstream_settings import Schedule
from backdrop.trainer.evaluation.data.batches import image_bar
from backdrop.trainer.evaluation.data.images import ArrayImages, wnid_folders
from backdrop.trainer.evaluation.data.transforms import random_resized_crop, resized_to_square
from backdrop.trainer.evaluation.harness.subject import weights_digest
from backdrop.trainer.evaluation.limited_labels import finetune
from backdrop.trainer.evaluation.predictions import outputs
from backdrop.trainer.evaluation.probing import features, probe
from backdrop.trainer.evaluation.probing.features import FeatureFile, features_of
from backdrop.trainer.evaluation.probing.frozen_backbone import Probing, fit_head
from backdrop.trainer.parts import nearest_neighbours
from backdrop.trainer.parts.backbones import Backbone
from backdrop.trainer.parts.collectives import num_processes, rank
from tests.material.evaluation_fixtures import WNIDS, oracle, save_image

CPU = torch.device("cpu")
SCHEDULE = Schedule(epochs=3, batch_size=8, lr=2.0)


def images(num_images: int, seed: int) -> ArrayImages:
    """Pictures in memory, whose brightness tells their class, of three."""
    label_N = np.arange(num_images) % 3
    noise = np.random.default_rng(seed).integers(0, 60, (num_images, 12, 14, 3))
    return ArrayImages((noise + 70 * label_N[:, None, None, None]).astype(np.uint8), label_N)


def small_backbone() -> Backbone:
    """Two convolutions with BatchNorm."""
    torch.manual_seed(0)
    layers = {"conv": nn.Conv2d(3, 4, 3), "bn": nn.BatchNorm2d(4), "relu": nn.ReLU(), "end": nn.Conv2d(4, 5, 3)}
    return Backbone({**layers, "bn2": nn.BatchNorm2d(5)}, 5).eval()


def probing(folder: Path, **changes: Any) -> Probing:
    """A probe of 23 images in steps of 8, in passes of 3."""
    backbone = small_backbone()
    base = Probing(
        backbone=backbone,
        weights_sha256=weights_digest(backbone, None),
        name="probe",
        folder=folder,
        device=CPU,
        train=images(23, 1),
        val=images(17, 2),
        num_classes=3,
        val_transform=resized_to_square(10),
        transform_of_epoch=lambda epoch: random_resized_crop(10, seed=5, epoch=epoch),
        images_per_pass=3,
        cache_dtype="float32",
    )
    return replace(base, **changes)


def kept_outputs(out: Path) -> dict[str, Any]:
    """Answers for files of which one is damaged, in batches of two."""
    outputs.BATCH_SIZE = 2
    found = outputs.logits_of(oracle(out / "outputs"), wnid_folders(out / "set", ""), resized_to_square(28), name="set")
    return {"output": found.output_N.tolist(), "rows": found.rows_N.tolist(), "corrupt": found.corrupt}


def sets(out: Path) -> dict[str, Any]:
    """The best classes of many sets in one stream, of which the second one's are kept."""
    outputs.BATCH_SIZE = 2
    whole = wnid_folders(out / "set", "")
    rows_of = {"a": range(5), "b": range(3, 7), "c": [6], "d": range(7)}
    named = {name: outputs.NamedSet(name=name, images=whole.subset(rows, "")) for name, rows in rows_of.items()}
    found = {}
    for these in ("b", "abcd"):
        with image_bar(17, "sets") as bar:
            for each, of_set in outputs.top_of_sets(
                oracle(out / "sets"), (named[name] for name in these), resized_to_square(28), bar
            ):
                found[f"{each.name} of {these}"] = {"output": of_set.output_N.tolist(), "corrupt": of_set.corrupt}
    return found


def write_set(out: Path) -> None:
    """The files of `kept_outputs`."""
    for number in range(7):
        painted = np.random.default_rng(number).integers(0, 255, (30, 30, 3), dtype=np.uint8)
        save_image(out / "set" / WNIDS[number] / "a.png", painted)
    (out / "set" / WNIDS[4] / "a.png").write_bytes(b"no image")


def neighbours(out: Path) -> dict[str, Any]:
    """Kept features, and votes of neighbours, in chunks of four."""
    features.BATCH_SIZE, nearest_neighbours._TEST_CHUNK = 3, 4
    backbone = small_backbone()
    sets = {}
    for name, number in (("train", 19), ("val", 14)):
        these = images(number, number)
        found = features_of(
            lambda image_BCHW: nn.functional.normalize(backbone(image_BCHW)), these, resized_to_square(10),
            file=FeatureFile(folder=out / "features", name=name), identity=("small",), device=CPU,
        )  # fmt: skip
        sets[name] = nearest_neighbours.Features(
            feature_ND=torch.from_numpy(np.array(found.feature_ND)), label_N=torch.from_numpy(these.label_N), corrupt=()
        )
    tops = nearest_neighbours.top_accuracies(
        sets["train"], sets["val"], num_classes=3, k=(1, 5), temperature=0.07, is_shared=True
    )
    return {"tops": tops, "features": sets["val"].feature_ND.tolist()}


def _of_fit(fitted: Any, backbone: Backbone) -> dict[str, Any]:
    tensors = {**fitted.model.state_dict(), **{f"backbone.{name}": each for name, each in backbone.named_buffers()}}
    return {"history": fitted.history, "state": {name: each.tolist() for name, each in tensors.items()}}


def linear(out: Path) -> dict[str, Any]:
    """A classifier on fresh crops, BatchNorm as it was trained."""
    job = probing(out / "linear")
    return _of_fit(fit_head(job, SCHEDULE), job.backbone)


def adapted(out: Path) -> dict[str, Any]:
    """A classifier on fresh crops, BatchNorm's statistics following them."""
    job = probing(out / "adapted", bn_mode="adapt")
    return _of_fit(fit_head(job, SCHEDULE), job.backbone)


def cached(out: Path) -> dict[str, Any]:
    """A classifier on kept features."""
    transforms = tuple(random_resized_crop(10, seed=5, epoch=epoch) for epoch in range(2))
    job = probing(
        out / "cached", transform_of_epoch=None, cached_transforms=transforms,
        cached_transform_of=lambda epoch, rows: np.full(len(rows), epoch % 2),
    )  # fmt: skip
    return _of_fit(fit_head(job, SCHEDULE), job.backbone)


def finetuned(out: Path) -> dict[str, Any]:
    """Network and classifier together; the last step of an epoch has two images, which leaves a third process none."""
    job = probing(out / "finetuned", train=images(18, 1))
    schedule = replace(SCHEDULE, lr=0.05)
    fitted = finetune(job, schedule, head_lr=1.0, trunk_lr=0.1, seed=3, score_epochs=2)
    return _of_fit(fitted, job.backbone)


def dies_in_epoch_3() -> None:
    """Have the last process be gone at once, as by kill -9, where the third epoch of a fit begins."""
    one_epoch = probe._one_epoch

    def dying(*arguments: Any) -> float:
        if arguments[4] == 2 and rank() == num_processes() - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return one_epoch(*arguments)

    probe._one_epoch = dying


def diverged(out: Path) -> dict[str, Any]:
    """What is said where a network gives no numbers, of the second process's batch alone."""
    features.BATCH_SIZE = 3

    def forward(image_BCHW: torch.Tensor) -> torch.Tensor:
        means_B = image_BCHW.mean(dim=(1, 2, 3))
        return torch.where(means_B > 1, torch.nan, means_B)[:, None]

    dark_NHWC = np.zeros((6, 10, 10, 3), np.uint8)
    dark_NHWC[4] = 255
    try:
        features_of(
            forward, ArrayImages(dark_NHWC, np.zeros(6, np.int64)), resized_to_square(10),
            file=FeatureFile(folder=out / "diverged", name="dark"), identity=("",), device=CPU,
        )  # fmt: skip
    except UserError as error:
        return {"error": str(error)}
    return {}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    part.__name__: part for part in (kept_outputs, sets, neighbours, linear, adapted, cached, finetuned, diverged)
}


def main() -> None:
    """Do the parts asked for."""
    out, *parts = sys.argv[1:]
    torch.set_num_threads(1)
    if "--dies" in parts:
        parts.remove("--dies")
        dies_in_epoch_3()
    with joined("cpu", timeout=timedelta(seconds=60)) as ranks:
        for part in parts:
            (Path(out) / f"{part}-{ranks.rank}.json").write_text(json.dumps(PARTS[part](Path(out))))


if __name__ == "__main__":
    main()
