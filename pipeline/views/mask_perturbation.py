"""Masks perturbed on purpose each time a background augmentation uses one (Ryali et al. 2021, appendix B.1).

The mask of the view is perturbed, on the device, right before the background is replaced: the paper distorts a mask on
each use, and backgrounds come after the crop there. So crop constraints and CAST see the good mask, every loader and
both geometries give the same, and nothing is paid where nothing is drawn. What the crop cut off cannot turn up again,
and the foreground's height and width are those in the view; the paper does not say which it takes.

Box first, then flip, rotation, shears, shift; the paper has one of them at a time.

Legend: B batch, H W rows and columns of a view. Coordinates are (row, column) from the middle of the view.
"""

import numpy as np
import torch
from torch import Tensor

from backdrop.pipeline.views.view_plan import MaskPerturbation

# Of one mask: the 2 x 2 matrix from a new to an old place, row by row, then the shift down and right.
NUM_PARAMETERS = 6


def is_wanted(settings: MaskPerturbation) -> bool:
    """Whether the settings alter any mask."""
    return settings != MaskPerturbation()


def parameters(record_B: np.ndarray) -> np.ndarray:
    """Turn what was drawn into numbers for `perturb`.

    Args: record_B: (B,) of VIEW_DTYPE. Returns: float32 (B, NUM_PARAMETERS).
    """
    turn_B = np.deg2rad(record_B["mask_rotation_degrees"].astype(np.float64))
    row_shear_B, column_shear_B = (
        np.tan(np.deg2rad(record_B[f"mask_{axis}_shear_degrees"].astype(np.float64))) for axis in ("row", "column")
    )
    one_B, zero_B = np.ones(len(record_B)), np.zeros(len(record_B))
    # Each the inverse of its step, on (row, column).
    flip = _matrices(one_B, zero_B, zero_B, 1.0 - 2.0 * record_B["mask_is_flipped"])
    rotation = _matrices(np.cos(turn_B), np.sin(turn_B), -np.sin(turn_B), np.cos(turn_B))
    row_shear = _matrices(one_B, zero_B, -row_shear_B, one_B)
    column_shear = _matrices(one_B, -column_shear_B, zero_B, one_B)
    inverse_B4 = (flip @ rotation @ row_shear @ column_shear).reshape(-1, 4)
    shift_B2 = np.stack([record_B["mask_shift_rows"], record_B["mask_shift_columns"]], axis=1)
    return np.concatenate([inverse_B4, shift_B2], axis=1).astype(np.float32)


def _matrices(*entries_B: np.ndarray) -> np.ndarray:
    return np.stack(entries_B, axis=1).reshape(-1, 2, 2)


def perturb(mask_B1HW: Tensor, parameters_BN: Tensor, *, is_box: bool) -> Tensor:
    """Perturb every mask; each new pixel takes the old one nearest to where it comes from, outside is background.

    Args:
        mask_B1HW: bool (B, 1, H, W), True = foreground.
        parameters_BN: float32 (B, NUM_PARAMETERS), see `parameters`.
        is_box: take the bounding box of the foreground first.
    Returns: bool (B, 1, H, W).
    """
    mask_BHW = mask_B1HW[:, 0]
    height, width = mask_BHW.shape[1:]
    top_B, bottom_B = _extent(mask_BHW.any(dim=2))
    left_B, right_B = _extent(mask_BHW.any(dim=1))
    row_H1 = torch.arange(height, device=mask_BHW.device)[:, None]
    column_W = torch.arange(width, device=mask_BHW.device)
    if is_box:
        is_row = (row_H1 >= top_B[:, None, None]) & (row_H1 < bottom_B[:, None, None])
        mask_BHW = is_row & (column_W >= left_B[:, None, None]) & (column_W < right_B[:, None, None])
    a, b, c, d, shift_rows, shift_columns = parameters_BN[:, :, None, None].unbind(dim=1)
    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
    row = row_H1 - middle_row - shift_rows * (bottom_B - top_B).clamp(min=0)[:, None, None]
    column = column_W - middle_column - shift_columns * (right_B - left_B).clamp(min=0)[:, None, None]
    old_row = torch.floor(a * row + b * column + (middle_row + 0.5)).long()
    old_column = torch.floor(c * row + d * column + (middle_column + 0.5)).long()
    is_inside = (old_row >= 0) & (old_row < height) & (old_column >= 0) & (old_column < width)
    place = old_row.clamp(0, height - 1) * width + old_column.clamp(0, width - 1)
    taken = mask_BHW.flatten(1).gather(1, place.flatten(1)).unflatten(1, (height, width))
    return (taken & is_inside)[:, None]


def _extent(is_taken_BN: Tensor) -> tuple[Tensor, Tensor]:
    """First and one past the last True; the first lies past the last where there is none."""
    place_N = torch.arange(is_taken_BN.shape[1], device=is_taken_BN.device)
    first_B = torch.where(is_taken_BN, place_N, is_taken_BN.shape[1]).amin(dim=1)
    return first_B, torch.where(is_taken_BN, place_N + 1, 0).amax(dim=1)
