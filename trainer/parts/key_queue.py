"""First-in first-out queue of embeddings (He et al. 2020, "Momentum contrast", section 3.2; also SwAV's).

Shapes: K keys in the queue, B batch, D embedding.
"""

import torch
from torch import nn

from stores.errors import UserError


class KeyQueue(nn.Module):
    """The last K embeddings, kept in a ring; everything is in persistent buffers, so a checkpoint holds it all."""

    keys_KD: torch.Tensor
    num_enqueued: torch.Tensor

    def __init__(self, num_keys: int, num_dimensions: int, generator: torch.Generator) -> None:
        """Fill the queue with random unit vectors.

        Args: num_keys: K. num_dimensions: D. generator: source of the initial keys.
        """
        super().__init__()
        keys_KD = torch.randn(num_keys, num_dimensions, generator=generator)
        self.register_buffer("keys_KD", nn.functional.normalize(keys_KD, dim=1))
        self.register_buffer("num_enqueued", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys_BD: torch.Tensor) -> None:
        """Replace the B oldest keys. Works on device tensors only: the position is never read back."""
        num_keys, batch_size = len(self.keys_KD), len(keys_BD)
        slots_B = (self.num_enqueued + torch.arange(batch_size, device=keys_BD.device)) % num_keys
        self.keys_KD.index_copy_(0, slots_B, keys_BD.to(self.keys_KD.dtype))
        self.num_enqueued += batch_size

    def is_full(self) -> bool:
        """Say whether no initial random key is left."""
        return int(self.num_enqueued) >= len(self.keys_KD)


def check_queue(num_keys: int, batch_size: int, name: str) -> None:
    """Raise UserError unless the queue holds a whole number of batches.

    Args: num_keys: K. batch_size: B. name: the setting's name, for the message.
    """
    if num_keys % batch_size or num_keys < batch_size:
        allowed = max(1, num_keys // batch_size) * batch_size
        raise UserError(
            f"{name}={num_keys} is no multiple of batch_size={batch_size}, so the queue would hold parts of batches; "
            f"set {name}={allowed}, or another batch_size"
        )
