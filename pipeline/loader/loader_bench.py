"""Is the loader fast enough? Measure one on this machine: rate, where the time goes, memory, cores that a GPU needs."""

import itertools
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backdrop.devices import num_cores
from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.loader.trace import DEVICE_STAGE, Trace
from backdrop.pipeline.views.batch import Batch, WholeBatch
from backdrop.pipeline.views.device_stage import DeviceStage
from backdrop.pipeline.views.view_plan import ViewPlan

# Images a second that one GPU trains on, where the user does not say: an estimate for MoCo-v2 or BYOL, ResNet-50, two
# views of 224 px, mixed precision: 500 to 1,000 on an A100, 1,000 to 2,000 on an H100.
GPU_IMAGES_PER_S = 1000.0
# Before each measurement, so that code is compiled and memory is touched; never longer than the measurement.
WARM_UP_S = 2.0
# Share of its time that a thread may stand still before the table says so; readings of the two clocks differ a little.
LARGE_STALL = 0.1
# Batches whose copies to the device are timed.
NUM_TRANSFERS = 10


@dataclass
class _Phase:
    """What was counted while batches were taken for a while; times in seconds."""

    num_images: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0  # of all threads of the process
    wait_s: float = 0.0  # of the thread that takes batches
    device_s: float = 0.0
    tries_V: np.ndarray | int = 0
    fallbacks_V: np.ndarray | int = 0
    stage_s: dict[str, float] = field(default_factory=dict)

    def count(self, batch: Batch | WholeBatch) -> None:
        self.num_images += len(batch.row_B)
        self.tries_V = self.tries_V + np.array([record_B["tries"].sum(dtype=np.int64) for record_B in batch.records])
        self.fallbacks_V = self.fallbacks_V + np.array([np.count_nonzero(r["is_fallback"]) for r in batch.records])


def bench(
    beton: Path,
    plan: ViewPlan,
    options: LoaderOptions,
    *,
    seconds: float,
    gpu_images_per_s: float = GPU_IMAGES_PER_S,
    trace_path: Path | None = None,
) -> dict[str, Any]:
    """Take batches of a file for `seconds`, and again with the device stage: on a GPU where there is one.

    Args: beton, plan, options: as of `Loader`. seconds: of each of the two measurements.
        gpu_images_per_s: images that a GPU trains on in a second, for the number of cores it needs.
        trace_path: where to write a Chrome trace of it all.
    Returns: plain data, times in microseconds per image; what is not a measurement stands under "estimate".
    Raises: UserError as `Loader`, and where the trace cannot be written.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trace = Trace() if trace_path else Trace(max_events=0)
    if trace_path:
        trace.write(trace_path)  # nothing yet: whether it can be written is better known now than in the end
    with Loader(beton, plan, replace(options, drop_last=False), trace=trace) as loader:
        result = {
            "beton": str(beton),
            "rows": loader.num_rows,
            "geometry": options.geometry,
            "background": plan.background.name,
        }
        result |= _measure(loader, seconds, gpu_images_per_s, device, trace)
    if trace_path:
        trace.write(trace_path)
        result |= {"trace": str(trace_path), "trace_events_left_out": trace.num_dropped}
    return result


def _measure(
    loader: Loader, seconds: float, gpu_images_per_s: float, device: torch.device, trace: Trace
) -> dict[str, Any]:
    with closing(_batches(loader)) as batches:
        alone = _phase(loader, batches, seconds, _Nothing())
        stage = _TimedStage(DeviceStage(loader.plan, device=device), device, trace)
        both = _phase(loader, batches, seconds, stage)
        transfer_s = _transfer_seconds_per_image(batches, device)
    spent_us = {name: 1e6 * spent_s / alone.num_images for name, spent_s in alone.stage_s.items()}
    threads_us, cpu_us = sum(spent_us.values()), 1e6 * alone.cpu_s / alone.num_images
    spent_us["transfer"] = 1e6 * transfer_s
    spent_us["device"] = max(0.0, 1e6 * both.device_s / both.num_images - spent_us["transfer"])
    return {
        "device": _device_name(device),
        "batch_size": loader.batch_size,
        "num_threads": loader.num_threads,
        "num_cores": num_cores(),
        "seconds": seconds,
        "images_per_s": {
            "loader": alone.num_images / alone.wall_s,
            "with_device_stage": both.num_images / both.wall_s,
        },
        "consumer_wait_share": both.wait_s / both.wall_s,
        "us_per_image": spent_us,
        "cpu_us_per_image": cpu_us,
        "stalled_share": max(0.0, 1.0 - cpu_us / threads_us),
        "memory_bytes": _memory() | {"ring": loader.ring_bytes, "scratch": loader.scratch_bytes},
        "views": _views(loader.plan, alone),
        "estimate": {"gpu_images_per_s": gpu_images_per_s, "cores_per_gpu": gpu_images_per_s * cpu_us / 1e6},
    }


def _batches(loader: Loader) -> Generator[Batch | WholeBatch, None, None]:
    """Epoch after epoch without an end, from the one on whose background augmentation has its full strength."""
    for epoch in itertools.count(math.ceil(loader.plan.background.warmup_epochs)):
        yield from loader.epoch(epoch)


# ----------------------------------------------------------------------------------------------------- measurements


class _Nothing:
    """Stands for a device stage where the loader is measured alone."""

    def __call__(self, batch: Batch | WholeBatch) -> None: ...

    def seconds(self) -> float:
        return 0.0


class _TimedStage:
    """A device stage and the time it took: on CUDA by events of the device, on a CPU by the clock."""

    def __init__(self, stage: DeviceStage, device: torch.device, trace: Trace) -> None:
        self._stage, self._trace = stage, trace
        self._is_cuda = device.type == "cuda"
        self._spans: list[Callable[[], float]] = []

    def __call__(self, batch: Batch | WholeBatch) -> None:
        with self._trace.span(DEVICE_STAGE):
            self._spans.append(_timed(lambda: self._stage(batch), self._is_cuda))

    def seconds(self) -> float:
        """Seconds since the last call of this; waits for the device."""
        spans, self._spans = self._spans, []
        if self._is_cuda:
            torch.cuda.synchronize()
        return sum(span() for span in spans)


def _timed(work: Callable[[], object], is_cuda: bool) -> Callable[[], float]:
    """Do some work; what is returned gives its seconds, on CUDA once the device has caught up."""
    if not is_cuda:
        begin = time.perf_counter()
        work()
        took_s = time.perf_counter() - begin
        return lambda: took_s
    begin_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin_event.record()
    work()
    end_event.record()
    return lambda: begin_event.elapsed_time(end_event) / 1e3


def _phase(
    loader: Loader, batches: Iterator[Batch | WholeBatch], seconds: float, stage: _Nothing | _TimedStage
) -> _Phase:
    """Warm up, then take batches for some seconds, at least one."""
    _take(batches, min(WARM_UP_S, seconds), stage, _Phase())
    stage.seconds()
    phase, before_s = _Phase(), loader.stage_seconds()
    begin, cpu_begin = time.perf_counter(), time.process_time()
    _take(batches, seconds, stage, phase)
    phase.device_s = stage.seconds()
    phase.wall_s, phase.cpu_s = time.perf_counter() - begin, time.process_time() - cpu_begin
    phase.stage_s = {name: spent_s - before_s[name] for name, spent_s in loader.stage_seconds().items()}
    return phase


def _take(batches: Iterator[Batch | WholeBatch], seconds: float, stage: _Nothing | _TimedStage, phase: _Phase) -> None:
    deadline = time.perf_counter() + seconds
    while phase.num_images == 0 or time.perf_counter() < deadline:
        begin = time.perf_counter()
        batch = next(batches)
        phase.wait_s += time.perf_counter() - begin
        stage(batch)
        phase.count(batch)


def _transfer_seconds_per_image(batches: Iterator[Batch | WholeBatch], device: torch.device) -> float:
    """Time the copies that the device stage makes, on their own; 0 where nothing is copied."""
    if device.type == "cpu":
        return 0.0
    spans, num_images = [], 0
    for batch in itertools.islice(batches, NUM_TRANSFERS):
        copy = partial(_copy, _moved_tensors(batch), device)
        spans.append(_timed(copy, is_cuda=True))
        num_images += len(batch.row_B)
    torch.cuda.synchronize()
    return sum(span() for span in spans) / num_images


def _copy(tensors: list[torch.Tensor], device: torch.device) -> None:
    for tensor in tensors:
        tensor.to(device, non_blocking=True)


def _moved_tensors(batch: Batch | WholeBatch) -> list[torch.Tensor]:
    """The tensors whose bytes go to the device: images, masks, and the donors that were drawn."""
    if isinstance(batch, WholeBatch):
        moved = [batch.image.luma_BHW, batch.image.colour_B2HW, batch.mask_BHP]
        donors = [[] if each is None else [each.luma_BHW, each.colour_B2HW] for each in batch.donors]
    else:
        moved = [tensor for view in batch.views for tensor in (view.image_BHWC, view.mask_BHP)]
        donors = [[] if view.donor_BHWC is None else [view.donor_BHWC] for view in batch.views]
    for tensors, record_B in zip(donors, batch.records, strict=True):
        moved += [tensor[torch.from_numpy(record_B["has_background"] != 0)] for tensor in tensors]
    return moved


def _views(plan: ViewPlan, phase: _Phase) -> list[dict[str, Any]]:
    tries_V, fallbacks_V = np.asarray(phase.tries_V), np.asarray(phase.fallbacks_V)
    return [
        {
            "size_px": view.size_px,
            "scale": list(view.scale),
            "min_foreground": view.min_foreground,
            "tries": float(tries_V[number] / phase.num_images),
            "fallback_share": float(fallbacks_V[number] / phase.num_images),
        }
        for number, view in enumerate(plan.views)
    ]


def _memory() -> dict[str, int]:
    """Bytes of this process; the .beton's pages in the page cache, which are shared, count as mapped files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"resident": "VmRSS", "mapped_files": "RssFile", "peak": "VmHWM"}
    return {name: 1024 * int(status[key].split()[0]) for name, key in names.items()}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


# ------------------------------------------------------------------------------------------------------------ table


def table(result: dict[str, Any]) -> str:
    """Return what `measure` found as a table to read."""
    rate, estimate = result["images_per_s"], result["estimate"]
    lines = [
        f"{result['beton']}: {result['rows']} rows, {len(result['views'])} views, background {result['background']}, "
        f"geometry {result['geometry']}",
        f"batch {result['batch_size']}, {result['num_threads']} threads on {result['num_cores']} cores, "
        f"device {result['device']}, {result['seconds']:g} s each",
        "",
        f"images/s      {rate['loader']:>9,.0f}  the loader alone",
        f"              {rate['with_device_stage']:>9,.0f}  with the device stage, "
        f"of which {result['consumer_wait_share']:.0%} of the time waiting for a batch",
        "",
        *_stage_lines(result),
        "",
        *_memory_lines(result["memory_bytes"]),
        "",
        *_view_lines(result["views"]),
        "",
        f"cores         {estimate['cores_per_gpu']:>9.1f}  for a GPU that trains {estimate['gpu_images_per_s']:,.0f} "
        "images/s (--gpu-images-per-s): an estimate,",
        f"              {result['cpu_us_per_image']:>9,.0f}  us of CPU per image, measured without the device stage, "
        "times that rate",
    ]
    if "trace" in result:
        left_out = result["trace_events_left_out"]
        note = f"; full, the last {left_out:,} events are left out" if left_out else ""
        lines += ["", f"trace: {result['trace']}, for ui.perfetto.dev or chrome://tracing{note}"]
    return "\n".join(lines)


def _stage_lines(result: dict[str, Any]) -> list[str]:
    spent_us, is_cpu = result["us_per_image"], result["device"] == "cpu"
    total_us = sum(spent_us.values())
    notes = {
        "checks": "checksums of image and mask",
        "boxes": "10 tries at most per view, foreground counted",
        "resize": "crop, resize, flip",
        "masks": "unfolded once, cropped per view",
        "donors": "backgrounds that were drawn: decoded and cropped",
        "transfer": "none: the views stay on the CPU" if is_cpu else "copies of the same bytes, timed on their own",
        "device": "the device stage, wall-clock" if is_cpu else "the device stage by CUDA events, less transfer",
    }
    lines = [
        f"{name:<13} {spent:>9,.1f}  {spent / total_us:>5.1%}  {notes.get(name, '')}".rstrip()
        for name, spent in spent_us.items()
    ]
    stalled = (
        f"The threads that decode stood still for {result['stalled_share']:.0%} of their time, for want of a core\n"
        "(other work on this machine) or of the disk; what they lost is in the times above."
    )
    return ["stage          us/image  share", *lines, *([stalled] if result["stalled_share"] > LARGE_STALL else [])]


def _memory_lines(memory: dict[str, int]) -> list[str]:
    def line(title: str, name: str, note: str) -> str:
        return f"{title:<13} {memory[name] / 1e6:>9,.0f}  {note}"

    return [
        line("memory, MB", "resident", "of this process now, with code, libraries and mapped files"),
        line("", "mapped_files", "of these, pages of files: shared, given back when memory is short"),
        line("", "peak", "at most"),
        line("", "ring", "the ring of batches"),
        line("", "scratch", "of the threads that decode, all together"),
    ]


def _view_lines(views: list[dict[str, Any]]) -> list[str]:
    return [
        "view  size_px      scale  min_foreground  tries  fallbacks",
        *(
            f"{number:>4} {view['size_px']:>8} {view['scale'][0]:>5g}-{view['scale'][1]:<4g} "
            f"{view['min_foreground']:>15g} {view['tries']:>6.2f} {view['fallback_share']:>10.1%}"
            for number, view in enumerate(views)
        ),
    ]
