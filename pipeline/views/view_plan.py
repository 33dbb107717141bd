"""What the views of one image are: how each is cropped and altered, and what happens to backgrounds.

A method states a `ViewPlan`; the loader draws from it, the device stage carries it out. Everything random about a view
is in one record of `VIEW_DTYPE`, drawn from `random_streams`, so that any two loaders that share a plan and a seed
give the same views.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from backdrop.settings import above_within, at_least, one_of, rising_above, rising_from, within

CROP_PROPOSALS = ("uniform", "centroid")
CROP_FALLBACKS = ("center", "bbox", "best")
BACKGROUND_VIEWS = ("global", "query", "key", "all")
PAIR_DRAWS = ("independent", "coupled", "same")
NEGATIVE_MATCHES = ("query", "key")
NEGATIVE_DRAWS = ("independent", "coupled")
BACKGROUND_ORDERS = ("after", "before")
GREYSCALE_ORDERS = ("after", "before")
OBJECT_SIZES = ("range", "mean", "max", "min", "keep")
OBJECT_PLACES = ("bates", "keep")
FADES = ("cosine", "linear")
# More uniform numbers than this have no draw number of their own in the random streams.
MAX_BATES = 16
MAX_CROP_TRIES = 10
# Of the image's short side: CenterCrop 224 of an image whose short side is resized to 256.
CENTRE_CROP_SHARE = 224 / 256
# More negatives than this have no number of their own in the random streams.
MAX_NEGATIVES = 64


@dataclass(frozen=True, kw_only=True)
class View:
    """How one view is made. Defaults are MoCo-v2's (Chen et al. 2020, "Improved baselines", and its released code)."""

    size_px: Annotated[int, within(8, 4096), "Side of the square view in pixels"] = 224
    scale: Annotated[
        tuple[float, float],
        rising_above(0, 1),
        "Share of the image's area that the crop covers, drawn uniformly",
    ] = (0.2, 1.0)
    aspect_ratio: Annotated[
        tuple[float, float],
        rising_above(0),
        "Width over height of the crop, drawn uniformly in the logarithm",
    ] = (3 / 4, 4 / 3)
    min_foreground: Annotated[
        float,
        within(0, 1),
        "Share of the image's foreground that the crop must hold (Ryali A.1 FG_min, CAST phi); 0 = no constraint",
    ] = 0.0
    is_centre_crop: Annotated[
        bool,
        "The central square of 7/8 of the short side (Ryali Table A10: short side 256, CenterCrop 224) in place of a "
        "random crop; nothing is drawn then that scale, aspect_ratio or min_foreground could ask anything of",
    ] = False
    flip_probability: Annotated[float, within(0, 1), "Probability of a horizontal flip"] = 0.5
    jitter: Annotated[
        tuple[float, float, float, float],
        at_least(0),
        "Strengths of brightness, contrast, saturation and hue, as torchvision has them; the hue, in turns, 0.5 at "
        "most",
    ] = (0.4, 0.4, 0.4, 0.1)
    jitter_probability: Annotated[float, within(0, 1), "Probability of colour jitter"] = 0.8
    greyscale_probability: Annotated[float, within(0, 1), "Probability of a grey view"] = 0.2
    greyscale_order: Annotated[
        str,
        one_of(GREYSCALE_ORDERS),
        'When a grey view loses its colour: "after" the jitter (MoCo-v2, BYOL, SwAV) or "before" it (CAST as released)',
    ] = "after"
    blur_probability: Annotated[float, within(0, 1), "Probability of a Gaussian blur"] = 0.5
    blur_sigma_px: Annotated[
        tuple[float, float],
        rising_above(0),
        "Range of the blur's sigma, in pixels of the view; a view without blur has blur_probability 0",
    ] = (0.1, 2.0)
    solarise_probability: Annotated[float, within(0, 1), "Solarisation above one half: probability"] = 0.0
    is_global: Annotated[
        bool,
        "Whether it is one of the global views, query and key, or a local one of multi-crop (`Background.applies_to`)",
    ] = True


@dataclass(frozen=True, kw_only=True)
class MaskPerturbation:
    """How masks are perturbed each time a background augmentation uses one (Ryali B.1); the defaults do nothing."""

    max_rotation_degrees: Annotated[
        float,
        within(0, 180),
        "Rotation about the middle of the view, drawn from +- this, in degrees; Table A1: 5 to 25",
    ] = 0.0
    max_shear_degrees: Annotated[
        float,
        within(0, 60),
        "Shear along rows and along columns, each drawn from +- this, in degrees; Table A2: 5 to 25",
    ] = 0.0
    max_shift_fraction: Annotated[
        float,
        within(0, 1),
        "Shift along each axis, drawn from +- this share of the foreground's height or width; Table A3: 0.05 to 0.25",
    ] = 0.0
    flip_probability: Annotated[
        float,
        within(0, 1),
        "Probability of a horizontal flip of the mask alone; Table A4: 0.5",
    ] = 0.0
    is_box: Annotated[bool, "Take the foreground's bounding box for the mask, before all the others; Table A5"] = False


@dataclass(frozen=True, kw_only=True)
class ObjectPlacement:
    """How a foreground is put on another row's background; for backgrounds that move it alone (`recombine`).

    Numbers and defaults are those of ForNet (Nauen et al. 2025, "ForAug", and its released code).
    """

    size: Annotated[
        str,
        one_of(OBJECT_SIZES),
        'Share of the background that the foreground covers: drawn from the "range" between its own share of its image '
        "and the share that the donor's object had, or their mean, max or min, or its own (keep)",
    ] = "range"
    size_jitter: Annotated[
        float,
        within(0, 0.95),
        "The lower end of that share is made so much smaller and the upper so much larger",
    ] = 0.3
    place: Annotated[
        str,
        one_of(OBJECT_PLACES),
        '"bates": drawn, the object wholly inside; "keep": where it stood in its own image, moved inside',
    ] = "bates"
    bates: Annotated[
        int,
        within(-MAX_BATES, MAX_BATES),
        "n: its place along each axis is the mean of n uniform numbers: 1 anywhere, more nearer to the middle, 0 the "
        "middle, below 0 nearer to the border",
    ] = 1
    edge_sigma: Annotated[
        tuple[float, float],
        rising_from(0, 0.1),
        "Soft edge inside the mask: range of its sigma as a share of the background's longer side; 0,0 = hard. "
        "ForNet's: 0.4 to 4 px, of photographs of some 500 px",
    ] = (0.0008, 0.008)
    max_donor_foreground: Annotated[
        float,
        above_within(0, 1),
        "Rows of which the foreground covers so much, or more, lend no background: next to nothing of it is theirs; "
        "1 = all lend",
    ] = 0.8


@dataclass(frozen=True, kw_only=True)
class Background:
    """Background augmentation (Ryali et al. 2021, section 2.2, appendices A.1 and C).

    The paper's least share of foreground in a crop, FG_min (A.1, C.6), is each view's `View.min_foreground`.
    """

    name: Annotated[str, "A name of BACKGROUNDS, a file of pipeline/views/backgrounds"] = "none"
    probability: Annotated[float, within(0, 1), "p_pos: probability per view (Tables A6 to A9)"] = 0.2
    negative_probability: Annotated[
        float,
        within(0, 1),
        "p_neg: probability that a query's extra negatives have a matched background (swaps only; Table A7)",
    ] = 0.2
    warmup_epochs: Annotated[
        float,
        at_least(0),
        "Linear warm-up of both probabilities from 0, in epochs (C.7: 5 or 10 for SwAV)",
    ] = 0.0
    fade_epochs: Annotated[
        float,
        at_least(0),
        "Epochs after which the probabilities have fallen to 0, so that a run ends on images as they are (ForNet: the "
        "epochs of the run); 0 = they stay",
    ] = 0.0
    fade: Annotated[
        str,
        one_of(FADES),
        'How they fall: "cosine" cos(pi e / 2E) (ForNet) or "linear" 1 - e / E',
    ] = "cosine"
    applies_to: Annotated[
        str,
        one_of(BACKGROUND_VIEWS),
        'Which views may get one: "global" (2.2), "query" or "key" alone (Tables 3 and 4, C.2), or "all" with'
        " local crops",
    ] = "global"
    pair_draw: Annotated[
        str,
        one_of(PAIR_DRAWS),
        "How the two views draw: independent (2.2); coupled: both or neither, each its own background; same: both or "
        "neither, and the same background (what 4.3's distinct backgrounds are held against)",
    ] = "independent"
    negative_matches: Annotated[
        str,
        one_of(NEGATIVE_MATCHES),
        'Whose background the extra negatives have: "query" (4.3) or "key" (C.4)',
    ] = "query"
    negative_draw: Annotated[
        str,
        one_of(NEGATIVE_DRAWS),
        '"independent": by p_neg; "coupled": matched where the view whose background they have got a new one (C.3)',
    ] = "independent"
    num_negatives: Annotated[
        int,
        within(1, MAX_NEGATIVES),
        "M: extra negatives per query (C.2; 1 in 4.3, 5 there). All M are matched or none is; each has other pixels",
    ] = 1
    order: Annotated[
        str,
        one_of(BACKGROUND_ORDERS),
        '"after" all other augmentations (2.2) or "before" them (C.5): then crop and photometrics see the composite',
    ] = "after"
    mask: Annotated[MaskPerturbation, "Perturbed masks (appendix B)"] = MaskPerturbation()
    object: Annotated[ObjectPlacement, "Where and how large foregrounds are put (ForNet)"] = ObjectPlacement()


@dataclass(frozen=True, kw_only=True)
class ViewPlan:
    """All views of an image, in order, and what ties them together."""

    views: Annotated[tuple[View, ...], "How each view is made"] = (View(), View())
    background: Annotated[Background, "What happens to backgrounds"] = Background()
    crop_proposal: Annotated[
        str,
        one_of(CROP_PROPOSALS),
        'Where crops are proposed: "uniform" (Ryali: ordinary random resized crop) or "centroid" (CAST as released)',
    ] = "uniform"
    crop_fallback: Annotated[
        str,
        one_of(CROP_FALLBACKS),
        'What is taken when 10 proposals fail the constraint: "center" (Ryali), "bbox" (CAST as released) or "best"',
    ] = "center"
    pair_constraint: Annotated[
        bool,
        "CAST's second constraint: view 1 must also hold min_foreground of the foreground inside view 0",
    ] = False


# Everything drawn for one view of one row. Boxes are (top, left, height, width) in pixels of the stored image; that of
# a view whose foreground is moved may reach beyond the image: it is what the view would show were the image that large.
VIEW_DTYPE = np.dtype(
    [
        ("top", np.int32),
        ("left", np.int32),
        ("height", np.int32),
        ("width", np.int32),
        ("is_flipped", np.uint8),
        ("tries", np.uint8),  # proposals drawn, 1 .. 10
        ("is_fallback", np.uint8),  # 1 where no proposal satisfied the constraint
        ("is_jittered", np.uint8),
        ("jitter_order", np.uint8),  # 0 .. 23, the rank of the permutation of (brightness, contrast, saturation, hue)
        ("is_grey", np.uint8),
        ("is_solarised", np.uint8),
        ("has_background", np.uint8),  # 1 where the background augmentation applies
        ("is_negative_matched", np.uint8),  # 1 where the row's extra negatives have this view's background
        ("donor_is_flipped", np.uint8),
        ("mask_is_flipped", np.uint8),  # these and the next: how the mask is perturbed, see MaskPerturbation
        ("padding", np.uint8, (1,)),
        ("brightness", np.float32),  # factors of torchvision's adjust_*, 1 = unchanged
        ("contrast", np.float32),
        ("saturation", np.float32),
        ("hue", np.float32),  # shift in turns, 0 = unchanged
        ("blur_sigma_px", np.float32),  # 0 = no blur
        ("background_grey", np.float32),  # level of BG_RM in [0, 1]
        ("foreground_fraction", np.float32),  # share of the image's foreground inside the box; 1 when it has none
        ("donor_row", np.int32),  # row whose tiled background is pasted; -1 = none
        ("donor_top", np.int32),
        ("donor_left", np.int32),
        ("donor_height", np.int32),
        ("donor_width", np.int32),
        ("negative_source", np.float32),  # in [0, 1): which other row of the batch fills the (first) extra negative
        ("mask_rotation_degrees", np.float32),  # anticlockwise
        ("mask_row_shear_degrees", np.float32),  # moves rows: columns += tan * rows below the middle
        ("mask_column_shear_degrees", np.float32),  # rows += tan * columns right of the middle
        ("mask_shift_rows", np.float32),  # down, as a share of the foreground's height in the view
        ("mask_shift_columns", np.float32),  # right, as a share of its width
        ("edge_sigma_px", np.float32),  # soft edge of the foreground, in pixels of the view; 0 = hard
    ],
    align=True,
)
