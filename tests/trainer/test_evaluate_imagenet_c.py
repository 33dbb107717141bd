"""ImageNet-C on painted images: every set, the weights of the four means, mCE, no resizing."""

import json
from pathlib import Path

import numpy as np
import pytest

from backdrop.errors import UserError
from backdrop.trainer.evaluation import imagenet_c
from backdrop.trainer.evaluation.data.transforms import centre_cut
from backdrop.trainer.evaluation.harness.result import Result
from tests.material.evaluation_fixtures import WNIDS, colour, oracle, paint, save_image, write_tree

CLASSES = (3, 7)
# Accuracy in percent of each corruption at each strength, with two images: 0, 50 or 100.
TOP1 = {
    (name, severity): 50.0 * (number * severity % 3) if number else 100.0
    for number, name in enumerate(imagenet_c.CORRUPTIONS)
    for severity in imagenet_c.SEVERITIES
}


def score(root: Path, **options: str) -> Result:
    return imagenet_c.run(oracle(root), root, imagenet_c.Options(**options))


def write_set(folder: Path, top1: float) -> None:
    painted = [label if top1 > 50 * number else 900 for number, label in enumerate(CLASSES)]
    files = {f"{WNIDS[label]}/ILSVRC2012_val_1.JPEG": each for label, each in zip(CLASSES, painted, strict=True)}
    write_tree(folder, files, size=(64, 80))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imagenet-c")
    for (name, severity), top1 in TOP1.items():
        # The archives of weather and digital lie in folders of their own, the others side by side.
        parent = next((root / each for each in ("weather", "digital") if name in imagenet_c.CATEGORIES[each]), root)
        write_set(parent / name / str(severity), top1)
    write_set(root / "speckle_noise" / "1", 100.0)  # of extra.tar: not among the 15
    return root


@pytest.fixture(scope="module")
def result(root: Path) -> Result:
    errors = dict.fromkeys(imagenet_c.CORRUPTIONS, 80.0) | {"fog": [40.0, 60.0, 50.0, 45.0, 55.0]}
    (root / "alexnet.json").write_text(json.dumps(errors))
    return score(root, alexnet_errors=str(root / "alexnet.json"))


def test_every_set_has_its_accuracy(result: Result) -> None:
    assert result.facts["top1"] == {f"{name}/{severity}": value for (name, severity), value in TOP1.items()}
    assert result.facts["sets"] == {"seen": 75, "expected": 75}
    assert "75 sets have not 50000 images" in " ".join(result.problems)


def test_noise_is_the_mean_of_three_and_the_others_of_four(result: Result) -> None:
    mean_of = {name: sum(TOP1[name, severity] for severity in range(1, 6)) / 5 for name in imagenet_c.CORRUPTIONS}
    assert len(set(mean_of.values())) > 1
    names = list(imagenet_c.CORRUPTIONS)
    for category, begin, end in (("noise", 0, 3), ("blur", 3, 7), ("weather", 7, 11), ("digital", 11, 15)):
        expected = sum(mean_of[name] for name in names[begin:end]) / (end - begin)
        assert result.metrics[category] == pytest.approx(expected)
    # Of the 15, not of the four means.
    assert result.metrics["mean"] == pytest.approx(sum(mean_of.values()) / 15)
    four = np.mean([result.metrics[category] for category in imagenet_c.CATEGORIES])
    assert result.metrics["mean"] != pytest.approx(four)


def test_mce_is_relative_to_alexnet(result: Result) -> None:
    errors = {name: sum(100 - TOP1[name, severity] for severity in range(1, 6)) for name in imagenet_c.CORRUPTIONS}
    alexnet = {name: 250.0 if name == "fog" else 400.0 for name in errors}
    assert result.metrics["mce"] == pytest.approx(100 * sum(errors[name] / alexnet[name] for name in errors) / 15)


def test_a_category_that_is_not_complete_has_no_mean(tmp_path: Path) -> None:
    for name in imagenet_c.CATEGORIES["noise"]:
        for severity in imagenet_c.SEVERITIES:
            write_set(tmp_path / name / str(severity), 50.0)
    for severity in (1, 2, 3, 4):
        write_set(tmp_path / "snow" / str(severity), 100.0)
    result = score(tmp_path)
    names = ("noise", *imagenet_c.CATEGORIES["noise"])
    assert result.metrics == dict.fromkeys(names, 50.0)
    told = " | ".join(result.problems)
    assert "sets: 19 where the official data set has 75" in told
    assert "weather has no mean: snow, frost, fog, brightness not there in all strengths" in told


def test_images_are_cut_but_not_resized(tmp_path: Path) -> None:
    # Resized to 256 and cut, the middle would be 51 % of what is left; as published it is a third.
    image_HWC = paint(7, (224, 224))
    image_HWC[42:182, 42:182] = colour(3)
    save_image(tmp_path / "fog" / "1" / WNIDS[3] / "a.JPEG", image_HWC)
    assert score(tmp_path).facts["top1"] == {"fog/1": 0.0}
    larger_HWC = np.arange(230 * 241 * 3, dtype=np.uint32).astype(np.uint8).reshape(230, 241, 3)
    # (241 - 224) / 2 = 8.5 goes to the even 8, as in Python and torchvision.
    assert np.array_equal(centre_cut().apply(larger_HWC, 0), larger_HWC[3:227, 8:232])
    small_HWC = np.full((100, 301, 3), 9, dtype=np.uint8)
    cut_HWC = centre_cut().apply(small_HWC, 0)
    assert cut_HWC.shape == (224, 224, 3)
    assert cut_HWC[:, 0, 0].tolist() == [0] * 62 + [9] * 100 + [0] * 62


@pytest.mark.parametrize("content", [{}, {"fog": 3}, dict.fromkeys(imagenet_c.CORRUPTIONS, 0.0), "no errors"])
def test_errors_of_alexnet_that_cannot_be_used(root: Path, tmp_path: Path, content: object) -> None:
    (tmp_path / "errors.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"errors\.json"):
        score(root, alexnet_errors=str(tmp_path / "errors.json"))


def test_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of the corruptions"):
        score(tmp_path)
