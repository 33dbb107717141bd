"""CAST on top of a method: the saliency-constrained crop, the masked key and lambda * L_att (Selvaraju et al. 2021).

A method makes its query once, asks `masked_key` for the second key view, has it encoded by its momentum network in a
batch of its own, which leaves no trace in the running statistics, and adds `attention` of that same query to its loss:
one query forward serves both terms. `key_pass=shared` puts both kinds of keys into one batch, whose batch statistics
are then of both: the contrastive term is no longer that of the method without CAST.

phi is each view's `min_foreground`, the second crop's constraint `pair_constraint`, the projection the method's own
`head`; what else CAST has to choose is in `Settings`. `variant=released` follows salesforce/CAST@fcc4adf instead of the
paper: the loss divided by 1 + lambda, the signed map, the sampled target and the one cosine of
`losses/saliency_attention.py`, and in MoCo the masked keys in a batch and shuffle of their own and a key encoder that
moves twice a step. Of the release's second query forward only the running statistics are left out, which training does
not use; so are its replaced images, which here count in `rows_without_foreground`.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import torch

from backdrop.pipeline.views.device_stage import Views
from backdrop.pipeline.views.view_plan import ViewPlan
from backdrop.settings import at_least, one_of
from backdrop.trainer.losses.saliency_attention import (
    attention_loss,
    attention_target,
    batch_attention_loss,
    grad_cam,
    importance,
    sampled_target,
    signed_cam,
)
from backdrop.trainer.parts.collectives import num_processes, summed

# Share of the foreground each crop holds (phi of the paper; Table 2a).
MIN_FOREGROUND = 0.2
# See trainer/run/expected_curve.py.
EXPECTED_CURVE = (
    "With CAST, loss is that plus cast.weight times attention_loss, which is 1 minus a cosine: 1 where the network "
    "looks beside the foreground, 0 where it looks at nothing else. It falls early and then little."
)
_REGIONS = ("query", "intersection")
_VARIANTS = ("paper", "released")
_KEY_PASSES = ("separate", "shared")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What CAST adds to a method's own settings."""

    weight: Annotated[
        float,
        at_least(0),
        "lambda of L = L_cont + lambda * L_att; 0 = the method without CAST, on CAST's crops. Paper: 1 and 3 tie, 5 is "
        "worse (Table 2); released command: 3",
    ] = 3.0
    region: Annotated[
        str,
        one_of(_REGIONS),
        "Which foreground the query attends to: query = all of its crop's; intersection = what the key's crop "
        "shows too (Table 2d; --output-mask-region all as released)",
    ] = "query"
    variant: Annotated[
        str,
        one_of(_VARIANTS),
        "paper: Eq. 1 to 4; released: what the released code computes, see above",
    ] = "paper"
    key_pass: Annotated[
        str,
        one_of(_KEY_PASSES),
        "How the key network sees masked keys: separate = in a batch of their own, so that ordinary keys are those of "
        "the method without CAST; shared = in one batch and BatchNorm groups with them (MoCo, BYOL)",
    ] = "separate"
    scales_optimiser: Annotated[
        bool,
        "Whether rate, weight decay and clipping that are not set follow weight, as in the release, whose loss is "
        "divided by 1 + lambda: rate over 1 + lambda, decay and clipping times it",
    ] = False


def in_use(settings: Settings | None) -> Settings | None:
    """Return CAST's settings where its loss counts, else None: at weight 0 a step is the method's own, bit for bit."""
    return settings if settings is not None and settings.weight > 0 else None


def constrained(plan: ViewPlan) -> ViewPlan:
    """Return the plan with CAST's crop constraint, MIN_FOREGROUND, on its global views; a stronger one stays."""
    views = [
        replace(view, min_foreground=max(view.min_foreground, MIN_FOREGROUND)) if view.is_global else view
        for view in plan.views
    ]
    return replace(plan, views=tuple(views))


def loss_scale(settings: Settings) -> float:
    """Return how often the released loss, over 1 + lambda, goes into the one that `total` gives."""
    return 1.0 if settings.variant == "released" else 1.0 + settings.weight


def total(settings: Settings, contrastive_loss: torch.Tensor, attention_loss: torch.Tensor) -> torch.Tensor:
    """Return L = L_cont + lambda * L_att; as released, over 1 + lambda.

    Args: contrastive_loss, attention_loss: scalars.
    """
    loss = contrastive_loss + settings.weight * attention_loss
    return loss / (1.0 + settings.weight) if settings.variant == "released" else loss


def masked_key(image_B3HW: torch.Tensor, mask_B1HW: torch.Tensor) -> torch.Tensor:
    """Return x * M: the key view with its background at 0, which after normalisation is the mean colour.

    Args: image_B3HW: float (B, 3, H, W), normalised. mask_B1HW: float (B, 1, H, W), 1 = foreground.
    """
    return image_B3HW * mask_B1HW


def query_mask(settings: Settings, views: Views, query: int, key: int) -> torch.Tensor:
    """Return the foreground that a query is to attend to: of its crop, or of what its key's crop shows as well.

    Args: query, key: which views. Returns: float (B, 1, H, W) of the query's crop, 1 = foreground.
    """
    mask_B1HW = views.masks[query]
    if settings.region == "query":
        return mask_B1HW
    shared_BHW = overlap(views.boxes[query], views.is_flipped[query], views.boxes[key], mask_B1HW.shape[-1])
    return mask_B1HW * shared_BHW[:, None]


def overlap(
    query_box_B4: torch.Tensor, is_flipped_B: torch.Tensor, key_box_B4: torch.Tensor, side_px: int
) -> torch.Tensor:
    """Return which pixels of the query's view show a point that lies in the key's crop as well.

    Args: query_box_B4, key_box_B4: int (B, 4), top, left, height, width in pixels of the stored image. is_flipped_B:
        bool (B,), whether the query's crop was mirrored. side_px: S, of the square view.
    Returns: float32 (B, S, S), 1 where the pixel's middle lies in both.
    """
    middle_S = (torch.arange(side_px, device=query_box_B4.device) + 0.5) / side_px
    along_BS = torch.where(is_flipped_B[:, None], middle_S.flip(0), middle_S)
    query_B4, key_B4 = query_box_B4.float(), key_box_B4.float()
    rows_BS = query_B4[:, 0:1] + query_B4[:, 2:3] * middle_S
    columns_BS = query_B4[:, 1:2] + query_B4[:, 3:4] * along_BS
    is_row_BS = (rows_BS >= key_B4[:, 0:1]) & (rows_BS < key_B4[:, 0:1] + key_B4[:, 2:3])
    is_column_BS = (columns_BS >= key_B4[:, 1:2]) & (columns_BS < key_B4[:, 1:2] + key_B4[:, 3:4])
    return (is_row_BS[:, :, None] & is_column_BS[:, None, :]).float()


def attention(
    settings: Settings,
    similarity_B: torch.Tensor,
    pooled_BD: torch.Tensor,
    map_BDhw: torch.Tensor,
    query_mask_B1HW: torch.Tensor,
    key_mask_B1HW: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Return L_att, averaged over the rows of all processes that have something to attend to.

    A row whose query or key crop holds no foreground has no target, or a masked key without content: it is left out and
    counted. (As released, such images are silently replaced by others.)

    Args: similarity_B: float32 (B,), query against masked key. pooled_BD: float32 (B, D), mean of map_BDhw.
        map_BDhw: float32 (B, D, h, w) of the query. query_mask_B1HW: float (B, 1, H, W), of `query_mask`.
        key_mask_B1HW: float (B, 1, H, W), 1 = foreground.
    Returns: attention_loss: scalar, 0 when no row is left; its mean over the processes is that of the whole batch (as
        released: of one cosine a process). rows_without_foreground: scalar, share of rows left out.
    """
    is_released = settings.variant == "released"
    importance_BD = importance(similarity_B, pooled_BD)
    target_Bhw = (sampled_target if is_released else attention_target)(query_mask_B1HW, map_BDhw.shape[2:])
    is_used_B = (target_Bhw.flatten(1).amax(dim=1) > 0) & (key_mask_B1HW.flatten(1).amax(dim=1) > 0)
    weight_B = is_used_B.to(map_BDhw.dtype)
    if is_released:
        weight_B11 = weight_B[:, None, None]
        loss = batch_attention_loss(signed_cam(importance_BD, map_BDhw) * weight_B11, target_Bhw * weight_B11)
        loss = loss * is_used_B.any()
    else:
        loss_B = attention_loss(grad_cam(importance_BD, map_BDhw), target_Bhw)
        # A process's share of that mean: gradients and recorded losses are averaged over the processes.
        loss = (loss_B * weight_B).sum() / (summed(weight_B.sum()).clamp_min(1.0) / num_processes())
    return {"attention_loss": loss, "rows_without_foreground": 1.0 - weight_B.mean()}
