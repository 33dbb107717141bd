"""Compile what a training loads before there is one."""

import time
from pathlib import Path

import numpy as np

from backdrop.kernels import compiled_in
from backdrop.pipeline.beton import scene_kernels, table_kernels
from backdrop.pipeline.beton.reader import Beton
from backdrop.pipeline.beton.scene import SCENE_DTYPE
from backdrop.pipeline.beton.table_reader import check_records, rows_with_mask
from backdrop.pipeline.loader._scene_kernels import fill_rows
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.loader.scene_decoder import SceneDecoder
from backdrop.pipeline.loader.trace import Trace
from backdrop.pipeline.views import random_streams, row_order
from backdrop.pipeline.views.view_plan import View, ViewPlan
from backdrop.stores.format.schema import Status


def warm_up() -> dict[str, str | float]:
    """Compile the kernels of the loader, or find that they are compiled; safe for many processes at once.

    Returns: seconds, and the folder in which they are kept ("" = nowhere).
    """
    began = time.perf_counter()
    row_order.random_order(0, 0, 1)
    row_order.quasi_random_order(0, 0, 1)
    random_streams.integer(0, 0, 0, 0, 0, 1)
    records, file_bytes = np.zeros(1, SCENE_DTYPE), np.zeros(8, np.uint8)
    records["status"] = Status.DECODE_ERROR  # which has no image
    records.flags.writeable = file_bytes.flags.writeable = False  # as a mapped file is
    scene_kernels.checksum(file_bytes)
    check_records(Path("none"), records)
    rows = rows_with_mask(records)
    table_kernels.largest_sides(records)
    table_kernels.rows_that_lend(records, rows)
    decoder = SceneDecoder(
        ViewPlan(views=(View(), View())),
        Beton(records=records, file_bytes=file_bytes, table_end=0, sidecar={}),
        str,
        LoaderOptions(batch_size=1, seed=0, num_threads=1),
        trace=Trace(max_events=0),
        replacements=None,
    )
    decoder.compile()
    decoder.close()
    return {"seconds": round(time.perf_counter() - began, 2), "kept_in": compiled_in(fill_rows)}
