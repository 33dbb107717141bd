"""ReaL on painted images: labels found by name, images without labels left out, any of several labels right."""

import json
from pathlib import Path

import pytest

from backdrop.errors import UserError
from backdrop.trainer.evaluation import real
from backdrop.trainer.evaluation.harness.result import Result
from tests.material.evaluation_fixtures import WNIDS, imagenet_split, oracle, write_tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    # Numbers go over the classes in turn (1: class 500, 2: class 3, 3: class 500, 4: class 3); a listing goes by class.
    imagenet_split(tmp_path, "val", {500: [500, 7], 3: [3, 4]})
    (tmp_path / "real.json").write_text(json.dumps([[500], [2, 3], [], [9]]))
    return tmp_path


def score(root: Path) -> Result:
    return real.run(oracle(root), root, real.Options())


def test_labels_are_found_by_name_and_images_without_any_left_out(root: Path) -> None:
    result = score(root)
    # 500 and 3 are right, the image of no label does not count, the last (4 painted, 9 wanted) is wrong. By place in
    # the listing the labels would be (3: 500, 4: {2, 3}, 500: none, 7: 9): none right. With the empty one: 50 %.
    assert result.metrics["real_top1"] == pytest.approx(100 * 2 / 3)
    assert result.facts["images with labels"] == {"seen": 3, "expected": 46_837}
    assert result.facts["labels"]["seen"] == 4


def test_top5_takes_any_label_among_the_five_best(root: Path) -> None:
    subject = oracle(root, {4: {4: 5.0, 8: 4.0, 11: 3.0, 12: 2.0, 9: 1.0}})
    assert real.run(subject, root, real.Options()).metrics == pytest.approx({"real_top1": 200 / 3, "real_top5": 100.0})


def test_what_has_no_place_among_the_labels_is_told(root: Path) -> None:
    write_tree(root / "val" / WNIDS[3], {"ILSVRC2012_val_00000005.JPEG": 3, "ILSVRC2012_val_00000000.JPEG": 3})
    write_tree(root / "val" / WNIDS[3], {"mine.jpg": 3, "ILSVRC2012_val_00000002.txt": "no image"})
    result = score(root)
    assert result.metrics["real_top1"] == pytest.approx(100 * 2 / 3)
    assert "1 images are not named ILSVRC2012_val_<8 digits>: left out" in result.problems
    assert "2 images have a number outside 1 .. 4: left out" in result.problems
    with pytest.raises(UserError, match=r"--strict: .*46837"):
        result.fail_where_strict(True)


def test_a_truncated_image_is_named_and_shifts_no_label(root: Path) -> None:
    path = root / "val" / WNIDS[3] / "ILSVRC2012_val_00000002.JPEG"
    path.write_bytes(path.read_bytes()[:200])
    result = score(root)
    assert result.metrics["real_top1"] == 50.0
    assert [problem for problem in result.problems if "cannot be decoded" in problem] == [
        f"{WNIDS[3]}/{path.name}: cannot be decoded"
    ]


@pytest.mark.parametrize("text", ["{}", "[[1], 2]", "[[1000]]", '[["1"]]', "[[1]", "[[], [], [], []]"])
def test_a_file_that_is_no_list_of_labels_is_refused(root: Path, text: str) -> None:
    (root / "real.json").write_text(text)
    with pytest.raises(UserError, match=r"label|list of lists"):
        score(root)


def test_the_released_labels_have_their_counts(shared_data: Path) -> None:
    labels = real.read_labels(shared_data / "labels" / "real.json")
    assert len(labels) == real.NUM_IMAGES
    assert sum(bool(each) for each in labels) == real.NUM_WITH_LABELS
