"""Scores under perturbed masks: what is done to a mask, by hand, and the whole table on painted scenes."""

from pathlib import Path

import numpy as np
import pytest

from backdrop.errors import UserError
from backdrop.stores.images.image_codec import decode_rgb
from backdrop.trainer.evaluation import mask_quality
from backdrop.trainer.evaluation.data.class_lists import in9_of_class
from backdrop.trainer.evaluation.data.in9_from_masks import open_variants
from backdrop.trainer.evaluation.data.masks import open_masks
from backdrop.trainer.evaluation.harness.result import Result
from backdrop.trainer.evaluation.mask_quality import KINDS, Options, perturbed
from tests.material.evaluation_fixtures import FACTS, WNIDS, colour, oracle, paint, save_image
from tests.material.imagenet_9_scenes import write_scenes


def corner() -> np.ndarray:
    """An L in the left half."""
    mask_HW = np.zeros((40, 60), np.uint8)
    mask_HW[10:30, 5:10] = 1
    mask_HW[25:30, 5:25] = 1
    return mask_HW


def test_boxes_and_flips_by_hand() -> None:
    box_HW = np.zeros((40, 60), np.uint8)
    box_HW[10:30, 5:25] = 1
    assert (perturbed(corner(), "box", 100, (0, 0)) == box_HW).all()
    flipped = [perturbed(corner(), "flip", 50, (0, row)) for row in range(200)]
    is_flipped = [bool((mask_HW == corner()[:, ::-1]).all()) for mask_HW in flipped]
    assert all(one or (mask_HW == corner()).all() for one, mask_HW in zip(is_flipped, flipped, strict=True))
    assert 70 < sum(is_flipped) < 130


@pytest.mark.parametrize("kind", ["rotation", "shear", "shift"])
def test_a_stronger_change_goes_the_same_way_further(kind: str) -> None:
    assert (perturbed(corner(), kind, 0, (3, 1)) == corner()).all()
    overlap = [int((perturbed(corner(), kind, strength, (3, 1)) & corner()).sum()) for strength in (0, 5, 25)]
    assert overlap[0] >= overlap[1] > overlap[2]
    assert (perturbed(corner(), kind, 25, (3, 1)) == perturbed(corner(), kind, 25, (3, 1))).all()
    assert (perturbed(corner(), kind, 25, (3, 1)) != perturbed(corner(), kind, 25, (3, 2))).any()


def test_a_shift_moves_by_no_more_than_its_share_of_the_foreground() -> None:
    for row in range(50):
        rows, columns = np.nonzero(perturbed(corner(), "shift", 25, (0, row)))
        assert abs(rows.min() - 10) <= 0.25 * 20 + 0.5
        assert abs(columns.min() - 5) <= 0.25 * 20 + 0.5


def test_a_mask_that_leaves_the_image_stays() -> None:
    mask_HW = np.zeros((40, 60), np.uint8)
    mask_HW[0, 0] = 1
    assert (perturbed(mask_HW, "rotation", 25, (0, 0)) == mask_HW).all()


def test_every_kind_and_strength_is_scored(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path)
    result = mask_quality.run(oracle(scenes), scenes / "scenes", Options(masks=str(scenes / "masks")))
    names = {f"only_fg_{kind}_{each}" for kind in ("rotation", "shear", "shift") for each in KINDS[kind]}
    assert set(result.metrics) == {"only_fg", "only_fg_flip", "only_fg_box", *names}
    assert result.facts.keys() >= FACTS
    assert result.metrics["only_fg"] == result.metrics["only_fg_box"] == 100.0  # the masks are boxes
    assert all(0 <= value <= 100 for value in result.metrics.values())


# Of each image: what its foreground and its background are painted with.
LARGE = {f"{WNIDS[207]}/dog.png": (207, 35), f"{WNIDS[10]}/bird.png": (10, 407)}


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Foregrounds that leave the crop a column of background, which the box of any turned mask covers too."""
    for key, (foreground, background) in LARGE.items():
        image_HWC, mask_HW = paint(background, (256, 256)), np.zeros((256, 256), np.uint8)
        image_HWC[:, 17:], mask_HW[:, 17:] = colour(foreground), 255
        save_image(tmp_path / "scenes" / key, image_HWC)
        save_image(tmp_path / "masks" / key, mask_HW, mode="L")
    return tmp_path


@pytest.mark.parametrize("variant", ["mixed_rand", "only_bg_t"])
def test_perturbed_masks_that_leave_no_background(variant: str, large: Path) -> None:
    opened = open_variants(large / "scenes", open_masks(large / "masks", 0.5), in9_of_class(), 0, Result())
    (good,) = (images for images in opened if images.variant == variant)
    (images,) = (images for name, images in mask_quality._perturbed(good) if name == f"{variant}_rotation_25")
    for row in range(len(good)):
        image_HWC, mask_HW = images.cut(row)
        assert (mask_HW == good.cut(row)[1]).all() == (variant == "only_bg_t")  # it stays where no variant is possible
        # What fills the image is the donor's column of background, as the donor's own mask leaves it.
        filling = LARGE[good.keys[good.donor(row) if variant == "mixed_rand" else row]][1]
        is_own_HW1 = (mask_HW == 1)[..., None] if variant == "mixed_rand" else np.zeros((224, 224, 1), bool)
        expected_HWC = np.where(is_own_HW1, image_HWC, colour(filling))
        assert np.array_equal(decode_rgb(images.read(row)), expected_HWC)
    result = mask_quality.run(oracle(large), large / "scenes", Options(masks=str(large / "masks"), variant=variant))
    assert len(result.metrics) == 1 + sum(map(len, KINDS.values()))


def test_an_unknown_variant_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'half_fg'.*only_fg"):
        mask_quality.run(oracle(tmp_path), tmp_path, Options(variant="half_fg"))
