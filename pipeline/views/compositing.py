"""Put other backgrounds behind foregrounds, and build BG_Swaps' extra negatives.

Masks are 1 on foreground, 0 on background. Foreground pixels are selected, never computed with, so they stay as they
were bit for bit; but for those of soft edges, which only backgrounds that move foregrounds have.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from backdrop.pipeline.views.photometric import gaussian_blur, on_rows


def unpack_mask(mask_BHP: Tensor, width: int) -> Tensor:
    """Unpack bit-packed masks on the device they are on.

    Args: mask_BHP: uint8 (B, H, ceil(W / 8)), highest bit first, 1 = foreground. width: W in pixels.
    Returns: bool (B, 1, H, W), True = foreground.
    """
    if mask_BHP.device.type == "cpu":  # twenty times as fast as what works everywhere
        return torch.from_numpy(np.unpackbits(mask_BHP.numpy(), axis=-1, count=width)).view(torch.bool)[:, None]
    return unpack_mask_anywhere(mask_BHP, width)


def unpack_mask_anywhere(mask_BHP: Tensor, width: int) -> Tensor:
    """Do what `unpack_mask` does with torch's operations, on any device."""
    shift_8 = torch.arange(7, -1, -1, device=mask_BHP.device, dtype=torch.uint8)
    bits_BHP8 = (mask_BHP[..., None] >> shift_8) & 1
    return bits_BHP8.flatten(start_dim=2)[:, None, :, :width].bool()


def opacity(mask_B1HW: Tensor, sigma_B: Tensor, taps: int) -> Tensor:
    """Make the edges of foregrounds soft, inside them: max(0, 2 b - 1) of the blurred mask b (ForNet's code).

    Args: mask_B1HW: bool, True = foreground. sigma_B: float (B,), in pixels, 0 = hard. taps: odd, of the blur.
    Returns: float32 (B, 1, H, W) in [0, 1], 0 outside the masks.
    """
    blurred_B1HW = gaussian_blur(mask_B1HW.float(), torch.where(sigma_B > 0, sigma_B, 1.0), taps)
    soft_B1HW = (2.0 * blurred_B1HW - 1.0).clamp(0.0, 1.0)
    is_soft_B1HW = mask_B1HW & (sigma_B > 0)[:, None, None, None]
    return torch.where(is_soft_B1HW, soft_B1HW, mask_B1HW.float())


def blend(image_BCHW: Tensor, opacity_B1HW: Tensor, replacement: Tensor) -> Tensor:
    """Lay images over replacements: a b where a foreground is opaque, a and c mixed along soft edges.

    Args: image_BCHW: float or uint8. opacity_B1HW: float in [0, 1]. replacement: broadcastable to it, of its type.
    Returns: the type of image_BCHW; where the opacity is 1 or 0 bit for bit the image or the replacement.
    """
    mixed_BCHW = opacity_B1HW * image_BCHW + (1.0 - opacity_B1HW) * replacement
    if image_BCHW.dtype == torch.uint8:
        mixed_BCHW = (mixed_BCHW + 0.5).to(torch.uint8)
    return torch.where(opacity_B1HW == 1, image_BCHW, torch.where(opacity_B1HW == 0, replacement, mixed_BCHW))


def composite(
    image_BCHW: Tensor,
    mask_B1HW: Tensor,
    replacement: Tensor,
    is_drawn_B: np.ndarray,
    soften: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Replace the background of the drawn rows, in place.

    Args:
        image_BCHW: float (B, 3, H, W), written to.
        mask_B1HW: bool (B, 1, H, W), True = foreground.
        replacement: broadcastable to the drawn rows' (D, 3, H, W), in their order: what stands behind the foreground.
        is_drawn_B: bool (B,) on the host; D of them are True.
        soften: makes opacities of the drawn rows' masks, see `opacity`; None = hard edges.
    Returns: image_BCHW; foregrounds but for soft edges, and rows not drawn, are untouched.
    """
    rows = torch.from_numpy(np.flatnonzero(is_drawn_B)).to(image_BCHW.device, non_blocking=True)
    drawn_D1HW = mask_B1HW.index_select(0, rows)
    if soften is None:
        return on_rows(image_BCHW, is_drawn_B, lambda rows_DCHW: torch.where(drawn_D1HW, rows_DCHW, replacement))
    opacity_D1HW = soften(drawn_D1HW)
    return on_rows(image_BCHW, is_drawn_B, lambda rows_DCHW: blend(rows_DCHW, opacity_D1HW, replacement))


def negative_sources(negative_source_B: np.ndarray, num_negatives: int = 1) -> np.ndarray:
    """Turn the drawn numbers into rows of the batch: another row than the own one, all equally likely.

    Several negatives of a query take rows that follow one another: as independent as any, the batch being in random
    order, and all different while there are enough.

    Args: negative_source_B: float (B,) in [0, 1). num_negatives: M.
    Returns: int64 (M * B,) in 0 .. B - 1, all first ones first; a batch of one has no other row and gets its own.
    """
    num_rows = len(negative_source_B)
    num_others = max(num_rows - 1, 1)
    # A float32 just below 1 times B - 1 may round up to B - 1, which would be the row itself.
    step_B = np.minimum((negative_source_B.astype(np.float64) * (num_rows - 1)).astype(np.int64), num_others - 1)
    step_MB = (step_B + np.arange(num_negatives)[:, None]) % num_others
    return ((np.arange(num_rows) + 1 + step_MB) % num_rows).reshape(-1)


def extra_negative(
    query_BCHW: Tensor, plain_BCHW: Tensor, mask_B1HW: Tensor, is_matched_B: Tensor, source_N: Tensor
) -> Tensor:
    """Build the extra negatives: m_q r + (1 - m_q) q where matched, else r (Ryali et al. 2021, section 2.2).

    A matched negative of a view that shows no foreground would be the query itself; it takes r instead.

    Args:
        query_BCHW: (B, 3, H, W), the views whose backgrounds are matched (q, or k+ in C.4), as the model sees them.
        plain_BCHW: (B, 3, H, W), the same views before their backgrounds were replaced: r is taken from here.
        mask_B1HW: bool (B, 1, H, W), their foreground m_q.
        is_matched_B: bool (B,), whether the negatives have the view's background.
        source_N: int64 (M * B,), the rows that r comes from, see `negative_sources`.
    Returns: (M * B, 3, H, W), in the order of source_N.
    """
    random_MBCHW = plain_BCHW.index_select(0, source_N).unflatten(0, (-1, len(query_BCHW)))
    has_foreground = mask_B1HW.any(dim=(1, 2, 3), keepdim=True)
    is_random = mask_B1HW | ~is_matched_B[:, None, None, None] | ~has_foreground
    return torch.where(is_random, random_MBCHW, query_BCHW).flatten(0, 1)


def negative_records(record_B: np.ndarray, is_matched_B: np.ndarray, source_N: np.ndarray) -> np.ndarray:
    """Return whose photometrics each negative takes where backgrounds come first (Ryali C.5).

    A matched negative takes those of the view whose background it has, so that the backgrounds still match; a random
    one those of the row it comes from.

    Args: record_B: (B,) of VIEW_DTYPE. is_matched_B: bool (B,). source_N: int64 (M * B,).
    Returns: (M * B,) of VIEW_DTYPE.
    """
    own_N = np.tile(np.arange(len(record_B)), len(source_N) // len(record_B))
    return record_B[np.where(is_matched_B[own_N], own_N, source_N)]
