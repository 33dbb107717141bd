"""Pieces of work dealt to several processes like cards, and what each gave, in every process and in the pieces' order.

Process r of W does pieces r, r + W, ...; after each round every process has the results of all W, the bits of the one
that computed them. So work whose pieces do not depend on each other comes out as it does in one process.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from backdrop.errors import UserError
from backdrop.trainer.parts.collectives import num_processes, rank

_Piece = TypeVar("_Piece")


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a piece gave. tensors: of any shapes and dtypes, all on one device. words: small, what JSON may hold."""

    tensors: tuple[Tensor, ...] = ()
    words: Any = None


def own_pieces(pieces: Iterable[_Piece]) -> Iterator[_Piece]:
    """Yield the pieces of this process, in their order."""
    return islice(pieces, rank(), None, num_processes())


def done_by_all(own: Iterator[Done]) -> Iterator[Done]:
    """Yield what every piece gave, in their order.

    Args: own: what `own_pieces` gave, computed as it is asked for.
    Raises: UserError, in every process, what one of them raised.
    """
    if num_processes() == 1:
        yield from own
        return
    of_round: list[Done] = []
    # The first process without a piece left is followed by others without.
    while len(of_round) in (0, num_processes()):
        done, error = None, None
        try:
            done = next(own, None)
        except UserError as caught:
            error = str(caught)
        of_round = _exchanged(done, error)
        yield from of_round
        if not of_round:
            return


def _exchanged(done: Done | None, error: str | None) -> list[Done]:
    """What the processes have that have something, in their order. Raises: UserError: one of them has an error."""
    tensors = () if done is None else done.tensors
    heads = _told(
        {
            "is_there": done is not None,
            "words": None if done is None else done.words,
            "error": error,
            "kinds": [(list(tensor.shape), tensor.dtype) for tensor in tensors],
            "device": tensors[0].device.type if tensors else "",
        }
    )
    errors = [head["error"] for head in heads if head["error"] is not None]
    if errors:
        raise UserError(errors[0])
    return [
        Done(tensors=tensors, words=head["words"])
        for head, tensors in zip(heads, _sent(tensors, heads), strict=True)
        if head["is_there"]
    ]


def _sent(tensors: Sequence[Tensor], heads: Sequence[dict[str, Any]]) -> list[tuple[Tensor, ...]]:
    """Every process's tensors. Args: tensors: this one's. heads: what each says of its own."""
    sizes = [sum(_num_bytes(*kind) for kind in head["kinds"]) for head in heads]
    if not max(sizes):
        return [tuple(torch.empty(shape, dtype=dtype) for shape, dtype in head["kinds"]) for head in heads]
    device = next(head["device"] for head in heads if head["device"])
    own_bytes = torch.zeros(max(sizes), dtype=torch.uint8, device=device)
    if tensors:
        own_bytes[: sizes[rank()]] = torch.cat([_bytes_of(tensor) for tensor in tensors])
    of_each = [torch.empty_like(own_bytes) for _ in heads]
    distributed.all_gather(of_each, own_bytes)
    return [_tensors(each, head["kinds"]) for each, head in zip(of_each, heads, strict=True)]


def _told(value: dict[str, Any]) -> list[dict[str, Any]]:
    """What each process says; over the hosts' network."""
    values: list[Any] = [None] * num_processes()
    distributed.all_gather_object(values, value)
    return values


def _num_bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def _tensors(bytes_of_all: Tensor, kinds: Sequence[tuple[list[int], torch.dtype]]) -> tuple[Tensor, ...]:
    """The tensors whose bytes stand behind each other."""
    found, start = [], 0
    for shape, dtype in kinds:
        stop = start + _num_bytes(shape, dtype)
        # A copy begins where its type may begin.
        found.append(bytes_of_all[start:stop].clone().view(dtype).reshape(shape))
        start = stop
    return tuple(found)


def united(names: set[str]) -> set[str]:
    """Return the names of all processes together."""
    if num_processes() == 1:
        return names
    return set().union(*(told["names"] for told in _told({"names": sorted(names)})))
