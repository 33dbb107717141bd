"""How far a batch's embeddings lie apart: what falls to 0 when all images are embedded alike (collapse).

Chen, He 2021, "Exploring simple Siamese representation learning", arXiv 2011.10566, section 4.1: the standard deviation
per dimension of unit-length embeddings, 1 / sqrt(D) where they point in all directions, 0 where they are the same.
"""

import torch
from torch.nn import functional


@torch.no_grad()
def embedding_spread(embedding_BD: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation of the unit vectors, averaged over dimensions, in units of 1 / sqrt(D).

    Args: embedding_BD: float (B, D), any length. Returns: scalar in [0, 1].
    """
    unit_BD = functional.normalize(embedding_BD, dim=1)
    return unit_BD.std(dim=0, correction=0).mean() * unit_BD.shape[1] ** 0.5
