"""One view made with operations on the drawn rows alone: what costs least where operations run one by one.

Which rows need an operation is known on the host, so that a GPU is never waited for; shapes change from batch to batch.
`dense_form.py` does the same with shapes that never change.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from backdrop.pipeline.views import compositing, mask_perturbation, photometric, photometric_cpu
from backdrop.pipeline.views.batch import ViewBatch
from backdrop.pipeline.views.view_work import ViewWork, mean_std, rows_on, to_level


def make_view(batch: ViewBatch, work: ViewWork, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """Make one view of a batch.

    Args: batch: what the loader drew and cut. work: what is to be done. device: where the view is wanted.
    Returns: (image, mask, negatives): float32 (B, 3, H, W) normalised, bool (B, 1, H, W), float32 (M * B, 3, H, W) or
        None.
    """
    width = batch.image_BHWC.shape[2]
    mask_B1HW = compositing.unpack_mask(batch.mask_BHP.to(device, non_blocking=True), width)
    used_B1HW = _perturbed(mask_B1HW, batch.record_B, work)
    make = _background_first if work.is_before else _background_last
    image_BCHW, negative_NCHW = make(batch, used_B1HW, work, device)
    return image_BCHW, mask_B1HW, negative_NCHW


def _background_last(
    batch: ViewBatch, mask_B1HW: Tensor, work: ViewWork, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Photometrics and normalisation, then backgrounds (Ryali 2.2); backgrounds only select pixels."""
    record_B = batch.record_B
    plain_BCHW = _augment(batch.image_BHWC, record_B, work, device)
    image_BCHW = plain_BCHW.clone() if work.num_negatives else plain_BCHW
    is_drawn_B = record_B["has_background"] != 0
    if work.has_background and is_drawn_B.any():
        record_D = record_B[is_drawn_B]
        donor_DCHW = None
        if work.needs_donor:
            # A donor takes the photometrics of the view it is pasted into: draws of its own would be as many again
            # for the same distribution.
            donor_DCHW = _augment(_donors(batch, is_drawn_B, device), record_D, work, device)
        grey_D111 = torch.from_numpy(record_D["background_grey"]).to(device, non_blocking=True)[:, None, None, None]
        mean, std = mean_std(work, device)
        replacement = work.replacement(donor_DCHW, (grey_D111 - mean) / std)
        assert replacement is not None
        image_BCHW = compositing.composite(
            image_BCHW, mask_B1HW, replacement, is_drawn_B, _softening(record_D, work, device)
        )
    if not work.num_negatives:
        return image_BCHW, None
    is_matched_B, source_N = _matches(record_B, work)
    negative = compositing.extra_negative(
        image_BCHW, plain_BCHW, mask_B1HW, _to(is_matched_B, device), _to(source_N, device)
    )
    return image_BCHW, negative


def _background_first(
    batch: ViewBatch, mask_B1HW: Tensor, work: ViewWork, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Backgrounds, then photometrics and normalisation of the composite (Ryali C.5).

    A matched negative takes the photometrics of the view whose background it has, so that the backgrounds still match;
    a random one those of the row it comes from.
    """
    record_B = batch.record_B
    plain_BCHW = batch.image_BHWC.to(device, non_blocking=True).permute(0, 3, 1, 2)
    composite_BCHW = plain_BCHW
    is_drawn_B = record_B["has_background"] != 0
    if work.has_background and is_drawn_B.any():
        donor_DCHW = None
        if work.needs_donor:
            donor_DCHW = _donors(batch, is_drawn_B, device).permute(0, 3, 1, 2)
        level_D = _to(to_level(record_B["background_grey"][is_drawn_B]), device)
        replacement = work.replacement(donor_DCHW, level_D[:, None, None, None].expand(-1, 3, -1, -1))
        assert replacement is not None
        composite_BCHW = compositing.composite(
            plain_BCHW.clone(), mask_B1HW, replacement, is_drawn_B, _softening(record_B[is_drawn_B], work, device)
        )
    image_BCHW = _augment(composite_BCHW.permute(0, 2, 3, 1), record_B, work, device)
    if not work.num_negatives:
        return image_BCHW, None
    is_matched_B, source_N = _matches(record_B, work)
    negative = compositing.extra_negative(
        composite_BCHW, plain_BCHW, mask_B1HW, _to(is_matched_B, device), _to(source_N, device)
    )
    record_N = compositing.negative_records(record_B, is_matched_B, source_N)
    return image_BCHW, _augment(negative.permute(0, 2, 3, 1), record_N, work, device)


def _augment(image_BHWC: Tensor, record_B: np.ndarray, work: ViewWork, device: torch.device) -> Tensor:
    """Photometrics and normalisation; float32 (B, 3, H, W) on the device."""
    mean, std = mean_std(work, device)
    if device.type == "cpu":
        mean_3, std_3 = mean.view(3).numpy(), std.view(3).numpy()
        return photometric_cpu.augment(image_BHWC, record_B, work.view, mean_3, std_3, torch.get_num_threads())
    image_BCHW = image_BHWC.to(device, non_blocking=True).permute(0, 3, 1, 2).contiguous().float().div_(255.0)
    return (photometric.augment(image_BCHW, record_B, work.view) - mean) / std


def _perturbed(mask_B1HW: Tensor, record_B: np.ndarray, work: ViewWork) -> Tensor:
    """Perturb the masks that are used."""
    if not work.has_perturbation:
        return mask_B1HW
    is_used_B = (record_B["has_background"] != 0) | (record_B["is_negative_matched"] != 0)
    if not is_used_B.any():
        return mask_B1HW
    used = torch.from_numpy(np.flatnonzero(is_used_B)).to(mask_B1HW.device)
    parameters_DN = _to(mask_perturbation.parameters(record_B[is_used_B]), mask_B1HW.device)

    def perturb(rows_D1HW: Tensor) -> Tensor:
        return mask_perturbation.perturb(rows_D1HW, parameters_DN, is_box=work.is_box)

    return mask_B1HW.index_copy(0, used, perturb(mask_B1HW.index_select(0, used)))


def _softening(record_D: np.ndarray, work: ViewWork, device: torch.device) -> Callable[[Tensor], Tensor] | None:
    """What makes the edges of the drawn rows' masks soft, None where they are hard."""
    if not work.edge_taps:
        return None
    return partial(compositing.opacity, sigma_B=_to(record_D["edge_sigma_px"], device), taps=work.edge_taps)


def _donors(batch: ViewBatch, is_drawn_B: np.ndarray, device: torch.device) -> Tensor:
    assert batch.donor_BHWC is not None, "a loader hands over donors to a plan that needs them"
    return rows_on(batch.donor_BHWC, np.flatnonzero(is_drawn_B), device)


def _matches(record_B: np.ndarray, work: ViewWork) -> tuple[np.ndarray, np.ndarray]:
    """Which negatives are matched, bool (B,), and the rows their pixels come from, int64 (M * B,)."""
    source_N = compositing.negative_sources(record_B["negative_source"], work.num_negatives)
    return record_B["is_negative_matched"] != 0, source_N


def _to(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(values).to(device, non_blocking=True)
