"""The loader of training: FFCV's Loader with the fused decoder, and FFCV's known defects mended at this edge.

What is changed: no loop over the table of allocations at start (our records hold sizes); order, sharding and draws come
from `random_streams`, so they depend on nothing but (seed, epoch, row, view); an error in the producing thread reaches
the consumer instead of stopping it for ever; leaving an epoch early ends its thread; a slot of the ring is written
again only after the batches promised in `batch.py` were taken and, on CUDA, their copies are done.
"""

import math
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backdrop.errors import CorruptStore, UserError
from backdrop.pipeline.beton.ffcv_names import (
    Compiler,
    EpochIterator,
    Graph,
    MemoryContext,
    MemoryManager,
    PipelineSpec,
    TraversalOrder,
)
from backdrop.pipeline.beton.ffcv_names import Loader as FfcvLoader
from backdrop.pipeline.beton.reader import read_blob, read_table
from backdrop.pipeline.beton.scene import FIELD_NAME
from backdrop.pipeline.beton.table_reader import TableReader, has_mask, records_of
from backdrop.pipeline.loader.epoch_order import check_share, epoch_rows, num_batches, subset, too_few_rows
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.loader.scene_field import Layout, SceneDecoder
from backdrop.pipeline.loader.trace import BATCH, WAIT_FOR_BATCH, WAIT_FOR_SLOT, Trace
from backdrop.pipeline.views.batch import Batch, PlaneBatch, ViewBatch, WholeBatch
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
        self._beton, self._pid = Path(beton), os.getpid()
        _check(options)
        self._share = check_share(options.batch_size, options.rank, options.world_size, options.drop_last)
        self.plan, self.batch_size, self.seed = plan, options.batch_size, options.seed
        reader, self.sidecar = read_table(self._beton)
        self._records = records_of(reader)
        self._file = np.memmap(self._beton, np.uint8, mode="r")
        trainable = np.flatnonzero(has_mask(self._records)).astype(np.int64)
        self.num_left_out = len(self._records) - len(trainable)
        self._rows = trainable if options.rows is None else subset(options.rows, trainable, len(self._records))
        self._decoder = SceneDecoder(
            plan,
            self._records,
            self._key_in_message,
            options,
            trace=trace or Trace(max_events=0),
            replacements=self._rows if options.bad_rows == "skip" else None,
        )
        self._ffcv = _SceneLoader(reader, self._decoder, self._file, options.batch_size, options.batches_ahead)
        if not self.num_batches:
            self.close()
            raise UserError(too_few_rows(len(self._rows), self._share, options.batch_size))

    @property
    def num_rows(self) -> int:
        """Rows visited per epoch by all ranks together; rows without a mask are left out (`num_left_out`)."""
        return len(self._rows)

    @property
    def rows(self) -> np.ndarray:
        """The rows that are trained on, int64 (N,), ascending."""
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
    def num_threads(self) -> int:
        """Threads that decode."""
        return self._decoder.num_threads

    @property
    def ring_bytes(self) -> int:
        """Size of the ring of batches that an epoch allocates."""
        return (self._ffcv.batches_ahead + 2) * self.batch_size * self._decoder.layout.row_bytes

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
        return read_blob(self._file, self._records[row], "key").decode("utf-8", "surrogateescape")

    def _key_in_message(self, row: int) -> str:
        try:
            return self.key(row)
        except CorruptStore:
            return "(its key is damaged too)"

    def epoch(self, epoch: int, *, first_batch: int = 0) -> Iterator[Batch | WholeBatch]:
        """Yield the batches of one epoch, from first_batch on; close the iterator (or leave the loop) to end early.

        Raises: CorruptStore at the batch that holds a bad row, naming it and its key. UserError in a forked process.
        """
        if os.getpid() != self._pid:  # its threads stayed behind in the other process; this one would wait for ever
            raise UserError("this loader was opened in another process; open one in the process that reads it")
        order = epoch_rows(self._rows, self._share, seed=self.seed, epoch=epoch)
        first = first_batch * self.batch_size
        iterator = _SceneIterator(self._ffcv, order[first : self.num_batches * self.batch_size], epoch)
        try:
            first_step = epoch * self.num_batches + first_batch
            for step, (rows, flat_BN, skipped) in enumerate(iterator, first_step):
                yield self._batch(rows, flat_BN, {"epoch": epoch, "step": step, "skipped": skipped})
        finally:
            iterator.close()

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


# --- FFCV's classes with our changes ---------------------------------------------------------------------------------


class _MappedFile(MemoryManager, MemoryContext):
    """The file as the page cache holds it; manager and context in one, because there is nothing to schedule."""

    def __init__(self, file_bytes: np.ndarray) -> None:
        self._file_bytes = file_bytes

    @property
    def state(self) -> tuple[np.ndarray]:
        return (self._file_bytes,)

    @property
    def state_type(self) -> None:
        return None

    def compile_reader(self) -> None:
        return None

    def schedule_epoch(self, batches: Any) -> "_MappedFile":
        return self

    def __enter__(self) -> "_MappedFile":
        return self

    def __exit__(self, *error: object) -> None:
        return None


class _OrderOfEpoch(TraversalOrder):
    """FFCV asks for an order in places; batches really come in the order handed to `_SceneIterator`."""

    def sample_order(self, epoch: int) -> np.ndarray:
        return self.indices


class _SceneLoader(FfcvLoader):
    """FFCV's Loader put together without its constructor, which sets torch's threads and loops over allocations."""

    def __init__(
        self, reader: TableReader, decoder: SceneDecoder, file_bytes: np.ndarray, batch_size: int, batches_ahead: int
    ) -> None:
        self.reader, self.batch_size, self.seed = reader, batch_size, 0
        self.prepared_ahead = batches_ahead
        # FFCV keeps batches_ahead + 2 slots. A batch is prepared when the one `prepared_ahead` before it is taken, and
        # stays valid until as many more are taken: twice as many slots.
        self.batches_ahead = 2 * batches_ahead - 2
        self.trace = decoder.trace
        self.num_workers, self.drop_last, self.distributed, self.recompile = 1, False, False, False
        self.indices = np.arange(reader.num_samples, dtype=np.int64)
        self.memory_manager = _MappedFile(file_bytes)
        self.traversal_order = _OrderOfEpoch(self)
        self.field_name_to_f_ix = {FIELD_NAME: 0}
        self.pipeline_specs = {FIELD_NAME: PipelineSpec(FIELD_NAME, decoder=decoder)}
        self.graph = Graph(self.pipeline_specs, reader.handlers, self.field_name_to_f_ix, reader.metadata, None)
        self.ring = _Ring(self.graph.allocate_memory)
        self.graph.allocate_memory = self.ring.lend
        Compiler.set_enabled(False)  # our decoder is Python that calls cached kernels: nothing to compile
        try:
            self.generate_code()
        finally:
            Compiler.set_enabled(True)


class _Ring:
    """The slots that batches are written to, kept from epoch to epoch: a new page costs more than what is put on it.

    An epoch starts behind the last slot that was taken, so that batches stay valid as long as within an epoch. A second
    epoch at the same time gets slots of its own.
    """

    def __init__(self, allocate: Callable[[int, int], Any]) -> None:
        self._allocate, self._next_slot = allocate, 0
        self._spare: list[Any] = []

    def lend(self, batch_size: int, num_slots: int) -> Any:
        """FFCV: the memory of an epoch."""
        if not self._spare:
            self._next_slot = 0
            return self._allocate(batch_size, num_slots)
        if torch.cuda.is_initialized():
            torch.cuda.current_stream().synchronize()  # whatever is still being copied out of it
        return self._spare.pop()

    @property
    def first_slot(self) -> int:
        """Where the epoch that was just lent to begins."""
        return self._next_slot

    def take_back(self, memory: Any, next_slot: int) -> None:
        """Keep an epoch's memory; next_slot: behind the last that was taken."""
        if memory is not None and not self._spare:
            self._spare, self._next_slot = [memory], next_slot


class _SceneIterator(EpochIterator):
    """FFCV's producing thread, with errors that arrive, slots that are not written too early, and an end."""

    def __init__(self, loader: _SceneLoader, order: np.ndarray, epoch: int) -> None:
        self._epoch = epoch
        self._to_prepare = threading.Semaphore(loader.prepared_ahead)
        self._copied: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._num_prepared_unasked = loader.prepared_ahead
        self._num_slots, self._num_taken = loader.batches_ahead + 2, 0
        self.memory_allocations: Any = None
        super().__init__(loader, order)

    def start(self) -> None:
        """Start the thread; its queue has no bound of its own, so that putting the end never waits for a consumer."""
        self.output_queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._first_slot = self.loader.ring.first_slot
        super().start()

    def run(self) -> None:
        """Prepare batch after batch; put (rows, buffer, what was skipped), at last None, or the error that ended it."""
        trace = self.loader.trace
        threading.current_thread().name = "backdrop-batches"
        try:
            for number, rows in enumerate(self.iter_ixes):
                with trace.span(WAIT_FOR_SLOT):
                    self._to_prepare.acquire()
                if self.terminate_event.is_set():
                    return
                with trace.span(WAIT_FOR_SLOT):
                    self._wait_for_copies(number)
                with trace.span(BATCH) as details:
                    details["number"] = number
                    skipped: dict[int, str] = {}
                    rows = np.array(rows)  # its own: rows may be replaced; contiguous, as the kernels are compiled for
                    self.storage_state: tuple = (*self.memory_context.state, self._epoch, self.terminate_event, skipped)
                    slot = (self._first_slot + number) % self._num_slots
                    (flat_BN,) = self.run_pipeline(number, rows, slot, None)
                self.output_queue.put((rows, flat_BN, tuple(skipped[at] for at in sorted(skipped))))
            self.output_queue.put(None)
        except BaseException as error:  # handed to the consumer, who raises it
            self.output_queue.put(error)

    def _wait_for_copies(self, number: int) -> None:
        """Wait until the device has read what the slot held (one event per batch taken)."""
        if number >= self._num_prepared_unasked:
            event = self._copied.get()
            if event is not None:
                event.synchronize()

    def __next__(self) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        with self.loader.trace.span(WAIT_FOR_BATCH):
            result = self.output_queue.get()
        if result is None:
            raise StopIteration
        if isinstance(result, BaseException):
            raise result
        # Whatever was taken before has been handed to the device by now, or is not needed any more.
        self._copied.put(_event_of_this_stream())
        self._to_prepare.release()
        self._num_taken += 1
        return result

    def close(self) -> None:
        """End the thread and give the buffers back."""
        self.terminate_event.set()
        self._to_prepare.release()
        if self.is_alive():
            self.join()
        self.loader.ring.take_back(self.memory_allocations, (self._first_slot + self._num_taken) % self._num_slots)
        self.memory_allocations = None

    def __del__(self) -> None:
        """FFCV would call close here; an iterator is closed by the generator that made it."""


def _event_of_this_stream() -> Any:
    if not torch.cuda.is_initialized():
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream())
    return event
