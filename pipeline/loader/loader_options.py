"""What may be chosen of a loader besides the file and the views."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """How a loader goes through its rows.

    batch_size: rows per batch of this rank. seed: of order and draws.
    num_threads: threads that decode, 0 = one per core.
    batches_ahead: batches prepared in advance, and further batches taken before one becomes invalid.
    rank, world_size: this process's share of the rows. drop_last: leave out a last batch that is not full.
    rows: int64, visit only these; None = all.
    geometry: where views are cut, one of GEOMETRIES; "device" hands over `WholeBatch`es: less work for the host, more
        bytes for the bus.
    bad_rows: what to do where the bytes of a row are damaged, one of BAD_ROWS; with "skip" another row takes its place
        and `Batch.skipped` says so.
    shrink_on_decoding: decode an image 2, 4 or 8 times smaller where every view of it keeps as many pixels as it has;
        faster for small views of large images, pixels differ a little.
    """

    batch_size: int
    seed: int
    num_threads: int = 0
    batches_ahead: int = 3
    rank: int = 0
    world_size: int = 1
    drop_last: bool = True
    rows: np.ndarray | None = None
    geometry: str = "host"
    bad_rows: str = "error"
    shrink_on_decoding: bool = False
