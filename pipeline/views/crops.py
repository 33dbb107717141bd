"""Where each view is cut: one foreground-constrained crop sampler for both papers, and the whole record of a view.

Ryali et al. 2021 (appendix A.1): random resized crops are redrawn, at most 10 times, until one holds `min_foreground`
of the image's foreground, then the centre is taken: proposal "uniform", fallback "center". Each of the ten is a crop of
torchvision's, which proposes again what does not fit into the image (CAST as released counts that as one of its ten).
CAST as released: the crop's centre is normal around the foreground's centroid, truncated to the image, and the fallback
is a box grown around the object: "centroid", "bbox"; its second constraint is `pair_constraint`. With
min_foreground = 0 the boxes have the distribution of torchvision's RandomResizedCrop.
"""

import math

import numpy as np

from backdrop.errors import UserError
from backdrop.pipeline.views import crop_kernels as kernels
from backdrop.pipeline.views.backgrounds import BACKGROUNDS
from backdrop.pipeline.views.crop_kernels import Box, Donors, Draws, Foreground, PlanCode, Stream, draw_row
from backdrop.pipeline.views.view_plan import (
    BACKGROUND_VIEWS,
    CROP_FALLBACKS,
    CROP_PROPOSALS,
    NEGATIVE_MATCHES,
    OBJECT_SIZES,
    PAIR_DRAWS,
    VIEW_DTYPE,
    Background,
    View,
    ViewPlan,
)
from backdrop.settings import check_settings

__all__ = [
    "VIEW_SPEC_DTYPE",
    "Donors",
    "Draws",
    "background_needs",
    "check_background",
    "check_jitter",
    "donors",
    "draw_box",
    "draw_row",
    "draw_views",
    "epoch_code",
    "foreground",
    "gets_background",
    "lends_to",
    "mask_words",
    "moves_foreground",
    "takes_donor",
    "view_specs",
]

# More than any experiment of the paper has (C.2: 5); each costs a pass of the key encoder.

# One `View` as numbers, for kernels.
VIEW_SPEC_DTYPE = np.dtype(
    [
        ("size_px", np.int64),
        ("scale_low", np.float64),
        ("scale_high", np.float64),
        ("aspect_low", np.float64),
        ("aspect_high", np.float64),
        ("min_foreground", np.float64),
        ("flip_probability", np.float64),
        ("jitter_brightness", np.float64),
        ("jitter_contrast", np.float64),
        ("jitter_saturation", np.float64),
        ("jitter_hue", np.float64),
        ("jitter_probability", np.float64),
        ("greyscale_probability", np.float64),
        ("blur_probability", np.float64),
        ("blur_sigma_low", np.float64),
        ("blur_sigma_high", np.float64),
        ("solarise_probability", np.float64),
        ("is_global", np.int64),
        ("is_centre_crop", np.int64),
    ]
)


def view_specs(plan: ViewPlan) -> np.ndarray:
    """Return the plan's views as numbers.

    Returns: (V,) of VIEW_SPEC_DTYPE.
    Raises: UserError where a setting is outside its range, naming view, setting and range.
    """
    if not plan.views:
        raise UserError("the view plan has no views; give it at least one")
    specs = np.zeros(len(plan.views), dtype=VIEW_SPEC_DTYPE)
    for number, view in enumerate(plan.views):
        check_settings(view, f"views.{number}")
        check_jitter(f"views.{number}", view)
        spec = specs[number]
        for name in ("size_px", "min_foreground", "is_global", "is_centre_crop"):
            spec[name] = getattr(view, name)
        for name in ("flip", "jitter", "greyscale", "blur", "solarise"):
            spec[f"{name}_probability"] = getattr(view, f"{name}_probability")
        spec["scale_low"], spec["scale_high"] = view.scale
        spec["aspect_low"], spec["aspect_high"] = view.aspect_ratio
        spec["blur_sigma_low"], spec["blur_sigma_high"] = view.blur_sigma_px
        for name, strength in zip(("brightness", "contrast", "saturation", "hue"), view.jitter, strict=True):
            spec[f"jitter_{name}"] = strength
    return specs


def check_jitter(path: str, view: View) -> None:
    """Raise UserError where a view's shift of the hue, in turns, is above 0.5. Args: path: of the view."""
    if len(view.jitter) != 4 or view.jitter[3] > 0.5:
        given = ",".join(f"{strength:g}" for strength in view.jitter)
        raise UserError(f"{path}.jitter={given} must be four numbers, the last (hue, in turns) 0.5 at most")


def background_needs(plan: ViewPlan) -> tuple[bool, bool]:
    """Return (needs donors, has an extra negative) of the plan's background; UserError when there is no such one."""
    module = BACKGROUNDS.load(plan.background.name)
    return module.NEEDS_DONOR, module.HAS_NEGATIVE


def moves_foreground(plan: ViewPlan) -> bool:
    """Return whether the plan's background puts foregrounds at other places; UserError when there is no such one."""
    return BACKGROUNDS.load(plan.background.name).MOVES_FOREGROUND


def gets_background(plan: ViewPlan, view: int) -> bool:
    """Return whether a view of the plan is one whose background may be replaced."""
    is_chosen = {"query": view == 0, "key": view == 1, "all": True}
    return is_chosen.get(plan.background.applies_to, plan.views[view].is_global)


def takes_donor(plan: ViewPlan, view: int) -> bool:
    """Return whether a view of the plan may get the background of another row."""
    return background_needs(plan)[0] and gets_background(plan, view)


def check_background(background: Background) -> None:
    """Raise UserError, naming setting and range, where a setting of the background is outside its range."""
    check_settings(background, "background")
    matched = background.negative_matches
    is_one_alone = background.applies_to in NEGATIVE_MATCHES and background.applies_to != matched
    if background.negative_draw == "coupled" and is_one_alone:
        raise UserError(
            f"background.negative_draw is coupled to the {matched}, which background.applies_to="
            f"{background.applies_to} gives no background; set background.negative_matches={background.applies_to}"
        )


def epoch_code(plan: ViewPlan, epoch: int) -> PlanCode:
    """Return what the plan says of all views in one epoch, as numbers.

    The probabilities of the background augmentation rise linearly from 0 at epoch 0 to their value at
    `warmup_epochs` (Ryali C.7), and fall to 0 at `fade_epochs` (ForNet), by whole epochs: a view's parameters must not
    depend on the batch it is in.

    Raises: UserError where the plan names something that does not exist or a number outside its range.
    """
    check_settings(plan)
    background, mask = plan.background, plan.background.mask
    check_background(background)
    needs_donor, has_negative = background_needs(plan)
    strength = _strength(background, epoch)
    return PlanCode(
        proposal=CROP_PROPOSALS.index(plan.crop_proposal),
        fallback=CROP_FALLBACKS.index(plan.crop_fallback),
        pair_constraint=bool(plan.pair_constraint),
        has_background=background.name != "none",
        needs_donor=bool(needs_donor),
        has_negative=bool(has_negative),
        background_probability=float(background.probability * strength),
        negative_probability=float(background.negative_probability * strength),
        applies_to=BACKGROUND_VIEWS.index(background.applies_to),
        pair_draw=PAIR_DRAWS.index(background.pair_draw),
        is_negative_coupled=background.negative_draw == "coupled",
        is_before=background.order == "before",
        mask_rotation_degrees=float(mask.max_rotation_degrees),
        mask_shear_degrees=float(mask.max_shear_degrees),
        mask_shift_fraction=float(mask.max_shift_fraction),
        mask_flip_probability=float(mask.flip_probability),
        moves_foreground=bool(moves_foreground(plan)),
        object_size=OBJECT_SIZES.index(background.object.size),
        object_size_jitter=float(background.object.size_jitter),
        keeps_place=background.object.place == "keep",
        object_bates=int(background.object.bates),
        edge_sigma_low=float(background.object.edge_sigma[0]),
        edge_sigma_high=float(background.object.edge_sigma[1]),
    )


def _strength(background: Background, epoch: int) -> float:
    """Share of their value that the probabilities have in an epoch."""
    strength = min(1.0, epoch / background.warmup_epochs) if background.warmup_epochs > 0 else 1.0
    if background.fade_epochs > 0:
        gone = min(1.0, epoch / background.fade_epochs)
        strength *= 1.0 - gone if background.fade == "linear" else math.cos(0.5 * math.pi * gone)
    return strength


def mask_words(packed: np.ndarray, width: int) -> np.ndarray:
    """Return packed mask rows as the 64-bit words the kernels count.

    Args: packed: uint8 (H, ceil(W / 8)), 1 = foreground, highest bit leftmost. width: W in pixels.
    Returns: uint64 (H, ceil(W / 64)), highest bit leftmost, zeros beyond the width.
    """
    assert packed.ndim == 2, packed.shape
    assert packed.dtype == np.uint8, packed.dtype
    assert packed.shape[1] == (width + 7) // 8, (packed.shape, width)
    padded = np.zeros((packed.shape[0], (width + 63) // 64 * 8), dtype=np.uint8)
    padded[:, : packed.shape[1]] = packed
    if width % 8:
        padded[:, packed.shape[1] - 1] &= np.uint8(0xFF << (8 - width % 8) & 0xFF)
    return padded.view(">u8").astype(np.uint64)


def foreground(packed: np.ndarray, width: int, *, is_located: bool = True) -> Foreground:
    """Measure a mask once for all boxes of an image.

    Args: packed: uint8 (H, ceil(W / 8)), 1 = foreground. width: W in pixels.
        is_located: find box and centroid too ("centroid" proposals and "bbox" fallbacks need them).
    """
    words = mask_words(packed, width)
    return kernels.measure(words, packed.shape[0], width, is_located)


def donors(row: np.ndarray, height: np.ndarray, width: np.ndarray, fraction: np.ndarray | None = None) -> Donors:
    """Return the rows that lend backgrounds, checked.

    Args: row: (N,) sorted row numbers. height, width: (N,) sizes of their backgrounds in pixels. fraction: (N,), share
        of each image that its foreground covers; None = unknown, for plans that move no foreground.
    """
    assert row.shape == height.shape == width.shape
    assert (row[1:] > row[:-1]).all(), "donor rows must be sorted and unique"
    assert fraction is None or fraction.shape == row.shape
    row = np.ascontiguousarray(row, dtype=np.int32)
    height, width = (np.ascontiguousarray(values, dtype=np.uint16) for values in (height, width))
    return Donors(row, height, width, np.array(() if fraction is None else fraction, dtype=np.float64))


def lends_to(plan: ViewPlan, fraction: np.ndarray) -> np.ndarray:
    """Return which rows lend their background to a plan, of those that have one.

    Args: fraction: float (N,), share of each image that its foreground covers. Returns: bool (N,).
    """
    limit = plan.background.object.max_donor_foreground
    if not moves_foreground(plan) or limit == 1.0:
        return np.ones(len(fraction), dtype=bool)
    return fraction < limit


def draw_box(
    plan: ViewPlan, view: int, mask: Foreground, *, seed: int, epoch: int, row: int, pair: Box | None = None
) -> tuple[Box, int, bool, int]:
    """Draw the box of one view.

    Args: plan, view: which view of which plan. mask: the image's foreground. seed, epoch, row: the key.
        pair: box of view 0, for the second constraint.
    Returns: (box, tries 1 .. 10, whether the fallback was taken, foreground pixels inside the box).
    """
    code = epoch_code(plan, epoch)
    return kernels.draw_box(
        Stream(seed, epoch, row, view),
        mask,
        view_specs(plan)[view],
        code.proposal,
        code.fallback,
        pair or Box(0, 0, 0, 0),
    )


def draw_views(plan: ViewPlan, mask: Foreground, row_donors: Donors, *, seed: int, epoch: int, row: int) -> np.ndarray:
    """Draw everything about all views of one row.

    Args: plan: the views. mask: the image's foreground. row_donors: rows that lend backgrounds.
        seed, epoch, row: the key.
    Returns: (V,) of `view_plan.VIEW_DTYPE`.
    """
    record_V = np.zeros(len(plan.views), dtype=VIEW_DTYPE)
    draw_row(record_V, row, mask, Draws(seed, epoch, view_specs(plan), epoch_code(plan, epoch), row_donors))
    return record_V
