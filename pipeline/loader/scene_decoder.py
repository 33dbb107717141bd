"""Fills batches: small groups of rows are handed to threads, each of which spends its time in one kernel.

Not with numba's own threads, which can neither report a bad record nor be left early.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from backdrop.devices import num_cores
from backdrop.errors import CorruptStore, UserError, program
from backdrop.pipeline.beton.plane_kernels import close_decode_memory
from backdrop.pipeline.beton.reader import Beton
from backdrop.pipeline.beton.table_kernels import largest_sides, rows_that_lend
from backdrop.pipeline.loader._scene_kernels import OK, PROBLEMS, BatchRows, Scratch, Slot, fill_rows, make_scratch
from backdrop.pipeline.loader._stage_clock import STAGES, stage_sums
from backdrop.pipeline.loader._vector_kernels import CACHE_LINE
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.loader.trace import ROWS, Trace
from backdrop.pipeline.views import crops
from backdrop.pipeline.views.random_streams import NO_VIEW, REPLACEMENT, integer
from backdrop.pipeline.views.view_plan import VIEW_DTYPE, ViewPlan
from backdrop.stores.format.schema import Status

# Groups per thread and batch: enough to even out slow images, few enough for the interpreter to keep out of the way.
GROUPS_PER_THREAD = 4
# Between groups a thread looks whether it is still wanted: an epoch that is left, or fails, ends within some 50 ms.
MAX_GROUP_ROWS = 32
# So many damaged rows one after the other are not a few bad ones: the file is.
MAX_REPLACEMENTS = 16


@dataclass(frozen=True)
class Layout:
    """Sections of a batch's flat buffer; starts and sizes in bytes per row of the batch.

    Section after section, each contiguous over the batch, so that each can be sent to a device in one copy.
    image, mask: start per view; one entry where images are whole. donor: start per view, -1 where the view gets none.
    Whole images and backgrounds are luma, and behind it a section with both colour differences, halved (4:2:0).
    side: of the views in pixels. place, donor_place: height and width in pixels that each whole image and each whole
    background gets; None where views are cut on the host. row_bytes: all together.
    """

    image: tuple[int, ...]
    mask: tuple[int, ...]
    donor: tuple[int, ...]
    side: tuple[int, ...]
    place: tuple[int, int] | None
    donor_place: tuple[int, int] | None
    row_bytes: int

    @property
    def mask_row_bytes(self) -> int:
        """Bytes of a row of a whole image's mask: whole words of 64 pixels."""
        return 0 if self.place is None else -(-self.place[1] // 64) * 8

    def slot(self, flat: np.ndarray, batch_size: int, may_shrink: bool) -> Slot:
        """What the kernel needs to fill a buffer, uint8 flat."""
        image, mask, donor, side = (
            np.array(values, dtype=np.int64) for values in (self.image, self.mask, self.donor, self.side)
        )
        height, width = self.place or (0, 0)
        donor_height, donor_width = self.donor_place or (0, 0)
        return Slot(
            flat=flat,
            batch_size=batch_size,
            image=image,
            mask=mask,
            donor=donor,
            side=side,
            may_shrink=may_shrink,
            is_whole=self.place is not None,
            height=height,
            width=width,
            mask_row_bytes=self.mask_row_bytes,
            donor_height=donor_height,
            donor_width=donor_width,
        )


def crop_layout(plan: ViewPlan) -> Layout:
    """Lay out the records, then image, mask and donor of each view, pixels in whole cache lines."""
    at = len(plan.views) * VIEW_DTYPE.itemsize
    image, mask, donor = [], [], []
    for number, view in enumerate(plan.views):
        pixels = 3 * view.size_px**2
        image.append(_next_line(at))
        mask.append(image[-1] + pixels)
        at = _next_line(mask[-1] + view.size_px * ((view.size_px + 7) // 8))
        donor.append(at if crops.takes_donor(plan, number) else -1)
        at += pixels if donor[-1] >= 0 else 0
    sides = tuple(view.size_px for view in plan.views)
    return Layout(tuple(image), tuple(mask), tuple(donor), sides, None, None, at)


def _next_line(at: int) -> int:
    """Where the next cache line begins, of that many rows whatever the batch."""
    return -(-at // CACHE_LINE) * CACHE_LINE


def whole_layout(plan: ViewPlan, place: tuple[int, int], donor_place: tuple[int, int]) -> Layout:
    """Lay out the records, then the whole image, its mask, and a whole background for each view that may get one.

    place, donor_place: height and width of the largest image and of the largest background.
    """
    image = len(plan.views) * VIEW_DTYPE.itemsize
    mask = image + _planes_bytes(place)
    at = mask + place[0] * (-(-place[1] // 64) * 8)
    donor = []
    for number in range(len(plan.views)):
        donor.append(at if crops.takes_donor(plan, number) else -1)
        at += _planes_bytes(donor_place) if donor[-1] >= 0 else 0
    sides = tuple(view.size_px for view in plan.views)
    return Layout((image,), (mask,), tuple(donor), sides, place, donor_place, at)


def _num_bytes(memory: object) -> int:
    """Bytes of all arrays in named tuples of such."""
    if isinstance(memory, tuple):
        return sum(map(_num_bytes, memory))
    return memory.nbytes if isinstance(memory, np.ndarray) else 0


def _planes_bytes(place: tuple[int, int]) -> int:
    """Bytes of a place for an image's planes, 4:2:0."""
    return place[0] * place[1] + 2 * (-(-place[0] // 2)) * (-(-place[1] // 2))


def _donors(plan: ViewPlan, records: np.ndarray) -> crops.Donors:
    """The rows of a file that lend backgrounds to a plan. Raises: UserError: it does not say how large their objects
    were, and the plan has to know.
    """
    if not crops.background_needs(plan)[0]:
        return crops.donors(*np.zeros((3, 0), np.int64))
    rows = np.empty(len(records), np.int32)
    rows = rows[: rows_that_lend(records, rows)]
    if not crops.moves_foreground(plan):
        return crops.donors(rows, *(records[f"background_{side}"][rows] for side in ("height", "width")))
    lends = records[rows]
    if ((lends["status"] == Status.OK) & (lends["foreground_pixels"] == 0)).any():
        raise UserError(
            f"background {plan.background.name} has to know how large foregrounds are, which this .beton was exported "
            f"too early to say; export it again: {program()} store export STORE.zarr --format beton"
        )
    fraction = lends["foreground_pixels"] / (lends["height"].astype(np.int64) * lends["width"])
    chosen = crops.lends_to(plan, fraction)
    height, width = (lends[f"background_{side}"][chosen] for side in ("height", "width"))
    return crops.donors(rows[chosen], height, width, fraction[chosen])


class SceneDecoder:
    """All views of a batch from the records of its rows."""

    def __init__(
        self,
        plan: ViewPlan,
        beton: Beton,
        key_of: Callable[[int], str],
        options: LoaderOptions,
        *,
        trace: Trace,
        replacements: np.ndarray | None,
    ) -> None:
        """Prepare for one plan and one file.

        Args: plan: the views. beton: where its rows are. key_of: a row's key, for messages. options: the loader's.
            trace: records groups of rows. replacements: int64, rows that may take the place of one that cannot be read;
            None = such a row is an error.
        """
        records = beton.records
        num_threads = options.num_threads or num_cores()
        sides = largest_sides(records)
        place, donor_place = sides[:2], sides[2:]
        self.plan = plan
        self.layout = whole_layout(plan, place, donor_place) if options.geometry == "device" else crop_layout(plan)
        self.specs = crops.view_specs(plan)
        self._beton, self.key_of, self.seed = beton, key_of, options.seed
        self.donors = _donors(plan, records)
        self.trace, self.num_threads = trace, num_threads
        self._may_shrink, self._replacements = options.shrink_on_decoding, replacements
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="backdrop-loader")
        self._scratch: queue.SimpleQueue[Scratch] = queue.SimpleQueue()
        height, width = (max(sides) for sides in zip(place, donor_place, strict=True))
        reaches_out = crops.moves_foreground(plan)
        all_scratch = [make_scratch(height, width, self.specs["size_px"], reaches_out) for _ in range(num_threads)]
        for scratch in all_scratch:
            self._scratch.put(scratch)
        self._clocks = [scratch.clock for scratch in all_scratch]
        self.scratch_bytes = sum(map(_num_bytes, all_scratch))

    def compile(self) -> None:
        """Compile the kernel, or load it, by filling no rows: so that no step of a training takes as long as that."""
        scratch = self._scratch.get()
        rows, flat = np.zeros(1, np.int64), np.zeros(self.layout.row_bytes, np.uint8)
        batch = BatchRows(
            rows,
            self._beton.records,
            self._beton.file_bytes,
            self.records_of(flat, 1),
            self.layout.slot(flat, 1, self._may_shrink),
        )
        fill_rows(0, 0, batch, self.draws(0), scratch)
        self._scratch.put(scratch)

    def close(self) -> None:
        """End the threads and free their memory."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        while not self._scratch.empty():
            close_decode_memory(self._scratch.get().decoding)

    def stage_seconds(self) -> dict[str, float]:
        """Seconds spent in each stage of `_stage_clock.STAGES` so far, summed over threads."""
        sums_ns = np.sum([stage_sums(clock) for clock in self._clocks], axis=0)
        return dict(zip(STAGES, (sums_ns / 1e9).tolist(), strict=True))

    def draws(self, epoch: int) -> crops.Draws:
        """Return what decides the draws of an epoch; once for all its batches, as the plan is checked on the way."""
        return crops.Draws(self.seed, epoch, self.specs, crops.epoch_code(self.plan, epoch), self.donors)

    def fill(
        self, rows: np.ndarray, flat_BN: np.ndarray, draws: crops.Draws, called_off: threading.Event
    ) -> tuple[str, ...]:
        """Fill one batch.

        Args: rows: int64 (B,), contiguous; a row that is replaced is written over. flat_BN: uint8 (B, row_bytes) of
            the layout, contiguous, written. draws: of the epoch. called_off: ends the work, half done.
        Returns: a line for each row that was replaced, in order.
        Raises: CorruptStore at a row that cannot be read. RuntimeError: closed meanwhile.
        """
        flat, num, skipped = flat_BN.reshape(-1), len(rows), dict[int, str]()
        record_BV = self.records_of(flat, num)
        slot = self.layout.slot(flat, num, self._may_shrink)
        group = min(max(1, -(-num // (GROUPS_PER_THREAD * self.num_threads))), MAX_GROUP_ROWS)
        firsts: queue.SimpleQueue[int] = queue.SimpleQueue()
        for first in range(0, num, group):
            firsts.put(first)
        batch = BatchRows(rows, self._beton.records, self._beton.file_bytes, record_BV, slot)
        failed = threading.Event()

        def work() -> None:
            scratch = self._scratch.get()
            try:
                while not (failed.is_set() or called_off.is_set()):
                    first = firsts.get_nowait()
                    self._fill_readable(first, min(first + group, num), batch, draws, scratch, skipped)
            except queue.Empty:
                return
            except BaseException:
                failed.set()
                raise
            finally:
                self._scratch.put(scratch)

        futures = [self._pool.submit(work) for _ in range(self.num_threads)]
        try:  # not `wait`: for a future that the pool's end has cancelled it waits for ever
            errors = [future.exception() for future in futures]
        except CancelledError as cancelled:
            raise RuntimeError("the loader was closed in the middle of an epoch") from cancelled
        for error in errors:
            if error is not None:
                raise error
        return tuple(skipped[at] for at in sorted(skipped))

    def _fill_readable(
        self, first: int, last: int, batch: BatchRows, draws: crops.Draws, scratch: Scratch, skipped: dict[int, str]
    ) -> None:
        """Fill a group of rows; one that cannot be read is an error, or gives its place to another.

        What is handed over of a row is always what an undamaged file would give, so a row whose donor cannot be read
        gives way too. The other is drawn by (seed, epoch, row, try) among all rows: batches stay full, ranks need not
        agree, no further row changes. It may be seen twice in the epoch, with the same views.
        """
        rows = batch.rows
        position, tries, wanted = first, 0, -1
        while True:
            problem, about, bad = self._fill(position, last, batch, draws, scratch)
            if problem == OK:
                return
            message = f"row {about}, {self.key_of(about)}: {PROBLEMS[problem]}"
            if wanted < 0 or bad != position:
                position, tries, wanted = bad, 0, int(rows[bad])
                skipped[bad] = message
            if self._replacements is None or tries == MAX_REPLACEMENTS:
                raise CorruptStore(f"{message}; export the .beton again")
            chosen = integer(self.seed, draws.epoch, wanted, NO_VIEW, REPLACEMENT + tries, len(self._replacements))
            rows[bad] = self._replacements[chosen]
            tries += 1

    def _fill(
        self, first: int, last: int, batch: BatchRows, draws: crops.Draws, scratch: Scratch
    ) -> tuple[int, int, int]:
        """Fill a group of rows, see `fill_rows`."""
        with self.trace.span(ROWS) as details:
            before = stage_sums(scratch.clock)
            outcome = fill_rows(first, last, batch, draws, scratch)
            if self.trace.is_recording:
                spent_us = (stage_sums(scratch.clock) - before) // 1000
                details |= {"rows": last - first} | dict(zip(STAGES, spent_us.tolist(), strict=True))
        return outcome

    def records_of(self, flat: np.ndarray, batch_size: int) -> np.ndarray:
        """The record section of a flat buffer, (B, V) of VIEW_DTYPE."""
        num_bytes = batch_size * len(self.plan.views) * VIEW_DTYPE.itemsize
        return flat[:num_bytes].view(VIEW_DTYPE).reshape(batch_size, len(self.plan.views))
