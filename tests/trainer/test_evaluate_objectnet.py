"""ObjectNet on painted images in red frames: three ways of counting, mappings parsed, no red pixel left."""

import json
from pathlib import Path

import numpy as np
import pytest

from backdrop.errors import UserError
from backdrop.trainer.evaluation import objectnet
from backdrop.trainer.evaluation.data.transforms import framed
from backdrop.trainer.evaluation.harness.result import Result
from tests.material.evaluation_fixtures import oracle, paint, save_image, write_tree
from tests.material.objectnet_mappings import CLASSES, FOLDERS, write_mappings

RED = np.array([255, 0, 0], dtype=np.uint8)


def in_frame(painted: int) -> np.ndarray:
    image_HWC = paint(painted, (60, 70))
    image_HWC[:2] = image_HWC[-2:] = RED
    image_HWC[:, :2] = image_HWC[:, -2:] = RED
    return image_HWC


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_mappings(tmp_path / "mappings")
    painted = {"alarm_clock": (409, 530), "bike": (671, 444, 17), "zz_bannana": (954,), "air_freshener": (0,)}
    for folder, classes in painted.items():
        for number, each in enumerate(classes):
            save_image(tmp_path / "images" / folder / f"{number}.png", in_frame(each))
    return tmp_path


def score(root: Path, **options: int) -> Result:
    # Of an image of class 17 the network thinks of a bicycle next, then of a clock: only the restricted way counts it.
    subject = oracle(root, {17: {17: 9.0, 444: 5.0, 409: 4.0}})
    return objectnet.run(subject, root, objectnet.Options(**options))


def test_three_ways_of_counting(root: Path) -> None:
    result = score(root)
    # Six images of three objects. Right first: 409, 671, 954. Any: also 530 and 444. Restricted: also the 17.
    assert result.metrics["strict_top1"] == pytest.approx(100 * 3 / 6)
    assert result.metrics["any_top1"] == pytest.approx(100 * 5 / 6)
    assert result.metrics["restricted_top1"] == 100.0
    assert result.metrics["any_top5"] == 100.0  # 444 is the second choice of the 17
    assert result.facts["images"] == 6
    assert result.facts["classes of ImageNet"] == {"seen": 3, "expected": 113}


def test_mappings_go_through_names_and_ids(root: Path) -> None:
    assert objectnet.read_classes(root / "mappings") == CLASSES


def test_the_templates_mapping_counts_sorted_labels(root: Path) -> None:
    official = score(root).metrics
    mappings = root / "mappings"
    (mappings / "objectnet_to_imagenet_1k.json").unlink()
    rank = {label: number for number, label in enumerate(sorted(FOLDERS.values()))}
    template = {str(each): rank[label] for label, classes in CLASSES.items() for each in classes}
    (mappings / "imagenet_pytorch_id_to_objectnet_id.json").write_text(json.dumps(template))
    assert objectnet.read_classes(mappings) == CLASSES
    assert score(root).metrics == official


def test_the_frame_is_the_data_sets_own() -> None:
    """One pixel, as the data set has it and Ryali et al. took off; two, its template's number, cut into the image."""
    assert objectnet.Options().border_px == 1


@pytest.mark.parametrize(("border_px", "is_red"), [(1, True), (2, False), (3, False)])
def test_the_frame_is_cut(border_px: int, is_red: bool) -> None:
    cut_HWC = framed(border_px).apply(in_frame(222), 0).astype(int)
    assert cut_HWC.shape == (224, 224, 3)
    # Of a grey image, whatever red there is comes from the frame.
    assert bool((cut_HWC[..., 0] - cut_HWC[..., 1]).max() > 0) == is_red


def test_the_shorter_side_is_the_crops(tmp_path: Path) -> None:
    # Columns 0 .. 69 within the frame: of 66 x 56, 56 become 224, and the middle 56 columns are left.
    image_HWC = np.zeros((60, 70, 3), dtype=np.uint8)
    image_HWC[:, 7:63] = 200
    assert (framed(2).apply(image_HWC, 0)[:, 4:-4] == 200).all()


def test_missing_folders_extra_files_and_bad_mappings(root: Path) -> None:
    write_tree(root, {"images/alarm_clock/notes.txt": "text", "images/unknown/0.png": 3})
    (root / "images" / "zz_bannana" / "0.png").unlink()
    result = score(root)
    assert "left out, not of the data set: 2 (unknown, alarm_clock/notes.txt)" in result.problems
    assert "1 of 3 classes have no image (Banana)" in result.problems
    (root / "mappings" / "pytorch_to_imagenet_2012_id.json").write_text("{}")
    with pytest.raises(UserError, match="mappings"):
        score(root)


def test_the_templates_real_mapping(shared_data: Path, tmp_path: Path) -> None:
    template = json.loads((shared_data / "labels" / "imagenet_pytorch_id_to_objectnet_id.json").read_text())
    labels = {f"folder {number}": f"label {number:03d}" for number in range(313)}
    (tmp_path / "imagenet_pytorch_id_to_objectnet_id.json").write_text(json.dumps(template))
    (tmp_path / "folder_to_objectnet_label.json").write_text(json.dumps(labels))
    classes = objectnet.read_classes(tmp_path)
    assert len(classes) == objectnet.NUM_CLASSES
    several = sorted(each for each in classes.values() if len(each) > 1)
    assert sum(map(len, classes.values())) == 125
    nine = "409 530, 671 444, 423 559 765, 560 518, 418 749 563, 601 655 689, 732 759, 457 906, 479 694"
    assert several == sorted(tuple(map(int, words.split())) for words in nine.split(","))
