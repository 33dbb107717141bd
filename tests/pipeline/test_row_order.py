"""The order of an epoch: by each row's own key, or window by window."""

import numpy as np
import pytest

from backdrop.pipeline.loader.epoch_order import check_share, epoch_rows
from backdrop.pipeline.views.batch import ORDERS
from backdrop.pipeline.views.random_streams import NO_VIEW, ROW_ORDER, bits
from backdrop.pipeline.views.row_order import BLOCK_ROWS, WINDOW_ROWS, quasi_random_order, random_order, row_order


# One slice, and several: they are of 2^15 rows.
@pytest.mark.parametrize("num_rows", [0, 1, 2, 7, 1000, 70_000])
def test_rows_are_sorted_by_their_own_keys(num_rows: int) -> None:
    keys = np.array([bits(3, 1, row, NO_VIEW, ROW_ORDER) for row in range(num_rows)], np.uint64)
    order = row_order(3, 1, num_rows)
    assert order.dtype == np.int64
    assert (order == np.argsort(keys, kind="stable")).all()
    assert random_order(3, 1, num_rows).dtype == np.int32


def test_another_seed_epoch_or_draw_is_another_order() -> None:
    orders = [row_order(*key) for key in ((3, 1, 50), (4, 1, 50), (3, 2, 50), (3, 1, 50, ROW_ORDER + 7))]
    assert len({tuple(order) for order in orders}) == 4


def test_quasi_random_order_stays_within_windows_of_blocks() -> None:
    num_rows = 3 * WINDOW_ROWS + 5 * BLOCK_ROWS
    order = quasi_random_order(3, 1, num_rows)
    for num in (0, 1, BLOCK_ROWS + 1, num_rows - 3, num_rows):
        assert (np.sort(quasi_random_order(3, 1, num)) == np.arange(num)).all()
    assert (order != quasi_random_order(3, 2, num_rows)).any()
    # A window has whole blocks alone, from all over the file, and its rows come in another order than in the file.
    window = order[:WINDOW_ROWS]
    blocks, counts = np.unique(window // BLOCK_ROWS, return_counts=True)
    assert (counts == BLOCK_ROWS).all()
    assert len(blocks) == WINDOW_ROWS // BLOCK_ROWS
    assert np.ptp(blocks) > 2 * WINDOW_ROWS // BLOCK_ROWS
    assert len(np.unique(window[:256] // BLOCK_ROWS)) > 120, "a batch has rows of most of a window's blocks"
    assert abs(np.corrcoef(np.argsort(window), np.arange(len(window)))[0, 1]) < 0.1


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_order_of_one(order: str, world_size: int) -> None:
    rows = np.flatnonzero(np.arange(20_000) % 7).astype(np.int32)
    whole = epoch_rows(rows, check_share(8, 0, 1, False), order, seed=5, epoch=2)
    for rank in range(world_size):
        share = epoch_rows(rows, check_share(8, rank, world_size, False), order, seed=5, epoch=2)
        assert (share == whole[rank::world_size]).all()
        assert share.dtype == np.int32
