"""InfoNCE over a queue (He et al. 2020, "Momentum contrast", Eq. 1; CAST's L_cont, Selvaraju et al. 2021, Eq. 3).

| paper | here |
|---|---|
| q | query_BD |
| k_+ | key_BD |
| k_i, i > 0 | queue_KD |
| the M extra negatives of BG_Swaps (Ryali et al. 2021, sections 4.4 and C.2) | negative_MBD |
| tau | temperature |
"""

import torch


def similarities(
    query_BD: torch.Tensor,
    key_BD: torch.Tensor,
    queue_KD: torch.Tensor,
    negative_MBD: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return each query's similarity to its key (column 0), to its own extra negatives if any, and to the queue.

    Args: query_BD, key_BD: float32 (B, D) of unit length. queue_KD: float32 (K, D) and negative_MBD: float32 (M, B, D),
        likewise.
    Returns: float32 (B, 1 + M + K).
    """
    columns = [(query_BD * key_BD).sum(dim=1, keepdim=True)]
    if negative_MBD is not None:
        columns.append((query_BD * negative_MBD).sum(dim=2).T)
    columns.append(query_BD @ queue_KD.T)
    return torch.cat(columns, dim=1)


def info_nce(similarity_BN: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the mean over queries of -log softmax(similarity / temperature) at the positive.

    Args: similarity_BN: float (B, N), the positive in column 0. temperature: tau, above 0. Returns: scalar.
    """
    target_B = torch.zeros(len(similarity_BN), dtype=torch.int64, device=similarity_BN.device)
    return torch.nn.functional.cross_entropy(similarity_BN / temperature, target_B)
