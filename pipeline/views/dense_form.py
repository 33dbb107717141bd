"""One view made with operations on all rows, the wanted results selected: shapes never change, nothing is read back.

All that was drawn for a batch goes to the device as one float32 tensor. That is what `torch.compile` (or a CUDA graph)
can hold on to; run one by one the operations cost more than those of `row_form.py`. The results are the same.

Legend: B batch, N M * B negatives, K numbers of one row.
"""

import numpy as np
import torch
from torch import Tensor

from backdrop.pipeline.views import compositing, mask_perturbation, photometric
from backdrop.pipeline.views.photometric import CONTRAST, FACTOR_NAMES, HUE, JITTER_ORDERS, SATURATION
from backdrop.pipeline.views.view_work import ViewWork, to_level

_OTHERS = (
    "is_grey",
    "blur_sigma_px",
    "is_solarised",
    "has_background",
    "background_grey",
    "is_negative_matched",
    "edge_sigma_px",
)
# Per place in the order of the jitter: factor, is contrast, is saturation, turns of the hue, is hue.
_NUM_JITTER = 5 * 4
_AFTER_OTHERS = _NUM_JITTER + len(_OTHERS)
NUM_PARAMETERS = _AFTER_OTHERS + mask_perturbation.NUM_PARAMETERS


def pack(record_B: np.ndarray, work: ViewWork) -> np.ndarray:
    """Turn what was drawn for one view into one array.

    Args: record_B: (B,) of VIEW_DTYPE. work: what is to be done.
    Returns: float32 (R, NUM_PARAMETERS + M): first B rows of the views; where backgrounds come first then M * B rows of
        the negatives, for their photometrics. The last M columns are the rows that the negatives come from.
    """
    source_MB = compositing.negative_sources(record_B["negative_source"], work.num_negatives).reshape(
        work.num_negatives, len(record_B)
    )
    packed = np.concatenate([_pack_rows(record_B, work), source_MB.T], axis=1, dtype=np.float32)
    if not (work.num_negatives and work.is_before):
        return packed
    source_N = source_MB.reshape(-1)
    record_N = compositing.negative_records(record_B, record_B["is_negative_matched"] != 0, source_N)
    padded = np.zeros((len(record_N), packed.shape[1]), np.float32)
    padded[:, :NUM_PARAMETERS] = _pack_rows(record_N, work)
    return np.concatenate([packed, padded])


def _pack_rows(record_B: np.ndarray, work: ViewWork) -> np.ndarray:
    """float32 (B, NUM_PARAMETERS)."""
    is_jittered_B1 = record_B["is_jittered"][:, None] != 0
    operation_BP = JITTER_ORDERS[record_B["jitter_order"]]
    factor_BP = np.take_along_axis(np.stack([record_B[name] for name in FACTOR_NAMES], axis=1), operation_BP, axis=1)
    is_hue_BP = (operation_BP == HUE) & is_jittered_B1
    jitter = (
        np.where(is_jittered_B1 & ~is_hue_BP, factor_BP, np.float32(1.0)),
        (operation_BP == CONTRAST) & is_jittered_B1,
        (operation_BP == SATURATION) & is_jittered_B1,
        np.where(is_hue_BP, factor_BP, np.float32(0.0)),
        is_hue_BP,
    )
    others_BK = np.stack([record_B[name].astype(np.float32) for name in _OTHERS], axis=1)
    if work.is_before:
        others_BK[:, _OTHERS.index("background_grey")] = to_level(record_B["background_grey"])
    parts = (*jitter, others_BK, mask_perturbation.parameters(record_B))
    return np.concatenate(parts, axis=1, dtype=np.float32)


def make_view(
    image_BHWC: Tensor,
    mask_BHP: Tensor,
    donor_BHWC: Tensor | None,
    packed_RK: Tensor,
    mean_std: tuple[Tensor, Tensor],
    work: ViewWork,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Make one view of a batch.

    Args:
        image_BHWC, mask_BHP, donor_BHWC: as in `ViewBatch`, on the device.
        packed_RK: what `pack` returned, on the device.
        mean_std: float32 (3, 1, 1) each, on the device.
        work: what is to be done.
    Returns: (image, mask, negatives): float32 (B, 3, H, W) normalised, bool (B, 1, H, W), float32 (M * B, 3, H, W) or
        None.
    """
    num_B = len(image_BHWC)
    packed_BK = packed_RK[:num_B]
    mask_B1HW = compositing.unpack_mask_anywhere(mask_BHP, image_BHWC.shape[2])
    used_B1HW = mask_B1HW
    if work.has_perturbation:
        perturbed = packed_BK[:, _AFTER_OTHERS:NUM_PARAMETERS]
        used_B1HW = mask_perturbation.perturb(mask_B1HW, perturbed, is_box=work.is_box)
    plain_BCHW = image_BHWC.permute(0, 3, 1, 2)
    donor_BCHW = None if donor_BHWC is None else donor_BHWC.permute(0, 3, 1, 2)
    if work.is_before:
        image_BCHW = _replace(plain_BCHW, used_B1HW, donor_BCHW, packed_BK, mean_std, work)
        negative = _negatives(image_BCHW, plain_BCHW, used_B1HW, packed_BK, work)
        negative = None if negative is None else _augment(negative, packed_RK[num_B:], mean_std, work)
        return _augment(image_BCHW, packed_BK, mean_std, work), mask_B1HW, negative
    plain_BCHW = _augment(plain_BCHW, packed_BK, mean_std, work)
    if work.has_background and donor_BCHW is not None:
        donor_BCHW = _augment(donor_BCHW, packed_BK, mean_std, work)
    image_BCHW = _replace(plain_BCHW, used_B1HW, donor_BCHW, packed_BK, mean_std, work)
    return image_BCHW, mask_B1HW, _negatives(image_BCHW, plain_BCHW, used_B1HW, packed_BK, work)


def _column(packed_BK: Tensor, name: str) -> Tensor:
    return packed_BK[:, _NUM_JITTER + _OTHERS.index(name)]


def _is(packed_BK: Tensor, name: str) -> Tensor:
    """Bool (B, 1, 1, 1)."""
    return (_column(packed_BK, name) != 0)[:, None, None, None]


def _augment(image_BCHW: Tensor, packed_BK: Tensor, mean_std: tuple[Tensor, Tensor], work: ViewWork) -> Tensor:
    """`photometric.augment` of uint8 pixels, then the normalisation."""
    image_BCHW = image_BCHW.float() / 255.0
    is_grey_B111, is_grey_first = _is(packed_BK, "is_grey"), work.view.greyscale_order == "before"
    if is_grey_first:
        image_BCHW = torch.where(is_grey_B111, photometric.luma(image_BCHW), image_BCHW)
    jitter_BPK = packed_BK[:, :_NUM_JITTER].unflatten(1, (5, 4)).transpose(1, 2)
    for factor_B, is_contrast_B, is_saturation_B, turns_B, is_hue_B in (
        each_BK.unbind(1) for each_BK in jitter_BPK.unbind(1)
    ):
        image_BCHW = photometric.blend(image_BCHW, factor_B, is_contrast_B, is_saturation_B)
        is_hue = (is_hue_B != 0)[:, None, None, None]
        image_BCHW = torch.where(is_hue, photometric.adjust_hue(image_BCHW, turns_B), image_BCHW)
    if not is_grey_first:
        image_BCHW = torch.where(is_grey_B111, photometric.luma(image_BCHW), image_BCHW)
    sigma_B = _column(packed_BK, "blur_sigma_px")
    blurred = photometric.gaussian_blur(image_BCHW, torch.where(sigma_B > 0, sigma_B, 1.0), work.kernel_size_px)
    image_BCHW = torch.where((sigma_B > 0)[:, None, None, None], blurred, image_BCHW)
    image_BCHW = torch.where(_is(packed_BK, "is_solarised"), photometric.solarise(image_BCHW), image_BCHW)
    mean, std = mean_std
    return (image_BCHW - mean) / std


def _replace(
    image_BCHW: Tensor,
    mask_B1HW: Tensor,
    donor_BCHW: Tensor | None,
    packed_BK: Tensor,
    mean_std: tuple[Tensor, Tensor],
    work: ViewWork,
) -> Tensor:
    """Put other backgrounds behind the foregrounds of the drawn rows."""
    if not work.has_background:
        return image_BCHW
    grey_B111 = _column(packed_BK, "background_grey")[:, None, None, None]
    if work.is_before:
        level_B3 = grey_B111.expand(-1, 3, -1, -1).to(torch.uint8)
    else:
        mean, std = mean_std
        level_B3 = (grey_B111 - mean) / std
    replacement = work.replacement(donor_BCHW, level_B3)
    assert replacement is not None
    is_kept_B111 = ~_is(packed_BK, "has_background")
    if not work.edge_taps:
        return torch.where(mask_B1HW | is_kept_B111, image_BCHW, replacement)
    opacity_B1HW = compositing.opacity(mask_B1HW, _column(packed_BK, "edge_sigma_px"), work.edge_taps)
    return torch.where(is_kept_B111, image_BCHW, compositing.blend(image_BCHW, opacity_B1HW, replacement))


def _negatives(
    image_BCHW: Tensor, plain_BCHW: Tensor, mask_B1HW: Tensor, packed_BK: Tensor, work: ViewWork
) -> Tensor | None:
    if not work.num_negatives:
        return None
    is_matched_B = _column(packed_BK, "is_negative_matched") != 0
    source_N = packed_BK[:, NUM_PARAMETERS:].T.flatten().long()
    return compositing.extra_negative(image_BCHW, plain_BCHW, mask_B1HW, is_matched_B, source_N)
