"""Pieces of work dealt to processes: every process has what all gave, bit for bit, in the order of one process."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backdrop.errors import UserError
from backdrop.trainer.evaluation.data.batches import forwarded
from backdrop.trainer.evaluation.data.images import ArrayImages
from backdrop.trainer.evaluation.data.transforms import resized_to_square
from backdrop.trainer.parts.pieces import Done, done_by_all, own_pieces, united
from tests.material.threads_as_processes import Threads

PROCESSES = st.integers(1, 4)
DTYPES = (torch.float32, torch.float16, torch.int64, torch.bool)


def tensors_of(piece: int) -> tuple[torch.Tensor, ...]:
    """Of every piece others, in shape and number: some have none, some are empty."""
    generator = torch.Generator().manual_seed(piece)
    shapes = [(piece % 4, 3), (2, 1 + piece % 3), ()][: piece % 4]
    return tuple(torch.randn(shape, generator=generator).to(DTYPES[(piece + n) % 4]) for n, shape in enumerate(shapes))


@given(size=PROCESSES, num_pieces=st.integers(0, 11))
def test_every_process_has_every_piece_in_order(size: int, num_pieces: int) -> None:
    computed: list[int] = []

    def own() -> Iterator[Done]:
        for piece in own_pieces(range(num_pieces)):
            computed.append(piece)
            yield Done(tensors=tensors_of(piece), words=[piece])

    for found in Threads(size).run(lambda: list(done_by_all(own()))):
        assert [done.words for done in found] == [[piece] for piece in range(num_pieces)]
        for piece, done in enumerate(found):
            expected = tensors_of(piece)
            assert [(each.dtype, each.shape) for each in done.tensors] == [(e.dtype, e.shape) for e in expected]
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(done.tensors, expected, strict=True))
    assert sorted(computed) == list(range(num_pieces))  # each by one process


@given(size=PROCESSES, failing=st.integers(0, 6))
def test_what_one_process_raises_all_raise(size: int, failing: int) -> None:
    def own() -> Iterator[Done]:
        for piece in own_pieces(range(7)):
            if piece == failing:
                raise UserError(f"piece {piece}")
            yield Done(words=piece)

    def work() -> list[int]:
        seen = []
        with pytest.raises(UserError, match=f"piece {failing}"):
            seen += [done.words for done in done_by_all(own())]
        return seen

    Threads(size).run(work)


@given(size=PROCESSES, num_images=st.integers(1, 9))
def test_batches_are_those_of_one_process(size: int, num_images: int) -> None:
    images = ArrayImages(np.arange(num_images * 192, dtype=np.uint8).reshape(-1, 8, 8, 3), np.zeros(num_images))
    batches = [np.arange(start, min(start + 2, num_images)) for start in range(0, num_images, 2)]

    def work() -> list[tuple[list[int], list[float]]]:
        found = forwarded(
            ((images, rows) for rows in batches), resized_to_square(4),
            lambda batch: (batch.image_BCHW.sum(dim=(1, 2, 3)),), device=torch.device("cpu"),
        )  # fmt: skip
        return [(each.row_B.tolist(), each.outputs[0].tolist()) for each in found]

    alone = work()
    assert [row for rows, _ in alone for row in rows] == list(range(num_images))
    assert Threads(size).run(work) == [alone] * size


def test_names_of_all_processes_are_united() -> None:
    threads = Threads(3)
    assert threads.run(lambda: united({"of all", f"of {threads.rank()}"})) == [{"of all", "of 0", "of 1", "of 2"}] * 3
