"""A supervised run's own classifier is kept, exported and scored; any evaluation scores the network untrained."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from backdrop.errors import UserError
from backdrop.trainer.evaluation.harness import subject as _subject
from backdrop.trainer.evaluation.harness.evaluate import evaluate_run
from backdrop.trainer.evaluation.harness.evaluate_all import Choice, _digests
from backdrop.trainer.evaluation.harness.subject import open_subject
from backdrop.trainer.evaluation.harness.weights import load_network
from backdrop.trainer.run import checkpoint, run_folder
from backdrop.trainer.run.training import _export_backbone, start
from tests.material.evaluation_fixtures import imagenet_split, write_tree
from tests.material.tiny_runs import tiny

CPU = torch.device("cpu")
LABELS = (3, 40, 700)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imagenet")
    for split in ("train", "val"):
        imagenet_split(root, split, {label: [label] for label in LABELS})
    return root


def saved_run(out: Path, method: str, dataset: str = "imagenet", **algorithm: object) -> Path:
    """A run's folder as training leaves it, of a network that was never moved from its first weights."""
    settings = tiny(method)
    settings = replace(settings, algorithm=replace(settings.algorithm, **algorithm), seed=5)
    training = start(settings, steps_per_epoch=1, device=CPU)
    origin = run_folder.Origin(recipe="smoke", dataset=dataset)
    run_folder.open_folder(out, settings, origin=origin, store_id="store", resume=False)
    if algorithm.get("num_classes") == 1000:
        with torch.no_grad():
            training.method.classifier.bias[LABELS[0]] += 1e6
    checkpoint.save(out, training.method, training.optimiser, step=1, keep=1)
    _export_backbone(out, training.method.backbone, settings)
    return out


def test_a_supervised_runs_classifier_is_scored_as_it_was_trained(imagenet: Path, tmp_path: Path) -> None:
    """Always class 3: a third of the images."""
    run = saved_run(tmp_path / "run", "supervised", num_classes=1000)
    summary = evaluate_run("classification", run, imagenet)
    assert summary["scores"]["top1"] == pytest.approx(100 / 3)
    assert summary["scores"].keys() == {"top1", "top5"}
    assert summary["classifier"] == summary["facts"]["classifier"] == "trained with the network"
    assert open_subject(run, CPU).classifier == "trained with the network"
    again = evaluate_run(
        "linear", run, imagenet, overrides=["training=cached_centre", "epochs=1", "warmup_epochs=0", "batch_size=4"]
    )
    assert again["facts"]["probe"].startswith("not left: the classifier trained with the network")


@pytest.mark.parametrize(
    ("trained", "how"),
    [("classifier", "retrained on a frozen network"), ("all", "fine-tuned with the network")],
)
def test_what_followed_the_training_is_told(trained: str, how: str, tmp_path: Path) -> None:
    first = saved_run(tmp_path / "first", "supervised", num_classes=1000)
    run = saved_run(tmp_path / "next", "supervised", num_classes=1000, start_from=str(first), trained=trained)
    subject = open_subject(run, CPU)
    assert subject.head is not None
    assert subject.classifier == how


def test_the_export_has_the_classifier_under_torchvisions_name(tmp_path: Path) -> None:
    run = saved_run(tmp_path / "run", "supervised", num_classes=1000)
    file = run / "backbone.safetensors"
    with safe_open(file, framework="pt") as opened:
        assert {"fc.weight", "fc.bias", "conv1.weight"} <= set(opened.keys())
    (of_file, head), (of_run, own) = load_network(file), load_network(run)
    assert head is not None
    assert own is not None
    assert torch.equal(head.weight, own.weight)
    backbone = checkpoint.load_backbone(file)
    for name, value in of_run.state_dict().items():
        assert torch.equal(value, backbone.state_dict()[name])
        assert torch.equal(value, of_file.state_dict()[name])
    other = saved_run(tmp_path / "other", "supervised", "sample", num_classes=1000)
    assert load_network(other / "backbone.safetensors")[1] is None  # ranks of other classes than ImageNet's
    assert load_network(other)[1] is None


def test_a_classifier_of_other_classes_is_scored_on_these_alone(imagenet: Path, tmp_path: Path) -> None:
    run = saved_run(tmp_path / "run", "supervised", "folder", num_classes=3)
    own = write_tree(
        tmp_path / "own", {f"{split}/{name}/1.png": 3 for split in ("train", "val") for name in ("a", "b", "c")}
    )
    summary = evaluate_run("classification", run, own)
    assert summary["scores"].keys() == {"top1"}
    assert summary["scores"]["top1"] == pytest.approx(100 / 3)  # the images are equal, so are the answers
    with pytest.raises(UserError, match=r"3 classes, of the data set folder.*give --data the images"):
        evaluate_run("classification", run, imagenet)
    with pytest.raises(UserError, match="no classifier of the 1,000 classes"):
        evaluate_run("fgsm", run, imagenet)


def test_a_run_without_labels_has_no_classifier_to_score(imagenet: Path, tmp_path: Path) -> None:
    run = saved_run(tmp_path / "run", "moco")
    with pytest.raises(UserError, match=r"not trained with a classifier.*evaluate linear"):
        evaluate_run("classification", run, imagenet)
    assert "fc.weight" not in load_network(run)[0].state_dict()


def test_any_evaluation_scores_the_network_untrained(imagenet: Path, tmp_path: Path) -> None:
    """Of the run's seed, with a classifier of its own, and nothing of it among the trained network's scores."""
    run = saved_run(tmp_path / "run", "moco")
    options = ["training=cached_centre", "epochs=2", "warmup_epochs=0", "batch_size=4", "lr=1", "bn_mode=eval"]
    summary = evaluate_run("linear", run, imagenet, overrides=options, is_untrained=True)
    assert summary["untrained_seed"] == 5
    assert json.loads((run / "untrained" / "linear.json").read_text()) == summary
    assert not (run / "linear.json").exists()
    rows = csv.DictReader((run / "results.csv").read_text().splitlines())
    assert {row["evaluation"] for row in rows} == {"linear-untrained"}
    trained, untrained = open_subject(run, CPU), open_subject(run, CPU, is_untrained=True)
    assert trained.head is None
    assert untrained.head is not None
    assert untrained.classifier == _subject.FITTED
    drawn = _subject.untrained_like(trained.backbone, 5).state_dict()
    assert all(torch.equal(value, drawn[name]) for name, value in untrained.backbone.state_dict().items())
    assert not torch.equal(drawn["conv1.weight"], trained.backbone.state_dict()["conv1.weight"])
    assert untrained.weights_sha256 in _digests(run, Choice(is_untrained=True))
