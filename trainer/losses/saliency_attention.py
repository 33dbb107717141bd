"""CAST's attention loss (Selvaraju et al. 2021, "CASTing your model", Eq. 1, 2 and 4; Eq. 3 is `info_nce.py`).

| paper | here |
|---|---|
| A_conv5 | map_BDhw |
| alpha_q | importance_BD |
| q . k_+^m | similarity_B |
| G_q | cam_Bhw |
| M_q | target_Bhw |
| L_att | attention_loss |

Everything is float32. As released (the second half of this file), CAST min-max normalises the signed map before the
ReLU, which then does nothing, takes one cosine over the whole batch, and samples the mask at the corners of the cells;
in the paper's equations the ReLU comes first and each image has its own cosine.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional


def importance(similarity_B: torch.Tensor, pooled_BD: torch.Tensor) -> torch.Tensor:
    """Return Eq. 1: the importance of each feature for matching query and masked key, differentiable itself.

    The head sees the map only through its spatial mean, so d similarity / d map is the same at every position and its
    sum over positions is exactly d similarity / d mean: the second-order graph stays inside the head.

    Args: similarity_B: float32 (B,), computed from pooled_BD. pooled_BD: float32 (B, D), spatial mean of the map.
    Returns: float32 (B, D), with a graph.
    """
    (importance_BD,) = torch.autograd.grad(similarity_B.sum(), pooled_BD, create_graph=True)
    return importance_BD


def grad_cam(importance_BD: torch.Tensor, map_BDhw: torch.Tensor) -> torch.Tensor:
    """Return Eq. 2: ReLU of the importance-weighted sum of feature maps.

    Args: importance_BD: float32 (B, D). map_BDhw: float32 (B, D, h, w). Returns: float32 (B, h, w), 0 or more.
    """
    return torch.relu(torch.einsum("bd,bdhw->bhw", importance_BD, map_BDhw))


def attention_target(mask_B1HW: torch.Tensor, grid_hw: Sequence[int]) -> torch.Tensor:
    """Return M_q on the feature grid: the share of foreground in each cell, so small objects never vanish.

    Args: mask_B1HW: float (B, 1, H, W), 1 = foreground. grid_hw: rows and columns of the feature map.
    Returns: float32 (B, h, w) in [0, 1].
    """
    return functional.adaptive_avg_pool2d(mask_B1HW.float(), (grid_hw[0], grid_hw[1])).squeeze(1)


def attention_loss(cam_Bhw: torch.Tensor, target_Bhw: torch.Tensor) -> torch.Tensor:
    """Return Eq. 4 per image: 1 - cosine of the two maps; 1 where a map is all zero, and no gradient.

    Args: cam_Bhw: float32 (B, h, w), 0 or more. target_Bhw: float32 (B, h, w), 0 or more. Returns: float32 (B,).
    """
    cam_BN = functional.normalize(cam_Bhw.flatten(1), dim=1)
    target_BN = functional.normalize(target_Bhw.flatten(1), dim=1)
    return 1.0 - (cam_BN * target_BN).sum(dim=1)


# --------------------------------------------------------------------------------------------------------- as released


def signed_cam(importance_BD: torch.Tensor, map_BDhw: torch.Tensor) -> torch.Tensor:
    """Return the map that the released code trains: the signed sum, each image's scaled to [0, 1].

    salesforce/CAST@fcc4adf, main_cast.py: the min-max, applied twice in place, precedes the ReLU. The released sum has
    another factor (1 / tau and a mean over positions), which the scaling takes out.

    Args: importance_BD: float32 (B, D). map_BDhw: float32 (B, D, h, w). Returns: float32 (B, h, w) in [0, 1].
    """
    cam_BN = torch.einsum("bd,bdhw->bhw", importance_BD, map_BDhw).flatten(1)
    for _ in range(2):
        cam_BN = cam_BN - cam_BN.amin(dim=1, keepdim=True)
        cam_BN = cam_BN / (cam_BN.amax(dim=1, keepdim=True) + 1e-7)
    return cam_BN.unflatten(1, map_BDhw.shape[2:])


def sampled_target(mask_B1HW: torch.Tensor, grid_hw: Sequence[int]) -> torch.Tensor:
    """Return the released code's target: the mask sampled at a grid from corner to corner, which misses small objects.

    Args: mask_B1HW: float (B, 1, H, W), 1 = foreground. grid_hw: rows and columns of the feature map.
    Returns: float32 (B, h, w) in [0, 1].
    """
    size = (grid_hw[0], grid_hw[1])
    return functional.interpolate(mask_B1HW.float(), size, mode="bilinear", align_corners=True).squeeze(1)


def batch_attention_loss(cam_Bhw: torch.Tensor, target_Bhw: torch.Tensor) -> torch.Tensor:
    """Return the released code's loss: 1 - the cosine of all maps of the batch, taken as one vector.

    Args: cam_Bhw, target_Bhw: float32 (B, h, w), 0 or more. Returns: scalar; 1 where all is zero.
    """
    return attention_loss(cam_Bhw[None], target_Bhw[None])[0]
