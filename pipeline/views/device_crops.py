"""Cut the views of a batch out of whole images on the device that trains, as the loader's kernels do on the host.

Images come as they are stored, luma and colour differences of half its resolution; each is resized, and only the
pixels of the views become RGB.

Antialiased resizing is linear and separable: a view is `weight_y @ image @ weight_x^T`, with the triangle filters that
`_resize_kernels.fill_taps` tabulates, here as whole matrices, mostly zeros. That is far more arithmetic than the filter
needs, in the form that a GPU does best, and nothing in it depends on the boxes but the numbers in the matrices.

Legend: S side of a view, H W of the place of an image, P bytes of a mask row.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backdrop.pipeline.views.batch import Batch, PlaneBatch, ViewBatch, WholeBatch
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


@dataclass(frozen=True)
class _Planes:
    """Planes of a batch on the device, float32 grey levels; sides of the images in pixels, float32 (B, 1)."""

    luma_B1HW: Tensor
    colour_B2HW: Tensor
    height_B1: Tensor
    width_B1: Tensor


def cut(batch: WholeBatch, plan: ViewPlan, device: torch.device) -> Batch:
    """Return the batch that `geometry="host"` would have handed over, on the device.

    Crops differ from the host's by at most one grey level, where sums in another order round to the other side; those
    of images that are stored with more colour than 4:2:0 by what the mean of it changes.

    Args: batch: of a loader with this plan. device: where the views are wanted.
    """
    image = _moved(batch.image, device)
    mask_BHP = batch.mask_BHP.to(device, non_blocking=True)
    views = []
    for view, record_B, donors in zip(plan.views, batch.records, batch.donors, strict=True):
        boxes = _boxes(record_B, "", device)
        views.append(
            ViewBatch(
                image_BHWC=_cut_pixels(image, boxes, view.size_px),
                mask_BHP=_cut_mask(mask_BHP, boxes, view.size_px, image),
                donor_BHWC=None if donors is None else _cut_donors(donors, record_B, view.size_px, device),
                record_B=record_B,
            )
        )
    return Batch(views=tuple(views), row_B=batch.row_B, label_B=batch.label_B, epoch=batch.epoch, step=batch.step)


def triangle_weights(
    start_B1: Tensor, length_B1: Tensor, size_px: int, num_source: int, bounds: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Tabulate the antialiased triangle filter of every sample; torchvision's bilinear resize with antialias.

    Args: start_B1, length_B1: float (B, 1), the stretch of the source that is resized. size_px: S, side of the result.
        num_source: N, pixels of the source. bounds: the pixels that may have a weight, from and up to, float (B, 1)
        each; None = those of the stretch.
    Returns: float (B, S, N), each row sums to 1, or is 0 where there is none of the source.
    """
    first_B1, last_B1 = (start_B1, start_B1 + length_B1) if bounds is None else bounds
    scale_B11 = (length_B1 / size_px)[:, :, None]
    support_B11 = scale_B11.clamp(min=1.0)
    place_B1N = (torch.arange(num_source, device=start_B1.device) + 0.5).expand(len(start_B1), 1, -1)
    centre_BS1 = scale_B11 * (torch.arange(size_px, device=start_B1.device) + 0.5)[None, :, None]
    weight_BSN = (1.0 - ((place_B1N - start_B1[:, :, None] - centre_BS1) / support_B11).abs()).clamp_(min=0.0)
    weight_BSN = weight_BSN * ((place_B1N > first_B1[:, :, None]) & (place_B1N < last_B1[:, :, None]))
    total_BS1 = weight_BSN.sum(dim=2, keepdim=True)
    return weight_BSN / torch.where(total_BS1 > 0, total_BS1, 1.0)


def _pixels_under(start_B1: Tensor, length_B1: Tensor, size_px: int) -> Tensor:
    """The source pixel under the centre of each pixel of the result, int64 (B, S)."""
    centre_S = 2 * torch.arange(size_px, device=start_B1.device) + 1
    return start_B1.long() + centre_S * length_B1.long() // (2 * size_px)


def _moved(planes: PlaneBatch, device: torch.device) -> _Planes:
    """Planes on the device, as floats."""
    luma_B1HW = planes.luma_BHW.to(device, non_blocking=True)[:, None].float()
    colour_B2HW = planes.colour_B2HW.to(device, non_blocking=True).float()
    height_B1, width_B1 = torch.from_numpy(planes.size_B2.T.astype(np.float32)).to(device)[:, :, None]
    return _Planes(luma_B1HW, colour_B2HW, height_B1, width_B1)


def _boxes(record_B: np.ndarray, prefix: str, device: torch.device) -> _Boxes:
    """Move the boxes in one copy; prefix: "" for the image's, "donor_" for the donor's."""
    names = ("top", "left", "height", "width", "is_flipped")
    values_5B = np.stack([record_B[prefix + name] for name in names]).astype(np.float32)
    top, left, height, width, is_flipped = torch.from_numpy(values_5B).to(device, non_blocking=True)[:, :, None]
    return _Boxes(top, left, height, width, is_flipped != 0)


def _cut_pixels(planes: _Planes, boxes: _Boxes, size_px: int) -> Tensor:
    """Resize each sample's box; uint8 RGB (B, S, S, 3), black beyond the image."""
    luma_B1SS = _resized(
        planes.luma_B1HW,
        _luma_weights(boxes.top, boxes.height, planes.height_B1, size_px, planes.luma_B1HW.shape[2]),
        _luma_weights(boxes.left, boxes.width, planes.width_B1, size_px, planes.luma_B1HW.shape[3]),
        boxes.is_flipped,
    )
    colour_B2SS = _resized(
        planes.colour_B2HW,
        _colour_weights(boxes.top, boxes.height, planes.height_B1, size_px, planes.colour_B2HW.shape[2]),
        _colour_weights(boxes.left, boxes.width, planes.width_B1, size_px, planes.colour_B2HW.shape[3]),
        boxes.is_flipped,
    )
    y_BSS, (b_BSS, r_BSS) = luma_B1SS[:, 0], (colour_B2SS - 128.0).unbind(1)
    greens_BSS = y_BSS - 0.344136 * b_BSS - 0.714136 * r_BSS
    rgb_BSS3 = torch.stack((y_BSS + 1.402 * r_BSS, greens_BSS, y_BSS + 1.772 * b_BSS), dim=3)
    is_row_BS, is_column_BS = _is_inside(planes, boxes, size_px)
    is_inside_BSS = is_row_BS[:, :, None] & is_column_BS[:, None, :]
    return (rgb_BSS3 + 0.5).clamp_(0, 255).to(torch.uint8) * is_inside_BSS[..., None]


def _is_inside(planes: _Planes, boxes: _Boxes, size_px: int) -> tuple[Tensor, Tensor]:
    """Whether rows and columns of the result have their centres in the image, bool (B, S) each."""
    row_BS = _pixels_under(boxes.top, boxes.height, size_px)
    column_BS = _pixels_under(boxes.left, boxes.width, size_px)
    column_BS = torch.where(boxes.is_flipped, column_BS.flip(1), column_BS)
    is_row_BS = (row_BS >= 0) & (row_BS < planes.height_B1)
    return is_row_BS, (column_BS >= 0) & (column_BS < planes.width_B1)


def _luma_weights(start_B1: Tensor, length_B1: Tensor, side_B1: Tensor, size_px: int, num_source: int) -> Tensor:
    """Those of a side of a box, which may reach beyond the image."""
    bounds = (start_B1, torch.minimum(start_B1 + length_B1, side_B1))
    return triangle_weights(start_B1, length_B1, size_px, num_source, bounds)


def _resized(image_BCHW: Tensor, weight_BSH: Tensor, weight_BSW: Tensor, is_flipped_B1: Tensor) -> Tensor:
    weight_BSW = torch.where(is_flipped_B1[:, :, None], weight_BSW.flip(1), weight_BSW)
    return (weight_BSH[:, None] @ image_BCHW) @ weight_BSW[:, None].transpose(2, 3)


def _colour_weights(start_B1: Tensor, length_B1: Tensor, side_B1: Tensor, size_px: int, num_source: int) -> Tensor:
    """Those of a side of a box over colour of half the resolution, which reaches a pixel past the box."""
    first_B1 = (torch.floor(start_B1 / 2) - 1).clamp(min=0)
    last_B1 = torch.minimum(torch.ceil((start_B1 + length_B1) / 2) + 1, torch.ceil(side_B1 / 2))
    return triangle_weights(start_B1 / 2, length_B1 / 2, size_px, num_source, (first_B1, last_B1))


def _cut_donors(donors: PlaneBatch, record_B: np.ndarray, size_px: int, device: torch.device) -> Tensor:
    """Cut the backgrounds of the rows that get one; uint8 (B, S, S, 3), other rows undefined."""
    crop_BSS3 = torch.empty(len(record_B), size_px, size_px, 3, dtype=torch.uint8, device=device)
    drawn = np.flatnonzero((record_B["has_background"] != 0) & (record_B["donor_row"] >= 0))
    if len(drawn):
        luma, colour = (rows_on(each, drawn, device) for each in (donors.luma_BHW, donors.colour_B2HW))
        chosen = PlaneBatch(luma_BHW=luma, colour_B2HW=colour, size_B2=donors.size_B2[drawn])
        crop_DSS3 = _cut_pixels(_moved(chosen, device), _boxes(record_B[drawn], "donor_", device), size_px)
        crop_BSS3[torch.from_numpy(drawn).to(device)] = crop_DSS3
    return crop_BSS3


def _cut_mask(mask_BHP: Tensor, boxes: _Boxes, size_px: int, planes: _Planes) -> Tensor:
    """Resize each sample's box of the mask to the pixel under each centre; uint8 (B, S, ceil(S / 8)), packed."""
    is_row_BS, is_column_BS = _is_inside(planes, boxes, size_px)
    row_BS = _pixels_under(boxes.top, boxes.height, size_px) * is_row_BS
    column_BS = _pixels_under(boxes.left, boxes.width, size_px)
    column_BS = torch.where(boxes.is_flipped, column_BS.flip(1), column_BS) * is_column_BS
    sample_B11 = torch.arange(len(mask_BHP), device=mask_BHP.device)[:, None, None]
    byte_BSS = mask_BHP[sample_B11, row_BS[:, :, None], column_BS[:, None, :] >> 3]
    bit_BSS = (byte_BSS >> (7 - (column_BS & 7)).to(torch.uint8)[:, None, :]) & 1
    bit_BSS = bit_BSS * (is_row_BS[:, :, None] & is_column_BS[:, None, :])
    padded_BSP8 = torch.nn.functional.pad(bit_BSS, (0, -size_px % 8)).unflatten(2, (-1, 8))
    place_8 = torch.arange(7, -1, -1, device=mask_BHP.device, dtype=torch.uint8)
    return (padded_BSP8 << place_8).sum(dim=3, dtype=torch.uint8)
