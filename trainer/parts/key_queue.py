"""First-in first-out queue of embeddings (He et al. 2020, "Momentum contrast", section 3.2; also SwAV's).

Where several processes train, MoCo's queue is whole and the same in each, SwAV's is dealt: each process keeps the keys
of its own rows. Dealt or not, the queue of all processes together is what one process with the whole batch would have,
in the same order; that is what a checkpoint holds.

Shapes: K keys in the queue, B batch, D embedding.
"""

import torch
from torch import nn

from backdrop.errors import UserError
from backdrop.trainer.parts.collectives import gathered, num_processes, own_rows


class KeyQueue(nn.Module):
    """The last K embeddings, kept in a ring; everything is in persistent buffers, so a checkpoint holds it all."""

    keys_KD: torch.Tensor
    num_enqueued: torch.Tensor

    def __init__(
        self, num_keys: int, num_dimensions: int, generator: torch.Generator, *, is_dealt: bool = False
    ) -> None:
        """Fill the queue with random unit vectors.

        Args: num_keys: K, over all processes. num_dimensions: D. generator: source of the initial keys.
            is_dealt: every process keeps the keys it enqueues itself; false = all keep everybody's.
        """
        super().__init__()
        self.is_dealt = is_dealt
        keys_KD = nn.functional.normalize(torch.randn(num_keys, num_dimensions, generator=generator), dim=1)
        self.register_buffer("keys_KD", own_rows(keys_KD).clone() if is_dealt else keys_KD)
        self.register_buffer("num_enqueued", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys_BD: torch.Tensor) -> None:
        """Replace the oldest keys by this batch's. Works on device tensors only: the position is never read back.

        Args: keys_BD: float (B, D), of this process's rows.
        """
        keys_BD = keys_BD if self.is_dealt else gathered(keys_BD)
        num_keys, batch_size = len(self.keys_KD), len(keys_BD)
        slots_B = (self.num_enqueued + torch.arange(batch_size, device=keys_BD.device)) % num_keys
        self.keys_KD.index_copy_(0, slots_B, keys_BD.to(self.keys_KD.dtype))
        self.num_enqueued += batch_size

    def is_full(self) -> bool:
        """Say whether no initial random key is left."""
        return int(self.num_enqueued) >= len(self.keys_KD)


def whole_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return a network's state with dealt queues put together; every process has to ask for it.

    Args: network: any module that may hold queues.
    """
    state = dict(network.state_dict())
    for prefix in _dealt_queues(network):
        state[f"{prefix}keys_KD"] = gathered(state[f"{prefix}keys_KD"])
        state[f"{prefix}num_enqueued"] = state[f"{prefix}num_enqueued"] * num_processes()
    return state


def load_whole_state(network: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Put what `whole_state` gave into a network, dealing queues to the processes there are now.

    Args: network: the same module. state: of any number of processes. Raises: RuntimeError: they do not fit.
    """
    state = dict(state)
    for prefix in _dealt_queues(network):
        if f"{prefix}keys_KD" in state:
            state[f"{prefix}keys_KD"] = own_rows(state[f"{prefix}keys_KD"])
            state[f"{prefix}num_enqueued"] = state[f"{prefix}num_enqueued"] // num_processes()
    network.load_state_dict(state)


def _dealt_queues(network: nn.Module) -> list[str]:
    """The prefixes in a network's state of the queues that are dealt."""
    queues = [(name, module) for name, module in network.named_modules() if isinstance(module, KeyQueue)]
    return [f"{name}." if name else "" for name, queue in queues if queue.is_dealt]


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
