"""Equal-share assignment of a batch to prototypes (Caron et al. 2020, SwAV, section 3.1 Eq. 3-4; Cuturi 2013).

| paper | here |
|---|---|
| C^T Z | score_BK |
| epsilon | epsilon |
| Q* | code_BK |
"""

import torch

from backdrop.trainer.parts.collectives import largest, num_processes, summed


@torch.no_grad()
def assign_codes(score_BK: torch.Tensor, *, epsilon: float, num_iterations: int) -> torch.Tensor:
    """Return soft codes that use every prototype equally over the batches of all processes.

    Args: score_BK: float (B, K), similarity of each embedding to each prototype, as many rows in each process.
        epsilon: smoothness of the codes, above 0. num_iterations: rounds of scaling rows and columns.
    Returns: float32, or float64 where that was given, (B, K); each row sums to 1.
    """
    scaled_BK = score_BK.to(torch.promote_types(score_BK.dtype, torch.float32)) / epsilon
    # The largest entry is taken off first: a common factor, which the first division removes anyway, and no overflow.
    code_BK = torch.exp(scaled_BK - largest(scaled_BK.max()))
    code_BK /= summed(code_BK.sum())
    batch_size, num_prototypes = len(code_BK) * num_processes(), code_BK.shape[1]
    for _ in range(num_iterations):
        share_1K = summed(code_BK.sum(dim=0, keepdim=True))
        code_BK /= share_1K.clamp_min(torch.finfo(torch.float32).tiny) * num_prototypes
        code_BK /= code_BK.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) * batch_size
    return code_BK * batch_size
