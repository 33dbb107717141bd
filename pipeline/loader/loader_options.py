"""What may be chosen of a loader besides the file and the views."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from backdrop.pipeline.views.batch import BAD_ROWS, GEOMETRIES, ORDERS, READ_AHEAD
from backdrop.settings import SEEDS, at_least, one_of


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """How a loader goes through its rows."""

    batch_size: Annotated[int, at_least(1), "Rows per batch of this rank"]
    seed: Annotated[int, SEEDS, "Decides order and draws"]
    num_threads: Annotated[int, at_least(0), "Threads that decode; 0 = one per core"] = 0
    batches_ahead: Annotated[
        int,
        at_least(1),
        "Batches prepared in advance, and further batches taken before one becomes invalid",
    ] = 3
    rank: Annotated[int, at_least(0), "Which of the processes that share the rows this is"] = 0
    world_size: Annotated[int, at_least(1), "Number of those processes"] = 1
    drop_last: Annotated[bool, "Whether a last batch that is not full is left out"] = True
    rows: Annotated[np.ndarray | None, "Integers, visit only these; None = all"] = None
    order: Annotated[
        str,
        one_of(ORDERS),
        "How an epoch goes through its rows: quasi-random stays within windows of 8,192 rows from 256 places of the "
        "file, for files that are colder than memory (LOADER.md)",
    ] = "random"
    read_ahead: Annotated[
        str,
        one_of(READ_AHEAD),
        "Who decides what is read before it is wanted: system, rows = the loader, or auto = rows for a file of more "
        "than half of this machine's memory, or with quasi-random order",
    ] = "auto"
    geometry: Annotated[
        str,
        one_of(GEOMETRIES),
        "Where views are cut; device hands over `WholeBatch`es: less work for the host, more bytes for the bus",
    ] = "host"
    bad_rows: Annotated[
        str,
        one_of(BAD_ROWS),
        "What to do where the bytes of a row are damaged; with skip another row takes its place and `Batch.skipped` "
        "says so",
    ] = "error"
    shrink_on_decoding: Annotated[
        bool,
        "Decode an image 2, 4 or 8 times smaller where every view of it keeps as many pixels as it has; faster for "
        "small views of large images; pixels differ a little, colour is as coarse as 4:2:0 makes it at the view's size",
    ] = False
