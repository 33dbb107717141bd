"""ImageNet-V2 on painted images: folders named by number or WordNet id, never taken in the order of their names."""

from pathlib import Path

import pytest

from backdrop.errors import UserError
from backdrop.trainer.evaluation import imagenet_v2
from backdrop.trainer.evaluation.harness.result import Result
from tests.material.evaluation_fixtures import WNIDS, oracle, paint, save_image, write_tree

MATCHED = "imagenetv2-matched-frequency"


def score(root: Path, **options: str) -> Result:
    return imagenet_v2.run(oracle(root), root, imagenet_v2.Options(**options))


def test_numbers_are_values_not_texts(tmp_path: Path) -> None:
    # Sorted as texts the folders are 0, 10, 100, 2: by their place, only the first would be right.
    files = {f"{MATCHED}-format-val/{number}/{number}.jpeg": number for number in (0, 2, 10, 100)}
    write_tree(tmp_path, {**files, f"{MATCHED}-format-val/100/b.jpeg": 3, "README.md": "read me"})
    result = score(tmp_path)
    assert result.metrics == {"matched_frequency": 80.0, "matched_frequency_top5": pytest.approx(80.0)}
    assert result.facts["release"] == {"matched_frequency": f"{MATCHED}-format-val (numeric)"}
    assert result.facts["matched_frequency images"] == {"seen": 5, "expected": 10_000}
    assert any("1000 classes have not 10 images (class 0 has 1," in problem for problem in result.problems)


def test_the_three_sets_in_the_order_of_the_paper_and_a_set_by_itself(tmp_path: Path) -> None:
    write_tree(tmp_path, {f"imagenetv2-top-images-format-val/{label}/a.jpeg": label for label in (5, 6)})
    write_tree(tmp_path, {f"imagenetv2-threshold0.7/{WNIDS[label]}/a.jpeg": 5 for label in (5, 6)})
    write_tree(tmp_path, {f"{MATCHED}/{label}/a.jpeg": 6 for label in (5, 6, 7, 8)})
    result = score(tmp_path)
    top1 = {name: value for name, value in result.metrics.items() if not name.endswith("top5")}
    assert list(top1.items()) == [
        ("matched_frequency", 25.0),
        ("threshold_0.7", 50.0),
        ("top_images", 100.0),
    ]
    assert "threshold_0.7: only the wnid release is there, not the numeric one" in result.problems
    assert score(tmp_path / MATCHED).metrics["matched_frequency"] == 25.0


def test_of_both_releases_the_chosen_one_counts(tmp_path: Path) -> None:
    write_tree(tmp_path, {f"{MATCHED}/{WNIDS[7]}/0.jpeg": 8, f"{MATCHED}-format-val/7/0.jpeg": 7})
    assert score(tmp_path).metrics["matched_frequency"] == 100.0
    assert score(tmp_path, release="wnid").metrics["matched_frequency"] == 0.0
    with pytest.raises(UserError, match="numeric, wnid"):
        score(tmp_path, release="new")


def test_dirty_files_are_read_or_told(tmp_path: Path) -> None:
    save_image(tmp_path / MATCHED / "222" / "grey.JPEG", paint(222), mode="L")
    save_image(tmp_path / MATCHED / "5" / "cmyk.jpg", paint(5), mode="CMYK")
    write_tree(tmp_path, {f"{MATCHED}/{name}": "text" for name in ("README.txt", "5/notes.md", "1000/a.jpeg")})
    result = score(tmp_path)
    assert result.metrics["matched_frequency"] == 100.0
    assert f"left out, not of the data set: 2 ({MATCHED}/1000, {MATCHED}/5/notes.md)" in result.problems


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    with pytest.raises(UserError, match="none of the sets of ImageNet-V2"):
        score(tmp_path)
    write_tree(tmp_path, {f"{MATCHED}/3/a.jpeg": 3, f"{MATCHED}/{WNIDS[4]}/a.jpeg": 4})
    with pytest.raises(UserError, match="both numbers and WordNet ids"):
        score(tmp_path)
