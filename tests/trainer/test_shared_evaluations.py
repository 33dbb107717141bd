"""Evaluations in several processes that torchrun started: the scores of one, of which they resume each other's work."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from backdrop.errors import UserError
from backdrop.trainer.backbones import build_backbone
from backdrop.trainer.evaluation.detection import training
from backdrop.trainer.run import checkpoint
from tests.material.distributed_launch import torchrun
from tests.material.shared_evaluations import PARTS, write_set

EXACT = ("kept_outputs", "sets", "neighbours", "linear", "cached", "diverged")
# BatchNorm's statistics are those of the step's images in another order of additions.
WITHIN_ROUNDING = ("adapted", "finetuned")
PROGRAM = ("-m", "tests.material.shared_evaluations")


def parts_of(out: Path, *words: str, num_processes: int) -> list[dict[str, Any]]:
    """What each process found, by part; of a launch that is to go well."""
    out.mkdir(exist_ok=True)
    write_set(out)
    done = torchrun(*PROGRAM, out, *words, num_processes=num_processes)
    assert done.returncode == 0, done.stderr[-4000:]
    return [
        {part: json.loads((out / f"{part}-{rank}.json").read_text()) for part in words} for rank in range(num_processes)
    ]


@pytest.fixture(scope="module")
def of_one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    (found,) = parts_of(tmp_path_factory.mktemp("one"), *PARTS, num_processes=1)
    return found


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return parts_of(tmp_path_factory.mktemp("two"), *PARTS, num_processes=2)


def assert_close(found: Any, expected: Any) -> None:
    """Two trees of numbers, within float error of a few steps."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(found[name], value)
    elif isinstance(expected, list) and expected and isinstance(expected[0], dict):
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    else:
        np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-5, atol=1e-6)


def assert_same_scores(of_several: list[dict[str, Any]], of_one: dict[str, Any]) -> None:
    for found in of_several:
        assert {part: found[part] for part in EXACT} == {part: of_one[part] for part in EXACT}
        for part in WITHIN_ROUNDING:
            assert_close(found[part], of_one[part])


@pytest.mark.slow
def test_scores_of_two_processes_are_those_of_one(of_two: list[dict[str, Any]], of_one: dict[str, Any]) -> None:
    assert_same_scores(of_two, of_one)
    assert "not finite" in of_one["diverged"]["error"]
    assert of_one["kept_outputs"]["corrupt"]


@pytest.mark.slow
def test_a_step_may_leave_a_process_without_images(of_one: dict[str, Any], tmp_path: Path) -> None:
    assert_same_scores(parts_of(tmp_path, *PARTS, num_processes=3), of_one)
    assert len(list((tmp_path / "features").iterdir())) == 2  # the first process alone wrote


@pytest.mark.slow
def test_fits_whose_process_was_killed_go_on(
    of_two: list[dict[str, Any]], of_one: dict[str, Any], tmp_path: Path
) -> None:
    after_epoch_2 = {}
    for part in WITHIN_ROUNDING:
        assert torchrun(*PROGRAM, tmp_path, "--dies", part, num_processes=2).returncode != 0
        (kept,) = (tmp_path / part).glob("*-fit-*.safetensors")
        after_epoch_2[kept] = kept.read_bytes()
    assert not list(tmp_path.glob("*.json"))
    for found, whole in zip(parts_of(tmp_path, *WITHIN_ROUNDING, num_processes=2), of_two, strict=True):
        assert found == {part: whole[part] for part in WITHIN_ROUNDING}  # to the bit
    for kept, content in after_epoch_2.items():
        kept.write_bytes(content)
    (on_one,) = parts_of(tmp_path, *WITHIN_ROUNDING, num_processes=1)
    assert_close(on_one, {part: of_one[part] for part in WITHIN_ROUNDING})


def write_images(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, num_images in (("train", 9), ("val", 5)):
        for name, level in (("dark", 40), ("light", 60)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(num_images):
                Image.fromarray((level + rng.integers(0, 90, (40, 48, 3))).astype(np.uint8)).save(
                    folder / f"{number}.png"
                )
    return root


@pytest.mark.slow
def test_the_command_prints_once_what_one_process_prints(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data")
    torch.manual_seed(1)
    backbone = build_backbone("resnet18", cifar_stem=False)
    scores = []
    for num_processes in (1, 2):
        folder = tmp_path / str(num_processes)
        folder.mkdir()
        weights = checkpoint.save_backbone(folder, backbone, name="resnet18", cifar_stem=False)
        words = ("cli.py", "evaluate", "knn", "--weights", weights, "--data", data, "--json")
        done = torchrun(*words, "--set", "k=3", num_processes=num_processes)
        assert done.returncode == 0, done.stderr[-4000:]
        summary = json.loads(done.stdout)  # one, not two behind each other
        scores.append((summary["scores"], summary["untrained"], summary["facts"]))
        assert done.stderr.count("classes: those of the 2 folders") == 1
    assert scores[0] == scores[1]


def test_detectors_say_that_they_are_fine_tuned_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    training.check_alone("voc-detection")
    monkeypatch.setattr(training, "num_processes", lambda: 2)
    with pytest.raises(UserError, match="start it without torchrun"):
        training.check_alone("voc-detection")
