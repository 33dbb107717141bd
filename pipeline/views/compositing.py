"""Put other backgrounds behind foregrounds, and build BG_Swaps' extra negatives.

Masks are 1 on foreground, 0 on background. Foreground pixels are selected, never computed with, so they stay as they
were bit for bit.
"""

import numpy as np
import torch
from torch import Tensor

from pipeline.views.photometric import on_rows


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


def composite(image_BCHW: Tensor, mask_B1HW: Tensor, replacement: Tensor, is_drawn_B: np.ndarray) -> Tensor:
    """Replace the background of the drawn rows, in place.

    Args:
        image_BCHW: float (B, 3, H, W), written to.
        mask_B1HW: bool (B, 1, H, W), True = foreground.
        replacement: broadcastable to the drawn rows' (D, 3, H, W), in their order: what stands behind the foreground.
        is_drawn_B: bool (B,) on the host; D of them are True.
    Returns: image_BCHW; foregrounds and rows not drawn are untouched.
    """
    rows = torch.from_numpy(np.flatnonzero(is_drawn_B)).to(image_BCHW.device, non_blocking=True)
    drawn_D1HW = mask_B1HW.index_select(0, rows)
    return on_rows(image_BCHW, is_drawn_B, lambda rows_DCHW: torch.where(drawn_D1HW, rows_DCHW, replacement))


def negative_sources(negative_source_B: np.ndarray) -> np.ndarray:
    """Turn the drawn numbers into rows of the batch: another row than the own one, all equally likely.

    Args: negative_source_B: float (B,) in [0, 1).
    Returns: int64 (B,) in 0 .. B - 1; a batch of one has no other row and gets its own.
    """
    num_rows = len(negative_source_B)
    # A float32 just below 1 times B - 1 may round up to B - 1, which would be the row itself.
    step_B = np.minimum((negative_source_B.astype(np.float64) * (num_rows - 1)).astype(np.int64), max(num_rows - 2, 0))
    return (np.arange(num_rows) + 1 + step_B) % num_rows


def extra_negative(
    query_BCHW: Tensor, plain_BCHW: Tensor, mask_B1HW: Tensor, is_matched_B: np.ndarray, source_B: np.ndarray
) -> Tensor:
    """Build one extra negative per query: m_q r + (1 - m_q) q where matched, else r (Ryali et al. 2021, section 2.2).

    A matched negative of a view that shows no foreground would be the query itself; it takes r instead.

    Args:
        query_BCHW: float (B, 3, H, W), the queries q as the model sees them.
        plain_BCHW: float (B, 3, H, W), the same views before their backgrounds were replaced: r is taken from here.
        mask_B1HW: bool (B, 1, H, W), the queries' foreground m_q.
        is_matched_B: bool (B,) on the host, whether the negative has the query's background.
        source_B: int64 (B,) on the host, the row that r comes from.
    Returns: float (B, 3, H, W).
    """
    device = query_BCHW.device
    random_BCHW = plain_BCHW.index_select(0, torch.from_numpy(source_B).to(device, non_blocking=True))
    is_matched = torch.from_numpy(is_matched_B).to(device, non_blocking=True)[:, None, None, None]
    has_foreground = mask_B1HW.any(dim=(1, 2, 3), keepdim=True)
    return torch.where(mask_B1HW | ~is_matched | ~has_foreground, random_BCHW, query_BCHW)
