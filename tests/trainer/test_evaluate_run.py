"""Scoring a run: what lands in the summary, in results.csv and beside it."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backdrop.errors import UserError
from backdrop.pipeline.views.view_plan import Background, View
from backdrop.trainer.backbones import build_backbone
from backdrop.trainer.evaluation.harness.evaluate import evaluate_run
from backdrop.trainer.run import checkpoint


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, num_images in (("train", 4), ("val", 2)):
        for name, colour in (("dark", 40), ("light", 200)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(num_images):
                noise = rng.integers(-30, 30, (40, 48, 3))
                Image.fromarray((colour + noise).astype(np.uint8)).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        backbone = build_backbone("resnet18", cifar_stem=False)
    return checkpoint.save_backbone(tmp_path_factory.mktemp("weights"), backbone, name="resnet18", cifar_stem=False)


def test_weights_are_scored_beside_an_untrained_backbone(data: Path, weights: Path, tmp_path: Path) -> None:
    summary = evaluate_run("knn", weights, data, json_path=tmp_path / "scores" / "knn.json")
    assert json.loads((tmp_path / "scores" / "knn.json").read_text()) == summary
    assert summary["scores"].keys() == summary["untrained"].keys() == {"top1", "k200_top1", "corrupt_images"}
    assert not (weights.parent / "results.csv").exists()


def test_corrupt_images_are_named(data: Path, weights: Path) -> None:
    broken = data / "val" / "dark" / "broken, with a comma.jpg"
    broken.write_bytes(b"no image")
    summary = evaluate_run("knn", weights, data)
    broken.unlink()
    assert summary["scores"]["corrupt_images"] == 1.0
    assert summary["problems"] == ["val/dark/broken, with a comma.jpg cannot be decoded"]


def test_a_runs_scores_go_into_its_folder(
    data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_json = {"recipe": "smoke", "seed": 3, "commit": "abc", "store_id": "def"}
    (tmp_path / "run.json").write_text(json.dumps(run_json))

    class Settings:
        method = "moco"
        views = (View(size_px=24),)
        background = Background()

    monkeypatch.setattr("backdrop.trainer.run.run_folder.read_settings", lambda folder: Settings)
    backbone = checkpoint.load_backbone(weights)
    monkeypatch.setattr(checkpoint, "load_backbone", lambda path: backbone)
    summary = evaluate_run("knn", tmp_path, data)
    evaluate_run("knn", tmp_path, data)  # a second time replaces the rows
    assert summary["facts"]["image_size"] == 24
    assert json.loads((tmp_path / "knn.json").read_text()) == summary
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert [(row["evaluation"], row["metric"]) for row in rows] == [
        (evaluation, metric)
        for evaluation in ("knn", "knn-untrained")
        for metric in ("top1", "k200_top1", "corrupt_images")
    ]
    assert {tuple(row[name] for name in run_json) for row in rows} == {("smoke", "3", "abc", "def")}
    assert float(rows[0]["value"]) == summary["scores"]["top1"]


def test_an_unknown_evaluation_is_named(weights: Path, data: Path) -> None:
    with pytest.raises(UserError, match=r"'linaer'.*knn"):
        evaluate_run("linaer", weights, data)
