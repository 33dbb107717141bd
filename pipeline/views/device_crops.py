"""Cut the views of a batch out of whole images on the device that trains, as the loader's kernels do on the host.

Antialiased resizing is linear and separable: a view is `weight_y @ image @ weight_x^T`, with the triangle filters that
`_resize_kernels.fill_taps` tabulates, here as whole matrices, mostly zeros. That is far more arithmetic than the filter
needs, in the form that a GPU does best, and nothing in it depends on the boxes but the numbers in the matrices.

Legend: S side of a view, H W of the place of an image, P bytes of a mask row.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backdrop.pipeline.views.batch import Batch, ViewBatch, WholeBatch
from backdrop.pipeline.views.view_plan import ViewPlan
from backdrop.pipeline.views.view_work import rows_on


@dataclass(frozen=True)
class _Boxes:
    """Boxes of a batch on the device, float32 (B, 1) pixels; is_flipped: bool (B, 1)."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    is_flipped: Tensor


def cut(batch: WholeBatch, plan: ViewPlan, device: torch.device) -> Batch:
    """Return the batch that `geometry="host"` would have handed over, on the device.

    Crops differ from the host's by at most one grey level, where sums in another order round to the other side.

    Args: batch: of a loader with this plan. device: where the views are wanted.
    """
    image_B3HW = _to_planes(batch.image_BHWC, device)
    mask_BHP = batch.mask_BHP.to(device, non_blocking=True)
    views = []
    size_B2 = torch.from_numpy(batch.size_B2).to(device, non_blocking=True)
    for view, record_B, donor_BHWC in zip(plan.views, batch.records, batch.donors_BHWC, strict=True):
        boxes = _boxes(record_B, "", device)
        views.append(
            ViewBatch(
                image_BHWC=_cut_pixels(image_B3HW, boxes, view.size_px, size_B2),
                mask_BHP=_cut_mask(mask_BHP, boxes, view.size_px, size_B2),
                donor_BHWC=None if donor_BHWC is None else _cut_donors(donor_BHWC, record_B, view.size_px, device),
                record_B=record_B,
            )
        )
    return Batch(views=tuple(views), row_B=batch.row_B, label_B=batch.label_B, epoch=batch.epoch, step=batch.step)


def triangle_weights(
    start_B1: Tensor, length_B1: Tensor, size_px: int, num_source: int, end_B1: Tensor | None = None
) -> Tensor:
    """Tabulate the antialiased triangle filter of every sample; torchvision's bilinear resize with antialias.

    Args: start_B1, length_B1: float (B, 1), whole numbers, the stretch of the source that is resized. size_px: S, side
        of the result. num_source: N, pixels of the source. end_B1: float (B, 1), where the source ends before that, for
        stretches that reach beyond it; None = they do not.
    Returns: float (B, S, N), each row sums to 1, or is 0 where its pixel's centre lies beyond the source.
    """
    scale_B11 = (length_B1 / size_px)[:, :, None]
    support_B11 = scale_B11.clamp(min=1.0)
    place_N = torch.arange(num_source, device=start_B1.device) + 0.5
    inside_B1N = place_N - start_B1[:, :, None]
    centre_BS1 = scale_B11 * (torch.arange(size_px, device=start_B1.device) + 0.5)[None, :, None]
    weight_BSN = (1.0 - ((inside_B1N - centre_BS1) / support_B11).abs()).clamp_(min=0.0)
    is_taken_B1N = (inside_B1N > 0) & (inside_B1N < length_B1[:, :, None])
    if end_B1 is None:
        weight_BSN = weight_BSN * is_taken_B1N
        return weight_BSN / weight_BSN.sum(dim=2, keepdim=True)
    weight_BSN = weight_BSN * (is_taken_B1N & (place_N < end_B1[:, :, None]))
    pixel_BS = _pixels_under(start_B1, length_B1, size_px)
    is_inside_BS1 = ((pixel_BS >= 0) & (pixel_BS < end_B1))[:, :, None]
    total_BS1 = torch.where(is_inside_BS1, weight_BSN.sum(dim=2, keepdim=True), 1.0)
    return weight_BSN * is_inside_BS1 / total_BS1


def _pixels_under(start_B1: Tensor, length_B1: Tensor, size_px: int) -> Tensor:
    """The source pixel under the centre of each pixel of the result, int64 (B, S)."""
    centre_S = 2 * torch.arange(size_px, device=start_B1.device) + 1
    return start_B1.long() + centre_S * length_B1.long() // (2 * size_px)


def _boxes(record_B: np.ndarray, prefix: str, device: torch.device) -> _Boxes:
    """Move the boxes in one copy; prefix: "" for the image's, "donor_" for the donor's."""
    names = ("top", "left", "height", "width", "is_flipped")
    values_5B = np.stack([record_B[prefix + name] for name in names]).astype(np.float32)
    top, left, height, width, is_flipped = torch.from_numpy(values_5B).to(device, non_blocking=True)[:, :, None]
    return _Boxes(top, left, height, width, is_flipped != 0)


def _to_planes(image_BHWC: Tensor, device: torch.device) -> Tensor:
    return image_BHWC.to(device, non_blocking=True).permute(0, 3, 1, 2).float()


def _cut_pixels(image_B3HW: Tensor, boxes: _Boxes, size_px: int, size_B2: Tensor | None = None) -> Tensor:
    """Resize each sample's box, which may reach beyond the image where that one's size is given; uint8 (B, S, S, 3)."""
    height, width = image_B3HW.shape[2:]
    end_B1, end_column_B1 = (None, None) if size_B2 is None else size_B2.float().split(1, dim=1)
    weight_BSH = triangle_weights(boxes.top, boxes.height, size_px, height, end_B1)
    weight_BSW = triangle_weights(boxes.left, boxes.width, size_px, width, end_column_B1)
    weight_BSW = torch.where(boxes.is_flipped[:, :, None], weight_BSW.flip(1), weight_BSW)
    crop_B3SS = (weight_BSH[:, None] @ image_B3HW) @ weight_BSW[:, None].transpose(2, 3)
    return (crop_B3SS + 0.5).clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _cut_donors(donor_BHWC: Tensor, record_B: np.ndarray, size_px: int, device: torch.device) -> Tensor:
    """Cut the backgrounds of the rows that get one; uint8 (B, S, S, 3), other rows undefined."""
    crop_BSS3 = torch.empty(len(record_B), size_px, size_px, 3, dtype=torch.uint8, device=device)
    drawn = np.flatnonzero((record_B["has_background"] != 0) & (record_B["donor_row"] >= 0))
    if len(drawn):
        planes_D3HW = _to_planes(rows_on(donor_BHWC, drawn, device), device)
        crop_DSS3 = _cut_pixels(planes_D3HW, _boxes(record_B[drawn], "donor_", device), size_px)
        crop_BSS3[torch.from_numpy(drawn).to(device)] = crop_DSS3
    return crop_BSS3


def _cut_mask(mask_BHP: Tensor, boxes: _Boxes, size_px: int, size_B2: Tensor) -> Tensor:
    """Resize each sample's box of the mask to the pixel under each centre; uint8 (B, S, ceil(S / 8)), packed."""
    row_BS = _pixels_under(boxes.top, boxes.height, size_px)
    column_BS = _pixels_under(boxes.left, boxes.width, size_px)
    column_BS = torch.where(boxes.is_flipped, column_BS.flip(1), column_BS)
    is_row_BS = (row_BS >= 0) & (row_BS < size_B2[:, :1])
    is_column_BS = (column_BS >= 0) & (column_BS < size_B2[:, 1:])
    row_BS, column_BS = row_BS * is_row_BS, column_BS * is_column_BS
    sample_B11 = torch.arange(len(mask_BHP), device=mask_BHP.device)[:, None, None]
    byte_BSS = mask_BHP[sample_B11, row_BS[:, :, None], column_BS[:, None, :] >> 3]
    bit_BSS = (byte_BSS >> (7 - (column_BS & 7)).to(torch.uint8)[:, None, :]) & 1
    bit_BSS = bit_BSS * (is_row_BS[:, :, None] & is_column_BS[:, None, :])
    padded_BSP8 = torch.nn.functional.pad(bit_BSS, (0, -size_px % 8)).unflatten(2, (-1, 8))
    place_8 = torch.arange(7, -1, -1, device=mask_BHP.device, dtype=torch.uint8)
    return (padded_BSP8 << place_8).sum(dim=3, dtype=torch.uint8)
