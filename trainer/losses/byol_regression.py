"""BYOL's normalised regression (Grill et al. 2020, "Bootstrap your own latent", Eq. 2).

| paper | here |
|---|---|
| q_theta(z_theta) | prediction_BD |
| z'_xi | target_BD |
"""

import torch
from torch.nn import functional


def cosine(prediction_BD: torch.Tensor, target_BD: torch.Tensor) -> torch.Tensor:
    """Return each row's cosine between prediction and target.

    Args: prediction_BD, target_BD: float32 (B, D), any length. Returns: float32 (B,).
    """
    return (functional.normalize(prediction_BD, dim=1) * functional.normalize(target_BD, dim=1)).sum(dim=1)


def byol_regression(prediction_BD: torch.Tensor, target_BD: torch.Tensor) -> torch.Tensor:
    """Return the mean squared distance of the unit vectors: the mean of 2 - 2 cos. One direction of the paper's sum.

    Args: prediction_BD, target_BD: float32 (B, D), any length. Returns: scalar in [0, 4].
    """
    return (2.0 - 2.0 * cosine(prediction_BD, target_BD)).mean()
