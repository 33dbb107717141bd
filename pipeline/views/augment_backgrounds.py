"""Background augmentations of images that one's own code has loaded, as tensors (Ryali et al. 2021, section 2.2)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backdrop.errors import UserError
from backdrop.pipeline.views import compositing, crops
from backdrop.pipeline.views.backgrounds import BACKGROUNDS
from backdrop.pipeline.views.random_streams import (
    BACKGROUND,
    BACKGROUND_GREY,
    NEGATIVE,
    NEGATIVE_SOURCE,
    uniform,
)
from backdrop.pipeline.views.view_plan import Background

_NO_EPOCH = 0


def composite(image_BCHW: Tensor, mask_B1HW: Tensor, background: Tensor) -> Tensor:
    """Put images before other backgrounds: m image + (1 - m) background; foregrounds stay bit for bit.

    Args: image_BCHW: any type, (B, C, H, W) or (C, H, W). mask_B1HW: 1 = foreground, broadcastable to it. background:
        broadcastable to it, of its type.
    Returns: as image_BCHW.
    """
    return torch.where(mask_B1HW.bool(), image_BCHW, background)


@dataclass(frozen=True, kw_only=True)
class Augmented:
    """What `augment_backgrounds` returns.

    image_BCHW: the images, some with other backgrounds. is_drawn_B: bool (B,), which. negative_NCHW: of BG_Swaps alone,
    (M * B, C, H, W), the extra negatives of each image as a query, negative m of query b at m * B + b; else None.
    """

    image_BCHW: Tensor
    is_drawn_B: Tensor
    negative_NCHW: Tensor | None


def augment_backgrounds(
    image_BCHW: Tensor,
    mask_B1HW: Tensor,
    background: Background,
    *,
    donor_BCHW: Tensor | None = None,
    seed: int,
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
    std: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Augmented:
    """Replace the backgrounds of some images by BG_RM ("rm"), BG_Random ("random"), BG_Swaps ("swaps") or a plug-in.

    Args:
        image_BCHW: float (B, 3, H, W), all other augmentations done.
        mask_B1HW: (B, 1, H, W), 1 = foreground.
        background: its name and `probability`; of swaps also `negative_probability` and `num_negatives`.
        donor_BCHW: the backgrounds of the same images, their foregrounds filled (`Store.background`, cut and altered
            like the images), (B, 3, H, W): each image gets one of another's. None for "rm".
        seed: decides the draws; give another one each step and view.
        mean, std: that the images were normalised with, for the grey of "rm".
    Raises: UserError: a setting is out of range, no donors, or a background that moves foregrounds, which needs them
        before they are cut.
    """
    crops.check_background(background)
    member = BACKGROUNDS.load(background.name)
    if member.MOVES_FOREGROUND or (member.NEEDS_DONOR and donor_BCHW is None):
        raise UserError(f"background {background.name!r} {_refused(member.MOVES_FOREGROUND)}")
    num_rows, device = len(image_BCHW), image_BCHW.device
    mask_B1HW = mask_B1HW.bool()
    is_drawn_B = _draws(seed, num_rows, BACKGROUND) < background.probability
    image_out_BCHW = image_BCHW.clone()
    if is_drawn_B.any():
        donor_DCHW = None if donor_BCHW is None else donor_BCHW[_rows(_other_rows(num_rows, seed)[is_drawn_B], device)]
        level_D = _draws(seed, num_rows, BACKGROUND_GREY)[is_drawn_B].astype(np.float32)
        mean_311, std_311 = (image_BCHW.new_tensor(values)[:, None, None] for values in (mean, std))
        level_D311 = (torch.from_numpy(level_D).to(image_BCHW)[:, None, None, None] - mean_311) / std_311
        replacement = member.replacement(donor_DCHW, level_D311)
        if replacement is not None:
            image_out_BCHW = compositing.composite(image_out_BCHW, mask_B1HW, replacement, is_drawn_B)
    negative_NCHW = None
    if member.HAS_NEGATIVE:
        is_matched_B = torch.from_numpy(_draws(seed, num_rows, NEGATIVE) < background.negative_probability).to(device)
        drawn_B = _draws(seed, num_rows, NEGATIVE_SOURCE)
        source_N = _rows(compositing.negative_sources(drawn_B, background.num_negatives), device)
        negative_NCHW = compositing.extra_negative(image_out_BCHW, image_BCHW, mask_B1HW, is_matched_B, source_N)
    return Augmented(
        image_BCHW=image_out_BCHW, is_drawn_B=torch.from_numpy(is_drawn_B).to(device), negative_NCHW=negative_NCHW
    )


def _refused(moves_foreground: bool) -> str:
    if moves_foreground:
        return "moves foregrounds before views are cut: take it with a ViewPlan and a ViewLoader"
    return "takes the backgrounds of other images: give them as donor_BCHW"


def _draws(seed: int, num_rows: int, draw: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 (B,)."""
    return np.array([uniform(seed, _NO_EPOCH, row, 0, draw) for row in range(num_rows)])


def _other_rows(num_rows: int, seed: int) -> np.ndarray:
    """Another row of the batch for each, int64 (B,); all different."""
    step = 1 + int(uniform(seed, _NO_EPOCH, num_rows, 0, BACKGROUND) * max(num_rows - 1, 1))
    return (np.arange(num_rows) + step) % num_rows


def _rows(rows_N: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(rows_N).to(device)
