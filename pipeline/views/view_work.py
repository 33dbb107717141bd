"""What a plan asks to be done with one of its views, resolved once: both forms of the device stage work from it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from backdrop.pipeline.views import crops, mask_perturbation
from backdrop.pipeline.views.backgrounds import BACKGROUNDS
from backdrop.pipeline.views.photometric import blur_kernel_size_px
from backdrop.pipeline.views.placement_kernels import largest_edge_sigma_px
from backdrop.pipeline.views.view_plan import View, ViewPlan


@dataclass(frozen=True, kw_only=True)
class ViewWork:
    """The work on one view."""

    view: View
    # Taps of the blur.
    kernel_size_px: int
    # Per channel, of [0, 1] values.
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    # Whether this view's background may be replaced, with what, and whether that takes a donor.
    has_background: bool
    replacement: Callable[[Tensor | None, Tensor], Tensor | None]
    needs_donor: bool
    # Backgrounds before the photometrics (Ryali C.5).
    is_before: bool
    # M where this is the view that the extra negatives match, else 0.
    num_negatives: int
    # Whether masks are perturbed, and whether boxes are taken for them.
    has_perturbation: bool
    is_box: bool
    # Taps of the blur that makes the edges of foregrounds soft; 0 = they are hard.
    edge_taps: int


def view_works(
    plan: ViewPlan, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> tuple[ViewWork, ...]:
    """Return the work on each view of a plan. Raises: UserError where the background is none there is."""
    background = plan.background
    crops.check_background(background)
    needs_donor, has_negative = crops.background_needs(plan)
    replacement = BACKGROUNDS.load(background.name).replacement
    matched = {"query": 0, "key": 1}[background.negative_matches] if has_negative else -1
    return tuple(
        ViewWork(
            view=view,
            kernel_size_px=blur_kernel_size_px(view.blur_sigma_px[1], view.size_px),
            mean=mean,
            std=std,
            has_background=background.name != "none" and crops.gets_background(plan, number),
            replacement=replacement,
            needs_donor=needs_donor,
            is_before=background.order == "before",
            num_negatives=background.num_negatives if number == matched else 0,
            has_perturbation=background.name != "none" and mask_perturbation.is_wanted(background.mask),
            is_box=background.mask.is_box,
            edge_taps=_edge_taps(plan, view),
        )
        for number, view in enumerate(plan.views)
    )


def _edge_taps(plan: ViewPlan, view: View) -> int:
    share = plan.background.object.edge_sigma[1]
    if share == 0.0 or not crops.moves_foreground(plan):
        return 0
    return blur_kernel_size_px(largest_edge_sigma_px(share, view.size_px, view.scale[0]), view.size_px)


@lru_cache
def mean_std(work: ViewWork, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation on a device, float32 (3, 1, 1) each."""
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (work.mean, work.std))
    return mean, std


def to_level(grey_B: np.ndarray) -> np.ndarray:
    """Round grey values in [0, 1] to levels, uint8."""
    return (grey_B * 255.0 + 0.5).astype(np.uint8)


def rows_on(image_BHWC: Tensor, rows: np.ndarray, device: torch.device) -> Tensor:
    """Return some rows of what a loader handed over, (D, H, W, C) on the device.

    To a GPU each row goes by itself: gathered on the host they would lie in memory that is not pinned, and their copy
    would hold up the host until the GPU has done all that was asked of it before.

    Args: image_BHWC: any. rows: int64 (D,) of its rows. device: where they are wanted.
    """
    if image_BHWC.device.type == device.type:
        return image_BHWC[torch.from_numpy(rows).to(device)]
    chosen_DHWC = image_BHWC.new_empty((len(rows), *image_BHWC.shape[1:]), device=device)
    for at, row in enumerate(rows):
        chosen_DHWC[at].copy_(image_BHWC[row], non_blocking=True)
    return chosen_DHWC
