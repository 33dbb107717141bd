"""SwAV's swapped prediction with multi-crop (Caron et al. 2020, Eq. 1, 2 and 6).

| paper | here |
|---|---|
| z_t^T c_k | score_VBK |
| q_s | code_GBK |
| tau | temperature |
Shapes: V views, the global ones first; G global views; B batch; K prototypes.
"""

import torch


def swapped_prediction(code_GBK: torch.Tensor, score_VBK: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the mean cross-entropy of every global view's code with every other view's prediction.

    Args: code_GBK: float32 (G, B, K), rows sum to 1, no gradient. score_VBK: float32 (V, B, K), views 0 .. G - 1 are
        those of the codes. temperature: tau, above 0.
    Returns: scalar, the mean over the G * (V - 1) pairs of different views and over rows.
    """
    log_probability_VBK = torch.log_softmax(score_VBK / temperature, dim=2)
    num_global, num_views, batch_size = len(code_GBK), len(score_VBK), code_GBK.shape[1]
    cross_entropy_GV = -torch.einsum("gbk,vbk->gv", code_GBK, log_probability_VBK) / batch_size
    is_same_GV = torch.eye(num_global, num_views, dtype=torch.bool, device=score_VBK.device)
    return cross_entropy_GV.masked_fill(is_same_GV, 0.0).sum() / (num_global * (num_views - 1))
