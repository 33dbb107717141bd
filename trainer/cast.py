"""CAST on top of a method: the saliency-constrained crop, the masked key and lambda * L_att (Selvaraju et al. 2021).

A method makes its query once, asks `masked_key` for the second key view, has it encoded by its momentum network in
one batch with the ordinary keys (batch statistics are therefore shared by both kinds; the release ran a second
forward), and adds `attention` of that same query to its loss: one query forward serves both terms.
"""

from dataclasses import dataclass, replace

import torch

from pipeline.views.view_plan import ViewPlan
from trainer.losses.saliency_attention import attention_loss, attention_target, grad_cam, importance

# Share of the foreground each crop holds (phi of the paper; Table 2a).
MIN_FOREGROUND = 0.2


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What CAST adds to a method's own settings."""

    # lambda of L = L_cont + lambda * L_att. Paper: 1 and 3 tie, 5 is worse (Table 2); released command: 3.
    weight: float = 3.0


def constrained(plan: ViewPlan) -> ViewPlan:
    """Return the plan with CAST's crop constraint on its global views; a stronger one already there stays."""
    views = [
        replace(view, min_foreground=max(view.min_foreground, MIN_FOREGROUND)) if view.is_global else view
        for view in plan.views
    ]
    return replace(plan, views=tuple(views))


def masked_key(image_B3HW: torch.Tensor, mask_B1HW: torch.Tensor) -> torch.Tensor:
    """Return x * M: the key view with its background at 0, which after normalisation is the mean colour.

    Args: image_B3HW: float (B, 3, H, W), normalised. mask_B1HW: float (B, 1, H, W), 1 = foreground.
    """
    return image_B3HW * mask_B1HW


def attention(
    similarity_B: torch.Tensor,
    pooled_BD: torch.Tensor,
    map_BDhw: torch.Tensor,
    query_mask_B1HW: torch.Tensor,
    key_mask_B1HW: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Return L_att, averaged over the rows that have something to attend to.

    A row whose query or key crop holds no foreground has no target, or a masked key without content: it is left out and
    counted. (As released, such images are silently replaced by others.)

    Args: similarity_B: float32 (B,), query against masked key. pooled_BD: float32 (B, D), mean of map_BDhw.
        map_BDhw: float32 (B, D, h, w) of the query. query_mask_B1HW, key_mask_B1HW: float (B, 1, H, W), 1 = foreground.
    Returns: attention_loss: scalar, 0 when no row is left. rows_without_foreground: scalar, share of rows left out.
    """
    cam_Bhw = grad_cam(importance(similarity_B, pooled_BD), map_BDhw)
    loss_B = attention_loss(cam_Bhw, attention_target(query_mask_B1HW, map_BDhw.shape[2:]))
    is_used_B = (query_mask_B1HW.flatten(1).amax(dim=1) > 0) & (key_mask_B1HW.flatten(1).amax(dim=1) > 0)
    weight_B = is_used_B.to(loss_B.dtype)
    return {
        "attention_loss": (loss_B * weight_B).sum() / weight_B.sum().clamp_min(1.0),
        "rows_without_foreground": 1.0 - weight_B.mean(),
    }
