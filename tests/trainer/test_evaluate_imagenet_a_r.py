"""ImageNet-A and -R on painted images: only the 200 classes can be answered; foregrounds alone."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from backdrop.errors import UserError
from backdrop.trainer.evaluation import imagenet_a, imagenet_r
from backdrop.trainer.evaluation.harness.result import Result
from tests.material.evaluation_fixtures import WNIDS, colour, oracle, paint, save_image, write_tree
from tests.material.small_images import FormulaDetector, build

EACH = pytest.mark.parametrize("task", [imagenet_a, imagenet_r])
# 11, 13, 22 are in both lists; 12 and 14 in neither. Of an image of class 12 the network thinks of 13 next.
ANSWERS = {12: {12: 9.0, 14: 8.0, 13: 5.0, 11: 1.0}}


def score(task: ModuleType, root: Path, data: Path | None = None, **options: object) -> Result:
    return task.run(oracle(root, ANSWERS), data or root, task.Options(**options))


@EACH
def test_an_answer_outside_of_the_200_counts_as_the_best_inside(task: ModuleType, tmp_path: Path) -> None:
    painted = {f"{WNIDS[11]}/a.jpg": 11, f"{WNIDS[13]}/b.jpg": 12, f"{WNIDS[22]}/c.jpg": 13, f"{WNIDS[22]}/d.jpg": 12}
    write_tree(tmp_path, {**painted, "README.txt": "read me"})
    result = score(task, tmp_path)
    # Right: 11, and 13 behind the 12 and the 14. With all 1,000 classes only the first; 11 is the second of the last.
    assert result.metrics["top1"] == 50.0
    assert result.facts["images"]["seen"] == 4
    assert any(problem.startswith("197 of 200 classes have no image (n") for problem in result.problems)
    assert not any("not of the data set" in problem for problem in result.problems)


@EACH
def test_top5_is_of_the_200_classes(task: ModuleType, tmp_path: Path) -> None:
    # 12 and 14 cannot be answered: 22 is the fifth answer, although the seventh class, and 47 the sixth.
    answers = {12: dict(zip((12, 14, 11, 13, 23, 39, 22, 47), range(10, 0, -1), strict=False))}
    write_tree(tmp_path, {f"{WNIDS[22]}/a.jpg": 12, f"{WNIDS[47]}/a.jpg": 12})
    result = task.run(oracle(tmp_path, answers), tmp_path, task.Options())
    assert result.metrics == {"top1": 0.0, "top5": 50.0}


@EACH
def test_other_classes_and_stray_files_are_left_out_and_told(task: ModuleType, tmp_path: Path) -> None:
    write_tree(tmp_path, {f"{WNIDS[11]}/A.JPEG": 11, f"{WNIDS[12]}/a.jpg": 12, "n0/a.jpg": 3, "list.csv": "a"})
    save_image(tmp_path / WNIDS[22] / "grey.png", paint(222), mode="L")
    result = score(task, tmp_path)
    assert result.facts["images"]["seen"] == 2
    assert "1 images are of other classes: left out" in result.problems
    assert "left out, not of the data set: 2 (list.csv, n0)" in result.problems
    with pytest.raises(UserError, match="no image in a folder of a class"):
        score(task, tmp_path, tmp_path / WNIDS[11])


def save_mask(path: Path, *, top: int, value: int, size: tuple[int, int] = (64, 64)) -> None:
    mask_HW = np.zeros(size, dtype=np.uint8)
    mask_HW[top:] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask_HW).save(path)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Images whose lower quarter is their class and whose rest is class 22, and masks of the quarter."""
    for label in (11, 13):
        for name in ("a", "b"):
            image_HWC = paint(22, (64, 64))
            image_HWC[44:] = colour(label)
            save_image(tmp_path / "data" / WNIDS[label] / f"{name}.png", image_HWC)
            save_mask(tmp_path / "masks" / WNIDS[label] / f"{name}.png", top=44, value=255)
    return tmp_path


def test_foregrounds_alone(scenes: Path) -> None:
    result = score(imagenet_a, scenes, scenes / "data", masks=str(scenes / "masks"))
    assert result.metrics == {"top1": 0.0, "top5": 100.0, "only_fg_top1": 100.0, "only_fg_top5": 100.0}
    assert result.facts["only_fg"] == {"masks": "PNG masks above 0.9", "fill": 0, "images": 4}


def test_masks_beside_the_images_are_found(scenes: Path) -> None:
    (scenes / "masks").rename(scenes / "data-masks")
    found = score(imagenet_a, scenes, scenes / "data")
    assert found.metrics["only_fg_top1"] == 100.0
    assert imagenet_a.facts_of_data(scenes / "data", imagenet_a.Options()) == {"has_only_fg": True}
    assert "only_fg_top1" not in score(imagenet_a, scenes, scenes / "data", masks="none").metrics
    (scenes / "data-masks").rename(scenes / "masks")
    without = score(imagenet_a, scenes, scenes / "data")
    assert "only_fg_top1" not in without.metrics
    assert "data-masks" in without.facts["only_fg"]


def test_masks_are_cut_at_nine_tenths(scenes: Path) -> None:
    # 229 / 255 is below 0.9, 230 above: of the first image nothing is left.
    save_mask(scenes / "masks" / WNIDS[11] / "a.png", top=44, value=229)
    save_mask(scenes / "masks" / WNIDS[11] / "b.png", top=44, value=230)
    masks = str(scenes / "masks")
    # Black answers 6, the first of the 200: all their logits are 0.
    assert score(imagenet_a, scenes, scenes / "data", masks=masks).metrics["only_fg_top1"] == 75.0
    lower = score(imagenet_a, scenes, scenes / "data", masks=masks, mask_threshold=0.5)
    assert lower.metrics["only_fg_top1"] == 100.0


def test_masks_that_are_absent_or_of_another_size(scenes: Path) -> None:
    (scenes / "masks" / WNIDS[11] / "a.png").unlink()
    save_mask(scenes / "masks" / WNIDS[13] / "a.png", top=44, value=255, size=(64, 60))
    result = score(imagenet_a, scenes, scenes / "data", masks=str(scenes / "masks"))
    assert result.metrics["only_fg_top1"] == 100.0
    assert "1 images have no mask: left out of Only-FG" in result.problems
    fault = "image or mask cannot be decoded, or they differ in size"
    assert f"{WNIDS[13]}/a.png: {fault}" in result.problems
    with pytest.raises(UserError, match="no masks at"):
        score(imagenet_a, scenes, scenes / "data", masks=str(scenes / "absent"))
    with pytest.raises(UserError, match="fill=256"):
        score(imagenet_a, scenes, scenes / "data", fill=256)


def test_masks_are_read_as_a_detectors_folder_is(scenes: Path) -> None:
    """Named otherwise, in alpha, and the other way round; and not taken for what they are not."""
    for path in (scenes / "masks").rglob("*.png"):
        alpha_HW = 255 - np.asarray(Image.open(path))
        image = Image.fromarray(np.full((64, 64, 3), 90, np.uint8))
        image.putalpha(Image.fromarray(alpha_HW))
        folder = scenes / "cut-out" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{path.stem}_mask.png")
    masks = str(scenes / "cut-out")
    result = score(imagenet_a, scenes, scenes / "data", masks=f"{masks}:alpha:inverted")
    assert result.metrics["only_fg_top1"] == 100.0
    assert result.facts["only_fg"]["masks"] == "PNG masks above 0.9, alpha, inverted"
    assert score(imagenet_a, scenes, scenes / "data", masks=f"{masks}:alpha").metrics["only_fg_top1"] < 100
    with pytest.raises(UserError, match=r"Write :alpha behind"):
        score(imagenet_a, scenes, scenes / "data", masks=masks)


def test_what_stands_in_for_the_background(scenes: Path) -> None:
    # Grey 27 is class 0, which is none of the 200, and so is 225, class 999: neither answer is taken.
    for fill in (27, 225):
        result = score(imagenet_a, scenes, scenes / "data", masks=str(scenes / "masks"), fill=fill)
        assert result.metrics["only_fg_top1"] == 100.0
        assert result.facts["only_fg"]["fill"] == fill


class LowerQuarterDetector(FormulaDetector):
    """Finds what lies in the lowest rows."""

    def __call__(self, image_HWC: np.ndarray, key: str = "") -> np.ndarray:
        """1 in the rows from 44 on."""
        map_HW = np.zeros(image_HWC.shape[:2], dtype=np.float32)
        map_HW[44:] = 1
        return map_HW


def test_masks_of_a_store(scenes: Path) -> None:
    build(scenes / "data", scenes / "store.zarr", detector=LowerQuarterDetector())
    result = score(imagenet_a, scenes, scenes / "data", masks=str(scenes / "store.zarr"))
    assert result.metrics["only_fg_top1"] == 100.0
    assert result.facts["only_fg"]["masks"].startswith("store ")
