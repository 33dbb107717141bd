"""Each evaluation that fits something on frozen features: its data in the official layout, and exact scores."""

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.io import savemat
from torch import nn

from backdrop.errors import UserError
from backdrop.pipeline.views.view_plan import View
from backdrop.trainer.backbones import build_backbone
from backdrop.trainer.evaluation import cifar10, cifar100, limited_labels, linear, places205, voc07_svm
from backdrop.trainer.evaluation.data.batches import prepared
from backdrop.trainer.evaluation.data.imagenet import open_splits
from backdrop.trainer.evaluation.harness.evaluate import evaluate_run
from backdrop.trainer.evaluation.harness.evaluate_all import Choice, _digests
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.harness.subject import (
    PROBE_FILE,
    Subject,
    open_subject,
    pretrained_backbone,
    weights_digest,
)
from backdrop.trainer.evaluation.probing import cifar as _cifar
from backdrop.trainer.evaluation.probing.probe import new_head
from backdrop.trainer.methods import moco
from backdrop.trainer.parts.backbones import Backbone
from tests.material.cifar_files import cifar_rows, write_cifar10
from tests.material.evaluation_fixtures import FACTS, WNIDS, imagenet_split, paint, save_image, write_tree

CLASSES = (3, 40, 700)


def subject_of(backbone: Backbone, folder: Path, *, method: str = "", size_px: int = 32) -> Subject:
    return Subject(
        backbone=backbone,
        head=None,
        weights_sha256=weights_digest(backbone, None),
        bn_mode="eval",
        image_size_px=size_px,
        method=method,
        folder=folder / "kept",
        run=None,
        device=torch.device("cpu"),
    )


class Spread(nn.Module):
    """Mean colours to features that a line separates: closeness to each of a few colours."""

    def __init__(self, colour_KC: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("colour_KC", torch.from_numpy(colour_KC).float())

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        colour_BC = image_BCHW.mean(dim=(2, 3))
        return (-4 * torch.cdist(colour_BC, self.colour_KC)).exp()[:, :, None, None]


def painted_colours(classes: tuple[int, ...]) -> np.ndarray:
    pixel_KC = np.array([paint(label)[0, 0] for label in classes]) / 255
    return (pixel_KC - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])


def oracle(folder: Path, classes: tuple[int, ...] = CLASSES, **settings: object) -> Subject:
    return subject_of(Backbone({"spread": Spread(painted_colours(classes))}, len(classes)).eval(), folder, **settings)


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    root = tmp_path / "imagenet"
    imagenet_split(root, "train", {label: [label] * 4 for label in CLASSES})
    # One of the four images of 3 has the colour of 40.
    imagenet_split(root, "val", {3: [3, 3, 3, 40], 40: [40, 40], 700: [700, 700]})
    return root


# ------------------------------------------------------------------------------------------------------------ linear


def test_the_settings_are_those_of_the_method(tmp_path: Path) -> None:
    """Ryali et al. 2021, A.3 and A.4.1: epochs, batch, actual peak rate, warm-up, steps, BN mode, weight decay."""
    expected = {
        "moco": (120, 2048, 240.0, 10, (60, 80, 100), "adapt", 0.0),
        "byol": (140, 1024, 0.8, 0, (80, 100, 120), "adapt", 0.0),
        "swav": (100, 2048, 2.4, 5, (), "eval", 1e-6),
        "rotnet": (35, 256, 0.1, 0, (5, 15, 25), "eval", 5e-4),
        "supervised": (40, 4096, 0.16, 0, (), "eval", 1e-4),
        "cast": (100, 256, 30.0, 0, (60, 80), "eval", 0.0),
    }
    for method, row in expected.items():
        protocol = linear.protocol_of(oracle(tmp_path, method=method), linear.Options())
        schedule = protocol.schedule
        assert row == (
            schedule.epochs, schedule.batch_size, pytest.approx(schedule.peak_lr), schedule.warmup_epochs,
            schedule.step_epochs, protocol.bn_mode, schedule.weight_decay,
        )  # fmt: skip
        assert schedule.nesterov == (method in ("byol", "rotnet"))
        assert schedule.momentum == 0.9
    changed = linear.protocol_of(
        oracle(tmp_path, method="byol"), linear.Options(protocol="moco", lr=1.0, step_epochs=(5, 7), bn_mode="eval")
    )
    assert (changed.schedule.peak_lr, changed.schedule.epochs, changed.bn_mode) == (8.0, 120, "eval")
    assert changed.schedule.step_fractions == pytest.approx((0.1, 0.01))
    assert (
        linear.protocol_of(oracle(tmp_path, method="moco"), linear.Options(training="cached_centre")).bn_mode == "eval"
    )
    with pytest.raises(UserError, match="the method 'simsiam' of this run states no protocol of a linear"):
        linear.protocol_of(oracle(tmp_path, method="simsiam"), linear.Options())
    byol_rate = linear.protocol_of(oracle(tmp_path, method="simsiam"), linear.Options(protocol="byol")).schedule.peak_lr
    assert byol_rate == pytest.approx(0.8)
    for wrong in ({"protocol": "simclr"}, {"training": "none"}, {"num_cached_crops": 0}, {"dtype": "int8"}):
        with pytest.raises(UserError):
            linear.protocol_of(oracle(tmp_path), linear.Options(**wrong))


@pytest.mark.parametrize("training", ["crops", "cached_crops", "cached_centre"])
def test_linear_scores_exactly_what_is_painted(training: str, imagenet: Path, tmp_path: Path) -> None:
    (imagenet / "val" / WNIDS[40] / "broken.JPEG").write_bytes(b"no image")
    options = linear.Options(protocol="swav", training=training, epochs=6, batch_size=4, warmup_epochs=0, lr=300.0)
    result = linear.run(oracle(tmp_path), imagenet, options)
    assert result.metrics["top1"] == 87.5
    assert result.metrics["top5"] == 100.0
    assert result.facts["train images"] == {"seen": 12, "expected": 1_281_167}
    assert result.facts["num_classes"] == 1000
    assert f"{WNIDS[40]}/broken.JPEG cannot be decoded" in result.problems
    assert any("997 of 1000 classes" in problem for problem in result.problems)


@pytest.mark.parametrize(
    ("bn_mode", "split", "words"),
    [
        ("adapt", "train", "no image to train on can be decoded, e.g. "),
        ("adapt", "val", "no image to score can be decoded"),
        ("eval", "train", "no image to train on can be decoded, e.g. "),
        ("eval", "val", "no image of linear-val can be decoded, e.g. "),
    ],
)
def test_a_probe_is_not_fitted_on_or_scored_on_no_image(
    bn_mode: str, split: str, words: str, imagenet: Path, tmp_path: Path
) -> None:
    for path in (imagenet / split).rglob("*.JPEG"):
        path.write_bytes(b"no image")
    options = linear.Options(epochs=1, warmup_epochs=0, bn_mode=bn_mode)
    with pytest.raises(UserError, match=words):
        linear.run(oracle(tmp_path), imagenet, options)


def test_the_classifier_stays_for_the_evaluations_after_it(imagenet: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet18").eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    subject = subject_of(backbone, tmp_path, method="moco", size_px=32)
    options = linear.Options(epochs=2, batch_size=6, warmup_epochs=1, lr=1.0)
    result = linear.run(subject, imagenet, options)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), "the subject itself was changed"
    path = subject.folder / PROBE_FILE
    left = open_subject(path, torch.device("cpu"))
    assert left.bn_mode == result.facts["bn_mode"] == "adapt"
    assert left.head is not None
    assert left.head.weight.shape == (1000, 512)
    for name, parameter in left.backbone.named_parameters():
        assert torch.equal(parameter, before[name])
    assert not torch.equal(left.backbone.bn1.running_mean, before["bn1.running_mean"])
    with safe_open(path, framework="pt") as file:
        assert {"conv1.weight", "layer4.1.bn2.running_var", "fc.weight", "fc.bias"} < set(file.keys())
        metadata = file.metadata()
    assert metadata["pretrained_sha256"] == subject.weights_sha256
    assert json.loads(metadata["scores"])["top1"] == result.metrics["top1"]
    # The later evaluations answer as the fit itself was scored.
    from backdrop.trainer.evaluation.data.images import wnid_folders
    from backdrop.trainer.evaluation.data.transforms import standard

    images = wnid_folders(imagenet / "val", "")
    rows = [np.arange(len(images))]
    (batch,) = prepared([(images, row_B) for row_B in rows], standard(32), device=torch.device("cpu"))
    with torch.no_grad():
        top1 = (left.logits(batch.image_BCHW).argmax(dim=1) == torch.from_numpy(images.label_N)).double().mean()
    assert 100 * float(top1) == pytest.approx(result.metrics["top1"])


def run_of(backbone: Backbone, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder whose latest weights are those that the backbone has when they are asked for."""

    class Settings:
        backbone, cifar_stem, method, views = name, False, "moco", (View(size_px=32),)

    monkeypatch.setattr("backdrop.trainer.run.run_folder.read_settings", lambda folder: Settings)
    monkeypatch.setattr("backdrop.trainer.run.checkpoint.load_backbone", lambda path: copy.deepcopy(backbone).eval())
    run = folder / "run"
    run.mkdir()
    return run


def test_a_run_with_another_backbone_keeps_its_classifier_too(
    imagenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe is scored from then on, and a second probe starts from the backbone as it was trained."""
    torch.manual_seed(0)
    run = run_of(build_backbone("drn_d_22").eval(), "drn_d_22", tmp_path, monkeypatch)
    before = open_subject(run, torch.device("cpu"))
    assert before.head is None
    options = linear.Options(epochs=1, warmup_epochs=0, lr=1.0)
    first = linear.run(before, imagenet, options)
    assert first.facts["probe"] == PROBE_FILE
    after = open_subject(run, torch.device("cpu"))
    assert after.bn_mode == "adapt"
    assert after.head is not None
    assert after.weights_sha256 != before.weights_sha256
    again = linear.run(after, imagenet, options)
    assert again.metrics == first.metrics
    assert again.facts["pretrained_sha256"] == before.weights_sha256


def test_a_classifier_of_earlier_weights_is_not_scored(
    imagenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that goes on after `evaluate linear` has another backbone than its classifier was fitted on."""
    torch.manual_seed(0)
    backbone = build_backbone("resnet18").eval()
    run = run_of(backbone, "resnet18", tmp_path, monkeypatch)
    options = linear.Options(protocol="moco", epochs=1, warmup_epochs=0, lr=1.0)
    linear.run(open_subject(run, torch.device("cpu")), imagenet, options)
    fitted = open_subject(run, torch.device("cpu"))
    assert fitted.bn_mode == "adapt"
    assert _digests(run, Choice()) == {fitted.weights_sha256, weights_digest(backbone, None)}
    with torch.no_grad():
        backbone.conv1.weight.mul_(2)
    assert "earlier weights" not in capsys.readouterr().err
    gone_on = open_subject(run, torch.device("cpu"))
    assert (gone_on.head, gone_on.bn_mode) == (None, "eval")
    assert gone_on.weights_sha256 == weights_digest(backbone, None)
    assert _digests(run, Choice()) == {gone_on.weights_sha256}
    assert weights_digest(pretrained_backbone(gone_on), None) == gone_on.weights_sha256
    assert f"{PROBE_FILE} is of earlier weights" in capsys.readouterr().err
    linear.run(gone_on, imagenet, options)
    assert open_subject(run, torch.device("cpu")).head is not None
    (run / PROBE_FILE).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"linear\.safetensors cannot be read"):
        open_subject(run, torch.device("cpu"))


def test_a_weights_file_is_scored_with_the_classifier_fitted_on_it(imagenet: Path, tmp_path: Path) -> None:
    """As `evaluate all --weights FILE` needs it for every task after `linear`."""
    torch.manual_seed(0)
    weights, own = tmp_path / "weights.safetensors", build_backbone("resnet18").eval().state_dict()
    save_file(own, weights)
    with pytest.raises(UserError, match=r"no classifier.*--weights FILE"):
        evaluate_run("fgsm", weights, imagenet)
    evaluate_run("linear", weights, imagenet, overrides=["epochs=1", "warmup_epochs=0", "lr=1"])
    fitted = open_subject(weights, torch.device("cpu"))
    assert (fitted.head is not None, fitted.bn_mode) == (True, "adapt")
    pretrained = pretrained_backbone(fitted)
    assert all(torch.equal(value, own[name]) for name, value in pretrained.state_dict().items())
    assert _digests(weights, Choice()) == {fitted.weights_sha256, weights_digest(pretrained, None)}
    save_file({**own, "conv1.weight": own["conv1.weight"] * 2}, weights)
    assert open_subject(weights, torch.device("cpu")).head is None  # other weights in the same place
    classifier = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    save_file(own | classifier, weights)
    kept = open_subject(weights, torch.device("cpu")).head  # its own
    assert kept is not None
    assert not kept.weight.any()


def test_other_classes_than_imagenets_leave_no_classifier(tmp_path: Path) -> None:
    files = {
        f"{split}/{name}/{n}.png": label
        for split in ("train", "val")
        for name, label in (("a", 3), ("b", 40))
        for n in "12"
    }
    write_tree(tmp_path / "own", files | {"val/a/notes.txt": "none of its images"})
    options = linear.Options(
        protocol="swav", training="cached_centre", epochs=5, batch_size=4, warmup_epochs=0, lr=300.0
    )
    result = linear.run(oracle(tmp_path), tmp_path / "own", options)
    assert result.metrics["top1"] == 100.0
    assert result.facts.keys() >= FACTS
    assert result.facts["num_classes"] == 2
    assert (result.facts["train images"], result.facts["val images"]) == ({"seen": 4}, {"seen": 4})
    assert result.problems == ["left out, not of the data set: 1 (val/a/notes.txt)"]
    assert not (tmp_path / "kept" / PROBE_FILE).exists()


# -------------------------------------------------------------------------------------------------- ImageNet's layouts


def test_a_flat_val_has_the_devkits_ids_which_are_in_another_order(imagenet: Path) -> None:
    flat = write_tree(
        imagenet.parent / "flat",
        {f"val/ILSVRC2012_val_{n:08d}.JPEG": label for n, label in ((1, 40), (2, 3), (3, 700))},
    )
    (flat / "train").symlink_to(imagenet / "train")
    with pytest.raises(UserError, match=r"no ILSVRC2012_validation_ground_truth\.txt"):
        open_splits(flat, Result())
    (flat / "ILSVRC2012_validation_ground_truth.txt").write_text("7\n9\n8\n")
    synsets = np.array(
        [(7, WNIDS[40]), (8, WNIDS[700]), (9, WNIDS[3])], dtype=[("ILSVRC2012_ID", object), ("WNID", object)]
    )
    savemat(flat / "meta.mat", {"synsets": synsets})
    assert open_splits(flat, Result()).val.label_N.tolist() == [40, 3, 700]


def test_kaggles_layout(imagenet: Path, tmp_path: Path) -> None:
    root = tmp_path / "kaggle"
    write_tree(root / "ILSVRC/Data/CLS-LOC", {"val/ILSVRC2012_val_00000001.JPEG": 40, "val/stranger.JPEG": 3})
    (root / "ILSVRC/Data/CLS-LOC/train").symlink_to(imagenet / "train")
    (root / "LOC_val_solution.csv").write_text(
        f"ImageId,PredictionString\nILSVRC2012_val_00000001,{WNIDS[40]} 85 1 499 272 {WNIDS[40]} 1 2 3 4\n"
    )
    result = Result()
    splits = open_splits(root, result)
    assert splits.val.label_N.tolist() == [40]
    assert sorted(set(splits.train.label_N.tolist())) == list(CLASSES)
    assert any("stranger.JPEG" in problem for problem in result.problems)


# ---------------------------------------------------------------------------------------------------- limited labels


def test_few_labels_linear_and_fine_tuned(imagenet: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in (imagenet / "train").rglob("*.JPEG"))
    (imagenet / "1percent.txt").write_text("\n".join(names[::4]) + "\n")
    (imagenet / "10percent.txt").write_text("\n".join(reversed(names[::2])) + "\n")
    options = limited_labels.Options(
        linear=linear.Options(protocol="swav", epochs=12, warmup_epochs=0, lr=20.0),
        finetune=limited_labels.Finetuning(epochs=20, head_lr=50.0, trunk_lr=0.0),
    )
    subject = oracle(tmp_path)
    result = limited_labels.run(subject, imagenet, options)
    # A batch of 2,048 takes all 3 and all 6 images in the one step of an epoch.
    assert result.facts["1 % of the labels"] == {"seen": 3, "expected": 12_811}
    assert result.facts["10 % of the labels"] == {"seen": 6, "expected": 128_116}
    for mode in ("linear", "finetune"):
        for percent in (1, 10):
            assert result.metrics[f"{mode}_{percent}_top1"] == 87.5
            assert result.metrics[f"{mode}_{percent}_top5"] == 100.0
    assert not any(problem.startswith("train images") for problem in result.problems)
    assert result.facts["bn_mode"] == {"linear": "eval", "finetune": "trained"}
    assert result.facts.items() >= limited_labels.facts_of_data(imagenet, options).items()
    alone = limited_labels.run(subject, imagenet, replace(options, modes=("finetune",), percents=(1,)))
    assert FACTS | {"pretrained_sha256"} <= alone.facts.keys()
    assert alone.facts["lists"] == {"1 %": result.facts["lists"]["1 %"]}
    assert alone.facts["lists"] != {"1 %": result.facts["lists"]["10 %"]}


def test_the_rates_of_fine_tuning_are_the_methods(tmp_path: Path) -> None:
    """Ryali et al. 2021, A.5.2, and SwAV's released code: head, trunk, epochs, steps, fractions."""
    fifty, twenty = (50, (30, 40), (0.1, 0.01)), (20, (12, 16), (0.2, 0.04))
    expected = {
        ("moco", 1): (1.0, 1e-4, *fifty), ("moco", 10): (0.3, 1e-4, *fifty), ("byol", 1): (1.0, 1e-3, *fifty),
        ("byol", 10): (0.1, 1e-3, *fifty), ("swav", 1): (5.0, 0.02, *twenty), ("swav", 10): (0.2, 0.01, *twenty),
    }  # fmt: skip
    for (method, percent), row in expected.items():
        rates = limited_labels._rates(oracle(tmp_path, method=method), percent, limited_labels.Options())
        schedule = rates.schedule
        actual = (rates.head_lr, rates.trunk_lr, schedule.epochs, schedule.step_epochs, schedule.step_fractions)
        assert actual == row
        assert (schedule.batch_size, schedule.weight_decay, schedule.peak_lr) == (256, 0, 1.0)
    # Another method's rates are not its score, unless they are asked for.
    with pytest.raises(UserError, match=r"'rotnet' of this run states no rate of fine-tuning on 1 %.*one of byol"):
        limited_labels._rates(oracle(tmp_path, method="rotnet"), 1, limited_labels.Options())
    asked = limited_labels.Options(linear=linear.Options(protocol="byol"))
    assert limited_labels._rates(oracle(tmp_path, method="rotnet"), 1, asked).trunk_lr == 1e-3


@pytest.mark.parametrize("trunk_lr", [0.0, 0.5])
def test_fine_tuning_moves_the_trunk_by_its_own_rate(trunk_lr: float, imagenet: Path, tmp_path: Path) -> None:
    """One step on all images: trunk and classifier both move by their rate times their gradient."""
    torch.manual_seed(0)
    backbone = Backbone({"conv": nn.Conv2d(3, 4, 1), "bn": nn.BatchNorm2d(4)}, 4).eval()
    subject = subject_of(backbone, tmp_path)
    splits = open_splits(imagenet, Result())
    settings = linear.probing_of(
        subject, backbone, splits, linear.protocol_of(subject, linear.Options()), linear.Options(), name="t"
    )
    start = backbone.conv.weight.detach().clone()
    expected = nn.Sequential(copy.deepcopy(backbone), new_head(4, 1000, init_std=0.01, seed=0)).train()
    rows = [np.arange(len(splits.train))]
    asked = [(splits.train, row_B) for row_B in rows]
    (batch,) = prepared(asked, settings.transform_of_epoch(0), device=torch.device("cpu"))
    label_B = torch.from_numpy(splits.train.label_N)
    nn.functional.cross_entropy(expected(batch.image_BCHW), label_B).backward()
    with torch.no_grad():
        for part, rate in ((expected[0], trunk_lr), (expected[1], 2.0)):
            for parameter in part.parameters():
                parameter -= rate * parameter.grad
    schedule = replace(moco.DOWNSTREAM.finetuning[1].schedule, epochs=1, step_epochs=(), step_fractions=())
    fitted = limited_labels.finetune(
        settings, schedule, head_lr=2.0, trunk_lr=trunk_lr, seed=0, score_epochs=1
    ).model.state_dict()
    for name, value in expected.state_dict().items():
        # In float32, and BatchNorm over a few images enlarges the rounding, which the number of threads changes.
        torch.testing.assert_close(fitted[name], value, rtol=1e-4, atol=1e-4)
    assert (expected[0].conv.weight - start).abs().max() >= 1e-3 * trunk_lr  # far above the rounding


def test_lists_that_do_not_fit_the_images_are_refused(imagenet: Path, tmp_path: Path) -> None:
    subject, options = oracle(tmp_path), limited_labels.Options(percents=(1,))
    with pytest.raises(UserError, match=r"1percent\.txt cannot be read"):
        limited_labels.run(subject, imagenet, options)
    whole = sorted(path.name for path in (imagenet / "train").rglob("*.JPEG"))
    (imagenet / "1percent.txt").write_text("\n".join([*whole[:3], f"{WNIDS[3]}_99999.JPEG", f"{WNIDS[9]}_1.JPEG"]))
    with pytest.raises(UserError, match=f"2 of the 5 images .* {WNIDS[3]}/{WNIDS[3]}_99999"):
        limited_labels.run(subject, imagenet, options)
    (imagenet / "1percent.txt").write_text("../../etc/passwd\n")
    with pytest.raises(UserError, match="name no image"):
        limited_labels.run(subject, imagenet, options)
    with pytest.raises(UserError, match="percents"):
        limited_labels.run(subject, imagenet, limited_labels.Options(percents=(5,)))


def test_the_released_lists(shared_data: Path) -> None:
    lists = {percent: (shared_data / "labels" / f"{percent}percent.txt").read_text().split() for percent in (1, 10)}
    assert {percent: len(names) for percent, names in lists.items()} == limited_labels.NUM_IMAGES
    assert set(lists[1]) < set(lists[10])


# ------------------------------------------------------------------------------------------------------------- CIFAR


def test_cifar10_scores_exactly_what_is_painted(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "data")
    subject = oracle(tmp_path, tuple(range(0, 1000, 100)))
    result = cifar10.run(subject, tmp_path / "data", cifar10.Options(epochs=30, lr=80.0, size_px=32, score_epochs=15))
    assert (result.metrics["top1"], result.metrics["top5"]) == (80.0, 100.0)
    assert result.facts.keys() >= FACTS
    assert result.facts["train images"] == {"seen": 50, "expected": 50_000}
    assert cifar10.Options().lr * cifar10.Options().batch_size / 256 == pytest.approx(0.01)


def test_cifar_rows_are_planes_and_fine_labels_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    image_HWC = np.arange(32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)
    content = {b"fine_labels": [99], b"coarse_labels": [3], b"data": image_HWC.transpose(2, 0, 1).reshape(1, -1)}
    for name in ("train", "test"):
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    read = _cifar.read_batches(folder, ("train",), b"fine_labels", 100, cifar100.LAYOUT)
    np.testing.assert_array_equal(read.pixels(0), image_HWC)
    assert read.label_N.tolist() == [99]
    result = cifar100.run(oracle(tmp_path), folder, cifar100.Options(epochs=1, size_px=8))
    assert result.facts.keys() >= FACTS
    assert result.metrics.keys() == {"top1", "top5", "best_top1", "best_top5"}


class Evil:
    """Runs a command where it is unpickled as pickle does it."""

    def __init__(self, call: tuple) -> None:
        self.call = call

    def __reduce__(self) -> tuple:
        return self.call


def test_a_pickle_that_asks_for_more_than_arrays_runs_nothing(tmp_path: Path) -> None:
    import builtins
    import codecs
    import os

    path, canary = tmp_path / "batch", tmp_path / "canary"
    for call in (
        (os.system, (f"touch {canary}",)),
        (builtins.eval, (f"open({str(canary)!r}, 'w')",)),
        (getattr, ("x", "join")),
        (codecs.encode, ("x", "hex")),
    ):
        path.write_bytes(pickle.dumps({b"data": Evil(call)}, protocol=2))
        with pytest.raises(UserError, match="Only arrays, bytes, lists and dicts"):
            _cifar.read_pickle(path)
    assert not canary.exists()
    whole = pickle.dumps({b"data": np.zeros(9)}, protocol=2)
    for damaged in (b"", whole[:20], whole[:-5], b"no pickle"):
        path.write_bytes(damaged)
        with pytest.raises(UserError):
            _cifar.read_pickle(path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_of_arrays_bytes_and_lists_are_read(protocol: int, tmp_path: Path) -> None:
    content = {b"data": np.arange(12, dtype=np.uint8).reshape(3, 4), b"labels": [1, 2], b"name": b"caf\xe9"}
    (tmp_path / "batch").write_bytes(pickle.dumps(content, protocol=protocol))
    read = _cifar.read_pickle(tmp_path / "batch")
    np.testing.assert_array_equal(read.pop(b"data"), content.pop(b"data"))
    assert read == content


def test_python_2s_pickles_are_read(tmp_path: Path) -> None:
    """As the published files are: strings of Python 2, arrays of an old numpy."""
    data = (
        b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x01K\x02eU\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05"
        b"cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x02K\x02\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87R"
        b"q\x09(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x04\x00\x01\x02\x03tbu."
    )
    (tmp_path / "batch").write_bytes(data)
    read = _cifar.read_pickle(tmp_path / "batch")
    assert read[b"labels"] == [1, 2]
    assert read[b"data"].tolist() == [[0, 1], [2, 3]]


def test_cifar_files_of_another_kind_are_named(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path) / "cifar-10-batches-py"
    path, rows = folder / "data_batch_3", cifar_rows([0, 1], (0, 1))
    for content, message in (
        ({b"labels": [0, 10], b"data": rows}, "labels of 0 .. 9"),
        ({b"labels": [0], b"data": rows}, "2 images and 1 labels"),
        ({b"labels": [0, 1], b"data": rows[:, :-1]}, "no images"),
        ({b"fine_labels": [0, 1], b"data": rows}, "labels"),
        ([1, 2], "no images"),
    ):
        path.write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(UserError, match=f"data_batch_3.*{message}"):
            cifar10.run(oracle(tmp_path), tmp_path, cifar10.Options())
    path.unlink()
    with pytest.raises(UserError, match=r"no file .*data_batch_3"):
        cifar10.run(oracle(tmp_path), tmp_path, cifar10.Options())
    with pytest.raises(UserError, match="cifar-100-python"):
        cifar100.run(oracle(tmp_path), tmp_path, cifar100.Options())


# -------------------------------------------------------------------------------------------------------- Places-205

PLACES = {"a/abbey": 3, "a/airport_terminal": 40, "z/zoo": 700}
PLACES_OPTIONS = places205.Options(epochs=6, batch_size=4, lr=300.0, weight_decay=0.0, training="cached_centre")


def test_places_as_folders_within_folders(tmp_path: Path) -> None:
    root = tmp_path / "places"
    for place, painted in PLACES.items():
        for number in range(2):
            save_image(root / "train" / place / f"{number}.jpg", paint(painted))
            save_image(
                root / "val" / place / f"{number}.jpg", paint(40 if (place, number) == ("z/zoo", 1) else painted)
            )
    (root / "train" / "README.txt").write_text("")
    result = places205.run(oracle(tmp_path), root, PLACES_OPTIONS)
    assert result.metrics["top1"] == pytest.approx(500 / 6)
    assert result.facts.keys() >= FACTS
    assert result.facts["classes"] == {"seen": 3, "expected": 205}
    save_image(root / "val" / "y/yard" / "0.jpg", paint(3))
    with pytest.raises(UserError, match="y/yard"):
        places205.run(oracle(tmp_path), root, PLACES_OPTIONS)


def test_places_as_lists(tmp_path: Path) -> None:
    root = tmp_path / "places"
    images, lists = root / "data/vision/torralba/deeplearning/images256", root / "trainvalsplit_places205"
    lists.mkdir(parents=True)
    lines = []
    for number, (place, painted) in enumerate(PLACES.items()):
        save_image(images / place / "gsun 1.jpg", paint(painted))
        lines.append(f"{place}/gsun 1.jpg {[0, 1, 204][number]}\n")
    (lists / "train_places205.csv").write_text("".join(lines))
    (lists / "val_places205.csv").write_text("".join([*lines, "a/abbey/gone.jpg 0\n"]))
    result = places205.run(oracle(tmp_path), root, PLACES_OPTIONS)
    assert result.metrics["top1"] == 100.0
    assert result.facts["num_classes"] == 205
    assert "a/abbey/gone.jpg cannot be decoded" in result.problems
    for wrong in ("a/abbey/x.jpg 205", "a/abbey/x.jpg", "../../x.jpg 1", "/x.jpg 1"):
        (lists / "val_places205.csv").write_text(f"{lines[0]}{wrong}\n")
        with pytest.raises(UserError, match="line 2"):
            places205.run(oracle(tmp_path), root, PLACES_OPTIONS)
    with pytest.raises(UserError, match="Expected"):
        places205.run(oracle(tmp_path), tmp_path, PLACES_OPTIONS)


# ------------------------------------------------------------------------------------------------------------- VOC07


def write_voc(root: Path) -> Path:
    """Three classes in twelve images each; the boats of test hold a difficult one that is painted as a boat."""
    names = {"trainval": [f"{n:06d}" for n in range(12)], "test": [f"{n:06d}" for n in range(12, 24)]}
    (root / "ImageSets/Main").mkdir(parents=True)
    for split, of_split in names.items():
        for k, name in enumerate(("bird", "boat", "cat")):
            rows = [(image, 1 if n % 3 == k else -1) for n, image in enumerate(of_split)]
            if name == "boat":
                # Painted as boats (n % 3 == 1), but difficult: negatives in training, left out in testing.
                rows = [(image, 0 if n == 4 else value) for n, (image, value) in enumerate(rows)]
            text = "".join(f"{image} {value:2d}\n" for image, value in rows)
            (root / "ImageSets/Main" / f"{name}_{split}.txt").write_text(text)
        for n, image in enumerate(of_split):
            save_image(root / "JPEGImages" / f"{image}.jpg", paint(CLASSES[n % 3]))
    return root


@pytest.fixture
def three_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voc07_svm, "CLASSES", ("bird", "boat", "cat"))


@pytest.mark.usefixtures("three_classes")
def test_voc_scores_exactly_what_is_painted(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "VOCdevkit/VOC2007")
    options = voc07_svm.Options(processes=1, size_px=32)
    result = voc07_svm.run(oracle(tmp_path), tmp_path, options)
    assert result.facts.keys() >= FACTS
    assert result.metrics == {"voc07_map": 100.0, "ap_bird": 100.0, "ap_boat": 100.0, "ap_cat": 100.0}
    assert result.facts["trainval images"] == {"seen": 12, "expected": 5011}
    # A difficult image that counted in testing would be a negative with a boat's score.
    path = root / "ImageSets/Main/boat_test.txt"
    path.write_text(path.read_text().replace("000016  0", "000016 -1"))
    worse = voc07_svm.run(oracle(tmp_path), tmp_path, options)
    assert worse.metrics["ap_boat"] < 100.0
    # A class without any positive in test is left out of the mean, and said so.
    path.write_text(path.read_text().replace(" 1\n", "-1\n").replace("  1", " -1"))
    lone = voc07_svm.run(oracle(tmp_path), tmp_path, options)
    assert "ap_boat" not in lone.metrics
    assert lone.metrics["voc07_map"] == 100.0
    assert any("boat" in problem for problem in lone.problems)


@pytest.mark.usefixtures("three_classes")
def test_voc_lists_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "VOC2007")
    path = root / "ImageSets/Main/cat_trainval.txt"
    whole = path.read_text()
    for text, message in (
        (whole.replace("000001", "999999"), "other images"),
        (whole.replace("-1", "7", 1), "1, -1 or 0"),
        (whole + whole.splitlines()[0] + "\n", "each image once"),
        ("000001\n", "cannot be read"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            voc07_svm.run(oracle(tmp_path), tmp_path, voc07_svm.Options(processes=1, size_px=8))
    path.write_text(whole.replace("  1", " -1"))
    with pytest.raises(UserError, match="cat has fewer than 3"):
        voc07_svm.run(oracle(tmp_path), tmp_path, voc07_svm.Options(processes=1, size_px=8))
    with pytest.raises(UserError, match="no VOC2007"):
        voc07_svm.run(oracle(tmp_path), tmp_path / "VOC2007" / "ImageSets", voc07_svm.Options())


def test_a_class_is_fitted_as_virtex_does() -> None:
    """Cost by 3-fold average precision, positives weighted twice, difficult images -1 in training."""
    from sklearn.metrics import average_precision_score
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import LinearSVC

    rng = np.random.default_rng(0)
    train_ND, test_ND = rng.normal(size=(60, 80)), rng.normal(size=(50, 80))
    train_label, test_label = (
        np.where(x[:, 0] > 0.7, 1, np.where((x[:, 0] > 0.5), 0, -1)) for x in (train_ND, test_ND)
    )
    costs = (0.001, 0.1, 10.0)
    actual = voc07_svm.fit_class(
        voc07_svm.LabelledFeatures(train_ND, train_label),
        voc07_svm.LabelledFeatures(test_ND, test_label),
        name="x",
        options=voc07_svm.Options(costs=costs, max_iterations=2000),
    )

    def machine(cost: float) -> LinearSVC:
        return LinearSVC(C=cost, class_weight={1: 2, -1: 1}, max_iter=2000, random_state=0, dual=True)

    sign_N = np.where(train_label == 1, 1, -1)
    means = [cross_val_score(machine(c), train_ND, sign_N, cv=3, scoring="average_precision").mean() for c in costs]
    assert actual.cost == costs[int(np.argmax(means))]
    kept = test_label != 0
    scores = machine(actual.cost).fit(train_ND, sign_N).decision_function(test_ND[kept])
    assert actual.average_precision == average_precision_score(test_label[kept] == 1, scores)
    assert 0.2 < actual.average_precision < 1.0


def test_the_svms_features_are_four_cells_of_unit_length() -> None:
    feature_BChw = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 5, 7, 7)))
    cells = np.zeros((2, 5, 2, 2))
    for row in range(2):
        for column in range(2):
            part = feature_BChw[:, :, 3 * row : 3 * row + 4, 3 * column : 3 * column + 4]
            cells[:, :, row, column] = part.mean(dim=(2, 3)).numpy()
    expected = cells.reshape(2, 20) / np.linalg.norm(cells.reshape(2, 20), axis=1, keepdims=True)
    np.testing.assert_allclose(voc07_svm.pooled(feature_BChw).numpy(), expected, rtol=1e-12)


def test_difficult_images_are_negatives_in_training() -> None:
    """Features in which only the difficult images look like positives: as negatives, they pull the score down."""
    train_ND = np.array([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 4 + [[1.0, 1.0]] * 4)
    label_N = np.array([1] * 4 + [-1] * 4 + [0] * 4)
    options = voc07_svm.Options(costs=(1.0,), max_iterations=2000)
    trainval = voc07_svm.LabelledFeatures(train_ND, label_N)
    test = voc07_svm.LabelledFeatures(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), np.array([1, -1, -1]))
    score = voc07_svm.fit_class(trainval, test, name="x", options=options)
    assert score.average_precision == 1.0
    # Had they been positives, as they are here, the one that looks like both would not rank below.
    swapped = trainval._replace(label_N=np.where(label_N == 0, 1, -label_N * (label_N != 0)))
    swapped = voc07_svm.fit_class(swapped, test, name="x", options=options)
    assert swapped.average_precision < 1.0


def test_grey_and_cmyk_images_are_images(imagenet: Path) -> None:
    for number, mode in enumerate(("L", "CMYK")):
        image = Image.fromarray(paint(3)).convert(mode)
        image.save(imagenet / "train" / WNIDS[3] / f"odd{number}.JPG", "JPEG")
    splits = open_splits(imagenet, Result())
    assert len(splits.train) == 14
    assert all(splits.train.pixels(row).shape[2] == 3 for row in range(14))
