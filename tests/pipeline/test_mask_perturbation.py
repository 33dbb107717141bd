"""Perturbed masks against scipy's resampling, OpenCV's and hand-made arrays."""

import cv2
import numpy as np
import pytest
import scipy.ndimage
import torch

from backdrop.pipeline.views import mask_perturbation
from backdrop.pipeline.views.view_plan import VIEW_DTYPE, MaskPerturbation

H, W = 40, 56


def records(num_rows: int, **drawn: object) -> np.ndarray:
    record_B = np.zeros(num_rows, VIEW_DTYPE)
    for name, values in drawn.items():
        record_B[name] = values
    return record_B


def perturb(mask_BHW: np.ndarray, record_B: np.ndarray, *, is_box: bool = False) -> np.ndarray:
    parameters_BN = torch.from_numpy(mask_perturbation.parameters(record_B))
    perturbed = mask_perturbation.perturb(torch.from_numpy(mask_BHW).bool()[:, None], parameters_BN, is_box=is_box)
    assert perturbed.dtype == torch.bool
    return perturbed[:, 0].numpy().astype(np.uint8)


def blobs(num_rows: int) -> np.ndarray:
    """An L, so that no turn or flip maps it to itself, at changing places."""
    mask_BHW = np.zeros((num_rows, H, W), np.uint8)
    for row, mask_HW in enumerate(mask_BHW):
        top, left = 5 + row % 9, 8 + 2 * row % 11
        mask_HW[top : top + 20, left : left + 7] = 1
        mask_HW[top + 14 : top + 20, left : left + 24] = 1
    return mask_BHW


def slow_perturb(mask_HW: np.ndarray, record: np.void) -> np.ndarray:
    """One step after the other as matrices of homogeneous (row, column, 1), resampled by scipy."""

    def about_middle(matrix: list[list[float]]) -> np.ndarray:
        middle, back = np.eye(3), np.eye(3)
        middle[:2, 2], back[:2, 2] = ((H - 1) / 2, (W - 1) / 2), (-(H - 1) / 2, -(W - 1) / 2)
        whole = np.eye(3)
        whole[:2, :2] = matrix
        return middle @ whole @ back

    turn = np.deg2rad(record["mask_rotation_degrees"])
    flip = about_middle([[1, 0], [0, -1 if record["mask_is_flipped"] else 1]])
    rotation = about_middle([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    row_shear = about_middle([[1, 0], [np.tan(np.deg2rad(record["mask_row_shear_degrees"])), 1]])
    column_shear = about_middle([[1, np.tan(np.deg2rad(record["mask_column_shear_degrees"]))], [0, 1]])
    rows, columns = np.nonzero(mask_HW)
    shift = np.eye(3)
    shift[0, 2] = record["mask_shift_rows"] * (np.ptp(rows) + 1)
    shift[1, 2] = record["mask_shift_columns"] * (np.ptp(columns) + 1)
    forward = shift @ column_shear @ row_shear @ rotation @ flip
    return scipy.ndimage.affine_transform(mask_HW, np.linalg.inv(forward), order=0, mode="constant", cval=0)


def test_equals_one_step_after_the_other() -> None:
    rng = np.random.default_rng(0)
    record_B = records(
        30,
        mask_rotation_degrees=rng.uniform(-25, 25, 30), mask_row_shear_degrees=rng.uniform(-25, 25, 30),
        mask_column_shear_degrees=rng.uniform(-25, 25, 30), mask_shift_rows=rng.uniform(-0.25, 0.25, 30),
        mask_shift_columns=rng.uniform(-0.25, 0.25, 30), mask_is_flipped=rng.integers(0, 2, 30),
    )  # fmt: skip
    mask_BHW = blobs(30)
    perturbed_BHW = perturb(mask_BHW, record_B)
    expected_BHW = np.stack([slow_perturb(mask, record) for mask, record in zip(mask_BHW, record_B, strict=True)])
    assert (expected_BHW != mask_BHW).mean() > 0.05
    # Where a pixel comes from the border of two, rounding may take the other.
    assert (perturbed_BHW != expected_BHW).mean() < 1e-3


def test_rotation_is_anticlockwise_as_opencvs() -> None:
    mask_HW = blobs(1)[0]
    turned = perturb(mask_HW[None], records(1, mask_rotation_degrees=20.0))[0]
    matrix = cv2.getRotationMatrix2D(((W - 1) / 2, (H - 1) / 2), 20.0, 1.0)
    expected = cv2.warpAffine(mask_HW, matrix, (W, H), flags=cv2.INTER_NEAREST)
    assert (turned != expected).mean() < 0.01
    assert (turned != mask_HW).mean() > 0.05


def test_flip_shift_and_box_by_hand() -> None:
    mask_HW = np.zeros((H, W), np.uint8)
    mask_HW[10:20, 4:24] = 1
    mask_HW[10:12, 4:8] = 0
    flipped = perturb(mask_HW[None], records(1, mask_is_flipped=1))[0]
    np.testing.assert_array_equal(flipped, mask_HW[:, ::-1])
    # The foreground is 10 rows and 20 columns large: 0.2 and -0.1 of them are 2 pixels each.
    moved = perturb(mask_HW[None], records(1, mask_shift_rows=0.2, mask_shift_columns=-0.1))[0]
    np.testing.assert_array_equal(moved, np.roll(mask_HW, (2, -2), axis=(0, 1)))
    boxed = perturb(mask_HW[None], records(1), is_box=True)[0]
    assert boxed.sum() == 200
    assert boxed[10:20, 4:24].all()


def test_what_leaves_the_view_is_gone() -> None:
    mask_HW = np.zeros((H, W), np.uint8)
    mask_HW[:, 50:] = 1
    moved = perturb(mask_HW[None], records(1, mask_shift_columns=0.5))[0]
    np.testing.assert_array_equal(moved.sum(axis=1), 3)


@pytest.mark.parametrize("is_box", [False, True])
def test_an_empty_and_a_full_mask_stay(is_box: bool) -> None:
    mask_BHW = np.stack([np.zeros((H, W), np.uint8), np.ones((H, W), np.uint8)])
    np.testing.assert_array_equal(perturb(mask_BHW, records(2), is_box=is_box), mask_BHW)
    turned = perturb(mask_BHW, records(2, mask_rotation_degrees=10.0), is_box=is_box)
    assert not turned[0].any()
    assert 0.8 < turned[1].mean() < 1.0


def test_nothing_drawn_changes_nothing() -> None:
    np.testing.assert_array_equal(perturb(blobs(12), records(12)), blobs(12))
    assert not mask_perturbation.is_wanted(MaskPerturbation())
    assert mask_perturbation.is_wanted(MaskPerturbation(is_box=True))
