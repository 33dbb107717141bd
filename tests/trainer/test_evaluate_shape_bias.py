"""Shape bias on painted stimuli: means of probabilities, stimuli of one label dropped, two ways to prepare them."""

import json
from pathlib import Path

import numpy as np
import pytest

from backdrop.errors import UserError
from backdrop.trainer.evaluation import shape_bias
from backdrop.trainer.evaluation.data.class_lists import SHAPE_CATEGORIES
from backdrop.trainer.evaluation.data.projections import mean_probabilities
from backdrop.trainer.evaluation.harness import evaluate as _evaluate
from backdrop.trainer.evaluation.harness.result import Result
from tests.material.evaluation_fixtures import colour, oracle, paint, save_image, write_tree

MEMBERS = {name: classes[0] for name, classes in SHAPE_CATEGORIES.items()}
# File to the category whose first class is painted. Shape: 3 decisions, texture: 2, neither: 1; one is no conflict.
STIMULI = {
    "bear/bear1-cat2.png": "bear",
    "bear/bear10-dog1.png": "dog",
    "bear/bear2-bear7.png": "bear",
    "cat/cat1-truck3.png": "cat",
    "dog/dog1-knife1.png": "dog",
    "oven/oven1-clock1.png": "clock",
    "truck/truck4-boat1.png": "bird",
}


def score(root: Path, **options: str) -> Result:
    return shape_bias.run(oracle(root), root, shape_bias.Options(**options))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path, {name: MEMBERS[category] for name, category in STIMULI.items()}, size=(224, 224))


def test_decisions_for_neither_are_ignored_and_stimuli_of_one_label_dropped(root: Path) -> None:
    result = score(root)
    assert result.metrics["shape_bias"] == pytest.approx(100 * 3 / 5)
    assert result.metrics["shape_decisions"] == pytest.approx(100 * 3 / 6)
    assert result.metrics["texture_decisions"] == pytest.approx(100 * 2 / 6)
    assert result.facts["images"] == {"seen": 7, "expected": 1280}
    assert result.facts["images in conflict"] == {"seen": 6, "expected": 1200}


def test_probabilities_are_averaged_not_summed_and_not_logits() -> None:
    members = list(SHAPE_CATEGORIES.values())
    names = list(SHAPE_CATEGORIES)
    # All 109 dogs have a little, which together is more than the one knife has: a sum would say dog.
    logits_NC = np.full((2, 1000), -20.0)
    logits_NC[0, list(SHAPE_CATEGORIES["dog"])] = 0.0
    logits_NC[0, SHAPE_CATEGORIES["knife"]] = 2.0
    # One of four bears is sure, all six cats are nearly: the mean of the logits would say cat.
    logits_NC[1, SHAPE_CATEGORIES["bear"][0]] = 10.0
    logits_NC[1, list(SHAPE_CATEGORIES["cat"])] = 2.0
    probability_NG = mean_probabilities(logits_NC, members)
    assert [names[number] for number in probability_NG.argmax(axis=1)] == ["knife", "bear"]
    total = 109 + np.exp(2) + 890 * np.exp(-20)
    assert probability_NG[0, names.index("dog")] == pytest.approx(1 / total)


def test_native_stimuli_keep_their_rim(tmp_path: Path) -> None:
    # The middle is 39 % of the stimulus, and 51 % of what is left when it is resized to 256 and cut to 224.
    image_HWC = paint(MEMBERS["clock"], (224, 224))
    image_HWC[42:182, 42:182] = colour(MEMBERS["oven"])
    save_image(tmp_path / "oven" / "oven1-clock1.png", image_HWC)
    assert score(tmp_path).metrics["shape_bias"] == 100.0
    assert score(tmp_path, preprocessing="native").metrics["shape_bias"] == 0.0
    with pytest.raises(UserError, match="standard, native"):
        score(tmp_path, preprocessing="zoomed")


def test_odd_files_are_told(root: Path) -> None:
    more = {"cat/dog9-bear1.png": 5, "cat/cat.png": 5, "cat/cat2-tiger1.png": 5}
    write_tree(root, {**more, "README.md": "text", "cat/list.txt": "text", "lion/lion1-cat1.png": 5})
    result = score(root)
    assert result.metrics["shape_bias"] == pytest.approx(100 * 3 / 5)
    told = " | ".join(result.problems)
    assert "left out, not of the data set: 2 (lion, cat/list.txt)" in told
    assert "3 stimuli are not named by their folder's shape" in told
    assert "11 of 16 classes have no image" in told


def test_no_decision_at_all_is_no_number(tmp_path: Path) -> None:
    write_tree(tmp_path, {"cat/cat1-dog1.png": MEMBERS["boat"]})
    result = score(tmp_path)
    assert "shape_bias" not in result.metrics
    assert any("there is no shape bias" in problem for problem in result.problems)


def test_the_real_stimuli_are_all_found(shared_data: Path) -> None:
    result = Result()
    images, texture_N = shape_bias.open_conflicts(shared_data / "cue-conflict", result)
    assert result.facts["images"]["seen"] == 64
    assert set(images.label_N.tolist()) == set(range(16))
    assert (images.label_N != texture_N).all()
    assert not [problem for problem in result.problems if "official" not in problem]


def test_from_the_command_to_the_summary(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_evaluate, "open_subject", lambda path, device, is_untrained: oracle(root))
    monkeypatch.setenv("BACKDROP_DATA", str(root.parent))
    monkeypatch.setattr(shape_bias, "DATA", root.name)
    overrides = ["preprocessing=native"]
    summary = _evaluate.evaluate_run("shape-bias", root, None, overrides=overrides, json_path=root / "out.json")
    assert json.loads((root / "out.json").read_text()) == summary
    assert summary["scores"]["shape_bias"] == pytest.approx(60.0)
    assert summary["options"] == {"preprocessing": "native"}
    assert summary["facts"]["transform"] == "as published at 224, others resized and cropped"
    with pytest.raises(UserError, match=r"--strict: .*1200"):
        _evaluate.evaluate_run("shape-bias", root, root, strict=True)
