"""The loader of training: batches of views of a .beton.

Order, sharding and draws come from `random_streams`, so they depend on nothing but (seed, epoch, row, view).
"""

import math
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backdrop.errors import CorruptStore, UserError, program
from backdrop.pipeline.beton import ffcv_images
from backdrop.pipeline.beton.reader import open_beton, read_blob
from backdrop.pipeline.beton.table_reader import rows_with_mask
from backdrop.pipeline.loader.batch_ring import BatchRing
from backdrop.pipeline.loader.epoch_order import check_share, epoch_rows, num_batches, subset, too_few_rows
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.loader.producer import Producer
from backdrop.pipeline.loader.read_ahead import RowReadAhead, batches_of, reads_rows
from backdrop.pipeline.loader.scene_decoder import Layout, SceneDecoder
from backdrop.pipeline.loader.trace import Trace
from backdrop.pipeline.views.batch import Batch, PlaneBatch, ViewBatch, WholeBatch
from backdrop.pipeline.views.row_order import WINDOW_ROWS
from backdrop.pipeline.views.view_plan import ViewPlan
from backdrop.settings import check_settings


class Loader:
    """Batches of views of a .beton file."""

    def __init__(self, beton: Path, plan: ViewPlan, options: LoaderOptions, *, trace: Trace | None = None) -> None:
        """Open a file for one plan.

        Args: beton: written by `export_beton`. plan: the views. options: which rows, how and by how many threads.
            trace: where to record what the loader's threads do.
        Raises: UserError where the file is incomplete or its table of records damaged, an option is out of range, or
            fewer rows than a batch are left.
        """
        self._pid = os.getpid()
        _check(options)
        self._share = check_share(options.batch_size, options.rank, options.world_size, options.drop_last)
        self.plan, self.batch_size, self.seed = plan, options.batch_size, options.seed
        self._beton = open_beton(Path(beton))
        self._records, self.sidecar = self._beton.records, self._beton.sidecar
        if not self.has_masks:
            _check_bare(beton, plan)
        trainable = rows_with_mask(self._records)
        self.num_left_out = len(self._records) - len(trainable)
        self._rows = trainable if options.rows is None else subset(options.rows, trainable, len(self._records))
        self._decoder = SceneDecoder(
            plan,
            self._beton,
            self._key_in_message,
            options,
            trace=trace or Trace(max_events=0),
            replacements=self._rows if options.bad_rows == "skip" else None,
        )
        self._order, self._read_ahead = options.order, self._reading(options)
        # A batch is prepared when the one `batches_ahead` before it is taken, and stays valid until as many more are.
        self._ring = BatchRing(2 * options.batches_ahead, options.batch_size, self._decoder.layout.row_bytes)
        if not self.num_batches:
            self.close()
            raise UserError(too_few_rows(len(self._rows), self._share, options.batch_size))
        self._decoder.compile()

    @property
    def num_rows(self) -> int:
        """Rows visited per epoch by all ranks together; rows without a mask are left out (`num_left_out`)."""
        return len(self._rows)

    @property
    def rows(self) -> np.ndarray:
        """The rows that are trained on, int32 (N,), ascending."""
        return self._rows

    @property
    def labels(self) -> np.ndarray:
        """Class of each row that is trained on, int32 (N,); -1 = none."""
        return self._records["label"][self._rows]

    @property
    def store_id(self) -> str:
        """Identity of the store the file was exported from."""
        return self.sidecar["store_id"]

    @property
    def num_batches(self) -> int:
        """Batches per epoch of this rank."""
        return num_batches(len(self._rows), self._share, self.batch_size)

    @property
    def has_masks(self) -> bool:
        """Whether it is of a store; a file of FFCV's own has images and labels alone."""
        return self.sidecar["format"] != ffcv_images.FORMAT

    @property
    def mean_row_bytes(self) -> float:
        """Bytes of image and mask of a row, on average."""
        return sum(float(self._records[f"{blob}_bytes"].mean(dtype=np.float64)) for blob in ("image", "mask"))

    @property
    def num_threads(self) -> int:
        """Threads that decode."""
        return self._decoder.num_threads

    @property
    def ring_bytes(self) -> int:
        """Size of the ring of batches that an epoch allocates."""
        return self._ring.num_bytes

    @property
    def scratch_bytes(self) -> int:
        """Size of the memory of the threads that decode, all together."""
        return self._decoder.scratch_bytes

    def stage_seconds(self) -> dict[str, float]:
        """Return the seconds that went into each stage of a row since the file was opened, summed over threads.

        Stages: checks, decode, boxes, resize, masks, donors. Wall-clock: on a machine whose cores are all busy it
        includes the wait for one.
        """
        return self._decoder.stage_seconds()

    def key(self, row: int) -> str:
        """Path of a row's image relative to its data set. Raises: CorruptStore where its bytes are damaged."""
        return read_blob(self._beton.file_bytes, self._records[row], "key").decode("utf-8", "surrogateescape")

    def _reading(self, options: LoaderOptions) -> RowReadAhead | None:
        """What has the next rows read; None where the system reads ahead as it likes."""
        if not reads_rows(options.read_ahead, options.order, self._beton.file_bytes.size):
            return None
        is_windowed = options.order == "quasi-random"
        window = max(1, WINDOW_ROWS // (self.batch_size * self._share.world_size)) if is_windowed else 1
        return RowReadAhead(self._beton, self.batch_size, window)

    def _key_in_message(self, row: int) -> str:
        try:
            return self.key(row)
        except CorruptStore:
            return "(its key is damaged too)"

    def epoch(self, epoch: int, *, first_batch: int = 0) -> Generator[Batch | WholeBatch, None, None]:
        """Yield the batches of one epoch, from first_batch on; close the iterator (or leave the loop) to end early.

        Raises: CorruptStore at the batch that holds a bad row, naming it and its key. UserError in a forked process.
        """
        if os.getpid() != self._pid:  # its threads stayed behind in the other process; this one would wait for ever
            raise UserError("this loader was opened in another process; open one in the process that reads it")
        order = epoch_rows(self._rows, self._share, self._order, seed=self.seed, epoch=epoch)
        order = order[: self.num_batches * self.batch_size]
        if self._read_ahead is None:
            batches = batches_of(order, self.batch_size, first_batch)
        else:
            batches = self._read_ahead.batches(order, first_batch)
        producer = Producer(self._decoder, self._ring, batches, epoch)
        try:
            first_step = epoch * self.num_batches + first_batch
            for step, (rows, flat_BN, skipped) in enumerate(producer, first_step):
                yield self._batch(rows, flat_BN, {"epoch": epoch, "step": step, "skipped": skipped})
        finally:
            producer.close()

    def close(self) -> None:
        """End the threads. Epochs still running stop with an error."""
        self._decoder.close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _batch(self, rows: np.ndarray, flat_BN: np.ndarray, origin: dict[str, Any]) -> Batch | WholeBatch:
        """Cut a flat buffer into tensors, without a copy."""
        flat, record_BV = flat_BN.reshape(-1), self._decoder.records_of(flat_BN.reshape(-1), len(rows))
        make = _batch_of_views if self._decoder.layout.place is None else _batch_of_whole_images
        row_B = torch.from_numpy(rows.astype(np.int64))
        label_B = torch.from_numpy(self._records["label"][rows].astype(np.int64))
        origin |= {"row_B": row_B, "label_B": label_B}
        return make(self._decoder.layout, torch.from_numpy(flat), record_BV, self._records, origin)


def _check(options: LoaderOptions) -> None:
    check_settings(options)
    if options.shrink_on_decoding and options.geometry != "host":
        raise UserError("shrink_on_decoding goes with geometry='host' only: whole images are handed over whole")


def _check_bare(beton: Path, plan: ViewPlan) -> None:
    """Raise UserError where a plan asks for the masks or backgrounds that a file of FFCV's own does not have."""
    if plan.background.name != "none" or any(view.min_foreground > 0 for view in plan.views):
        raise UserError(
            f"{beton} is a data set of FFCV's own and has no masks: train on it with --bg none and without "
            f"min_foreground, or build a store of its images: {program()} build-store"
        )


def _section(flat: torch.Tensor, start: int, *shape: int) -> torch.Tensor:
    """One section of a flat buffer; start: in bytes per row. shape: with the batch size first."""
    begin = shape[0] * start
    return flat[begin : begin + math.prod(shape)].view(*shape)


def _batch_of_views(
    layout: Layout, flat: torch.Tensor, record_BV: np.ndarray, scenes: np.ndarray, origin: dict[str, Any]
) -> Batch:
    num, views = len(record_BV), []
    for view, side in enumerate(layout.side):
        donor = layout.donor[view]
        views.append(
            ViewBatch(
                image_BHWC=_section(flat, layout.image[view], num, side, side, 3),
                mask_BHP=_section(flat, layout.mask[view], num, side, (side + 7) // 8),
                donor_BHWC=None if donor < 0 else _section(flat, donor, num, side, side, 3),
                record_B=record_BV[:, view],
            )
        )
    return Batch(views=tuple(views), **origin)


def _batch_of_whole_images(
    layout: Layout, flat: torch.Tensor, record_BV: np.ndarray, scenes: np.ndarray, origin: dict[str, Any]
) -> WholeBatch:
    assert layout.place is not None
    assert layout.donor_place is not None
    num, rows = len(record_BV), origin["row_B"].numpy()
    donors: list[PlaneBatch | None] = []
    for view, at in enumerate(layout.donor):
        sizes_B2 = _sizes(scenes[record_BV["donor_row"][:, view]], "background_")
        donors.append(None if at < 0 else _plane_batch(flat, at, layout.donor_place, sizes_B2))
    return WholeBatch(
        image=_plane_batch(flat, layout.image[0], layout.place, _sizes(scenes[rows], "")),
        mask_BHP=_section(flat, layout.mask[0], num, layout.place[0], layout.mask_row_bytes),
        donors=tuple(donors),
        records=tuple(record_BV[:, view] for view in range(record_BV.shape[1])),
        **origin,
    )


def _sizes(scenes_B: np.ndarray, prefix: str) -> np.ndarray:
    return np.stack([scenes_B[prefix + side] for side in ("height", "width")], axis=1).astype(np.int64)


def _plane_batch(flat: torch.Tensor, start: int, place: tuple[int, int], size_B2: np.ndarray) -> PlaneBatch:
    num, (height, width) = len(size_B2), place
    colour = _section(flat, start + height * width, num, 2, -(-height // 2), -(-width // 2))
    return PlaneBatch(luma_BHW=_section(flat, start, num, height, width), colour_B2HW=colour, size_B2=size_B2)
