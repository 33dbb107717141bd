"""MaskCut: equal to the goldens, several objects one after the other; and as a detector of their union."""

from pathlib import Path

import numpy as np
import pytest

from backdrop.errors import UserError
from backdrop.saliency.detectors import open_detector
from backdrop.saliency.features.mask_cut import mask_cut
from backdrop.saliency.features.token_cut import token_cut
from tests.material.published_vits import tiny_dino

pytestmark = pytest.mark.usefixtures("one_thread")


def scene(size: tuple[int, int], boxes: list[tuple[int, int, int, int]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Keys of several objects, each of a direction of its own, and their masks."""
    generator = np.random.default_rng(1)
    keys_hwD = 0.1 * generator.standard_normal((*size, 12))
    masks = []
    for top, left, height, width in boxes:
        mask_hw = np.zeros(size, bool)
        mask_hw[top : top + height, left : left + width] = True
        masks.append(mask_hw)
    keys_hwD[..., 0] += 2 * ~np.any(masks, axis=0)
    for number, mask_hw in enumerate(masks, 1):
        keys_hwD[..., number] += 2 * mask_hw
    return keys_hwD.reshape(-1, 12), masks


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_it_equals_the_goldens(shared_data: Path, dtype: type) -> None:
    goldens = np.load(shared_data / "feature-goldens.npz", allow_pickle=False)
    keys_ND = goldens["two/qkv"][1:, 16:32].astype(dtype)
    before_ND = keys_ND.copy()
    masks_Khw = mask_cut(keys_ND, tuple(goldens["two/dims"]), tau=0.2)
    np.testing.assert_array_equal(masks_Khw, goldens["two/maskcut/masks"])
    np.testing.assert_array_equal(keys_ND, before_ND)


def test_every_object_is_found_once_and_none_overlap() -> None:
    keys_ND, masks = scene((10, 12), [(1, 1, 3, 3), (5, 6, 4, 4)])
    found_Khw = mask_cut(keys_ND, (10, 12), num_objects=2)
    assert len(found_Khw) == 2
    for mask_hw in masks:
        assert any(np.array_equal(mask_hw, found_hw) for found_hw in found_Khw)
    assert (mask_cut(keys_ND, (10, 12), num_objects=4).sum(axis=0) <= 1).all()
    first = token_cut(keys_ND, (10, 12), tau=0.15)
    assert first is not None
    np.testing.assert_array_equal(mask_cut(keys_ND, (10, 12), num_objects=1)[0], first.component_hw)


@pytest.mark.parametrize("axes", [0, 1, (0, 1)])
def test_a_flipped_image_has_flipped_objects(axes: int | tuple[int, int]) -> None:
    keys_ND, _ = scene((10, 12), [(1, 1, 3, 3), (5, 6, 4, 4)])
    flipped_ND = np.flip(keys_ND.reshape(10, 12, 12), axes).reshape(120, 12)
    found_hw = mask_cut(keys_ND, (10, 12), num_objects=2).any(axis=0)
    np.testing.assert_array_equal(mask_cut(flipped_ND, (10, 12), num_objects=2).any(axis=0), np.flip(found_hw, axes))


@pytest.mark.parametrize(("share", "kept"), [(0.05, 2), (0.1, 1), (0.9, 1)])
def test_what_is_too_small_is_no_later_object(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, share: float, kept: int
) -> None:
    """The three have 9, 4 and 1 of 64 patches; the first is one whatever its size."""
    goldens = np.load(shared_data / "feature-goldens.npz", allow_pickle=False)
    monkeypatch.setattr("backdrop.saliency.features.mask_cut.MIN_SHARE", share)
    masks_Khw = mask_cut(goldens["two/qkv"][1:, 16:32], (8, 8), tau=0.2)
    np.testing.assert_array_equal(masks_Khw, goldens["two/maskcut/masks"][:kept])


def test_where_nothing_can_be_told_apart_there_is_no_object() -> None:
    assert mask_cut(np.ones((9, 3)), (3, 3)).shape == (0, 3, 3)
    assert mask_cut(np.eye(9), (3, 3)).shape == (0, 3, 3)


def test_the_map_is_of_all_objects_and_options_are_heard(tmp_path: Path) -> None:
    path = tiny_dino(tmp_path / "dino.pth")
    image_HWC = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    keys_ND, masks = scene((10, 12), [(1, 1, 3, 3), (5, 6, 4, 4)])
    for ending, num in ((":objects=1", 1), (":objects=2:tau=0.15", 2)):
        detector = open_detector(f"maskcut:{path}{ending}", device="cpu")
        found_hw = detector.found(keys_ND, (10, 12))  # type: ignore[attr-defined]
        assert sum(np.array_equal(found_hw & mask_hw, mask_hw) for mask_hw in masks) == num
    assert set(np.unique(open_detector(f"maskcut:{path}:solver", device="cpu")(image_HWC, "key"))) <= {0, 1}
    assert open_detector(f"maskcut:{path}", device="cpu")(image_HWC[:1, :1], "key").shape == (1, 1)
    with pytest.raises(UserError, match=r"objects=1\.5 is no whole number: write objects=3"):
        open_detector(f"maskcut:{path}:objects=1.5")
    with pytest.raises(UserError, match="num_objects=0 must be"):
        open_detector(f"maskcut:{path}:objects=0")
