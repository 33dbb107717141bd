"""The training of FOUND's head: steps by formula, resumed bit for bit, a run folder that every command takes."""

import json
import math
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from PIL import Image

from backdrop import cli
from backdrop.errors import UserError
from backdrop.saliency.deepusps2 import training_state
from backdrop.saliency.deepusps2.training_log import read_training_log
from backdrop.saliency.detectors import open_detector
from backdrop.saliency.features.regions import intersection_over_union
from backdrop.saliency.found.pseudo_masks import refined_targets
from backdrop.saliency.found.settings import FoundSettings, choose_settings
from backdrop.saliency.found.training import augmented, head_loss, rows_of, train
from backdrop.saliency.report_page import write_report
from backdrop.stores.datasets import open_index
from backdrop.tensor_files import read_tensors
from tests.material.published_vits import tiny_dino

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE_PX = 64
SHORT = FoundSettings(
    iterations=7, batch_size=3, size_px=SIZE_PX, decay_iterations=2, coarse_iterations=3, learning_rate=0.2
)


def photographs(folder: Path, num: int = 5) -> Path:
    """Red rectangles on textured blue; images/ and masks/."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    generator = np.random.default_rng(5)
    for number in range(num):
        mask_HW = np.zeros((70, 90), np.uint8)
        top, left = generator.integers(8, 30, 2)
        mask_HW[top : top + 32, left : left + 40] = 255
        image_HWC = np.where(mask_HW[..., None] > 0, [220, 40, 30], [30, 80, 190])
        image_HWC = np.clip(image_HWC + generator.integers(-20, 21, image_HWC.shape), 0, 255).astype(np.uint8)
        Image.fromarray(image_HWC).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask_HW).save(folder / "masks" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("photographs"))


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return read_tensors(run / "detector.safetensors", "")[0]


def test_every_pass_sees_every_image_once_and_the_last_batch_is_smaller() -> None:
    passes = [[rows_of(3 * epoch + number, 8, 3, seed=1) for number in range(3)] for epoch in range(2)]
    for batches in passes:
        assert [len(batch) for batch in batches] == [3, 3, 2]
        assert sorted(row for batch in batches for row in batch) == list(range(8))
    assert passes[0] != passes[1]
    assert rows_of(0, 8, 3, seed=1) == passes[0][0]


@pytest.mark.parametrize("size", [(1, 1), (30, 500), (600, 400)])
def test_an_image_becomes_the_square_by_its_draws_alone(size: tuple[int, int]) -> None:
    image_HWC = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    one, same, other = (augmented(image_HWC, FoundSettings(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (one.shape, one.dtype) == ((224, 224, 3), np.uint8)
    np.testing.assert_array_equal(one, same)
    assert size == (1, 1) or (one != other).any()


def test_the_scale_takes_resolution_away() -> None:
    image_HWC = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    sharp, rough = (
        augmented(image_HWC, FoundSettings(scales=scales, blur_probability=0), np.random.default_rng(0))
        for scales in ((1.0, 3.0), (0.1, 0.11))
    )
    np.testing.assert_array_equal(sharp, image_HWC)
    assert rough.astype(float).std() < image_HWC.astype(float).std() / 3


@pytest.mark.parametrize("is_coarse", [True, False])
def test_the_loss_is_the_papers(is_coarse: bool) -> None:
    draws = np.random.default_rng(0)
    logits, own, refined, coarse = draws.normal(size=(2, 6)), *(draws.integers(0, 2, (3, 2, 6)).astype(float))

    def entropy(targets: np.ndarray) -> float:
        total = 0.0
        for logit, target in zip(logits.flat, targets.flat, strict=True):
            probability = 1 / (1 + math.exp(-logit))
            total -= math.log(probability) if target else math.log(1 - probability)
        return total / logits.size

    expected = 1.5 * entropy(refined) + (entropy(coarse) if is_coarse else 4 * entropy(own))
    tensors = [torch.from_numpy(array) for array in (logits, own, refined)]
    loss = head_loss(*tensors, torch.from_numpy(coarse) if is_coarse else None, FoundSettings())
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_targets_are_refined_and_slightly_dilated() -> None:
    true_SS = np.zeros((64, 64), bool)
    true_SS[16:44, 16:44] = True  # up to the middle of patch 5, whose four pixels it touches
    image_SSC = np.where(true_SS[..., None], [220, 40, 30], [30, 80, 190]).astype(np.uint8)
    rough_ss = np.zeros((8, 8), bool)
    rough_ss[2:5, 3:6] = True
    own, nothing = refined_targets(image_SSC, [rough_ss, np.zeros((8, 8), bool)])
    expected = np.zeros((8, 8), bool)
    expected[2:6, 2:6] = True
    assert intersection_over_union(own, expected) > intersection_over_union(rough_ss, expected)
    np.testing.assert_array_equal(own, expected)
    assert not nothing.any()


def test_a_training_writes_a_detector_and_how_it_went(folder: Path, tmp_path: Path) -> None:
    index = open_index("folder", root=folder / "images")
    run = tmp_path / "run"
    weights = tiny_dino(tmp_path / "dino.pth")
    summary = train(index, run, SHORT, backbone_weights=weights, validation=folder, num_workers=1)
    assert summary["num_images"] == 5
    log = read_training_log(run)
    assert [record["epoch"] for record in log.epochs] == [0, 1, 2, 3]
    assert log.epochs[-1]["learning_rate"] == pytest.approx(0.2 * 0.95**3)
    assert summary["final_loss"] == log.epochs[-1]["loss"]
    assert summary["sanity"]["num_images"] == 2  # of five: the others would choose a threshold, were it not kept
    assert summary["sanity"]["own"]["threshold"] == 0.5
    assert not (run / training_state.FILE).exists()
    detector = open_detector(str(run), device="cpu")
    assert detector.identity["name"] == "found"
    assert detector(np.zeros((40, 60, 3), np.uint8), "key").shape == (40, 60)
    page = write_report(tmp_path / "page.html", images=None, masks=None, detectors=(), runs=(run,)).read_text()
    assert "frozen features" in page
    assert "Stage 1" not in page
    again = train(index, run, SHORT, backbone_weights=weights, validation=folder, num_workers=1)
    assert again == summary


def test_one_interrupted_anywhere_ends_with_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, weights = open_index("folder", root=folder / "images"), tiny_dino(tmp_path / "dino.pth")
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    train(index, whole, SHORT, backbone_weights=weights, validation=folder, num_workers=2)
    save_state, saved = training_state.save_state, []

    def save_and_stop(run: Path, *rest: object) -> None:
        save_state(run, *rest)  # type: ignore[arg-type]
        saved.append(run)
        raise KeyboardInterrupt

    monkeypatch.setattr(training_state, "save_state", save_and_stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(index, halted, SHORT, backbone_weights=weights, validation=folder, num_workers=1)
    monkeypatch.undo()
    train(index, halted, SHORT, backbone_weights=weights, validation=folder, num_workers=1)
    one, other = weights_of(whole), weights_of(halted)
    assert len(saved) == 2
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert (whole / "training.jsonl").read_bytes() == (halted / "training.jsonl").read_bytes()


def test_the_head_learns_the_refined_coarse_masks(folder: Path, tmp_path: Path) -> None:
    index, weights = open_index("folder", root=folder / "images"), tiny_dino(tmp_path / "dino.pth")
    settings = choose_settings(["iterations=60", "batch_size=5", "size_px=64", "decay_iterations=10", "scales=1,1.5"])
    train(index, tmp_path / "run", settings, backbone_weights=weights, validation=folder, num_workers=1)
    losses = [record["loss"] for record in read_training_log(tmp_path / "run").epochs]
    assert losses[-1] < losses[0] / 2


def test_the_commands_train_and_use_it(folder: Path, tmp_path: Path) -> None:
    weights, run = tiny_dino(tmp_path / "dino.pth"), tmp_path / "run"
    words = ["saliency", "train", "--preset", "found", "--images", str(folder / "images"), "--out", str(run)]
    small = ["--set", "iterations=2", "--set", "batch_size=2", "--set", "size_px=64", "--seed", "3"]
    cli.main([*words, *small, "--validation", str(folder), "--backbone-weights", str(weights)], standalone_mode=False)
    assert json.loads((run / "settings.json").read_text())["seed"] == 3
    predict = ["saliency", "predict", "--images", str(folder / "images"), "--out", str(tmp_path / "maps")]
    cli.main([*predict, "--detector", f"found:{run}:single"], standalone_mode=False)
    assert len(list((tmp_path / "maps").glob("*.png"))) == 5
    with pytest.raises(click.ClickException, match=r"other settings: settings\.iterations is 2 there, 501 now"):
        cli.main([*words, *small[2:], "--backbone-weights", str(weights)], standalone_mode=False)
    with pytest.raises(click.ClickException, match="no pseudo-labels but its own; leave out --source rbd"):
        cli.main([*words, "--source", "rbd"], standalone_mode=False)


def test_what_is_missing_is_said_before_any_work(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, weights = open_index("folder", root=folder / "images"), tiny_dino(tmp_path / "dino.pth")
    with pytest.raises(UserError, match="give --backbone-weights FILE"):
        train(index, tmp_path / "run", SHORT)
    with pytest.raises(UserError, match="size_px=60 must be a multiple of the network's patch, 8"):
        train(index, tmp_path / "run", FoundSettings(size_px=60), backbone_weights=weights)
    with pytest.raises(UserError, match="iterations=0 must be 1 or more"):
        choose_settings(["iterations=0"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="without torchrun"):
        train(index, tmp_path / "run", SHORT, backbone_weights=weights)
    assert not (tmp_path / "run").exists()


def test_images_that_cannot_be_decoded_are_left_out_and_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    photographs(tmp_path, num=3)
    (tmp_path / "images" / "1.png").write_bytes(b"no image")
    index, weights = open_index("folder", root=tmp_path / "images"), tiny_dino(tmp_path / "dino.pth")
    summary = train(
        index,
        tmp_path / "run",
        SHORT,
        backbone_weights=weights,
        validation=folder,
        num_workers=1,
    )
    assert (summary["num_images"], summary["left_out"]) == (2, ["1.png"])
    assert "1 images cannot be decoded and were left out: 1.png" in capsys.readouterr().err
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"none of 3 images below .* can be decoded"):
        train(
            index,
            tmp_path / "other",
            SHORT,
            backbone_weights=weights,
            validation=folder,
            num_workers=1,
        )
