"""Images per second of the loader beside FFCV and torchvision, on one core and on all."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
import torch

from backdrop.devices import num_cores
from backdrop.pipeline.beton.reader import BetonSettings, read_records
from backdrop.pipeline.beton.scene_kernels import close_decoder, decode_jpeg, open_decoder
from backdrop.pipeline.beton.writer import export_beton
from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.views.device_stage import DeviceStage
from backdrop.pipeline.views.view_plan import Background, View, ViewPlan
from backdrop.stores.format.reader import open_store
from tests.bench.ffcv_peer import ffcv_epoch
from tests.bench.photographs import write_beton
from tests.bench.timing import best_cpu_seconds, best_seconds, one_core, row
from tests.bench.torchvision_peer import torchvision_epoch

NUM_IMAGES = 512
BATCH_SIZE = 64
BACKGROUND = Background(name="random", probability=0.2)
GLOBAL = View(min_foreground=0.1)
LOCAL = View(size_px=96, scale=(0.05, 0.14), min_foreground=0.1, is_global=False)
PLANS = {
    "two_view": ViewPlan(views=(GLOBAL, GLOBAL), background=BACKGROUND),
    "multicrop": ViewPlan(views=(GLOBAL, GLOBAL, *[LOCAL] * 6), background=BACKGROUND),
}
BARE = {
    name: ViewPlan(views=tuple(replace(view, min_foreground=0.0) for view in plan.views))
    for name, plan in PLANS.items()
}


def measure(folder: Path) -> dict[str, dict]:
    """Return the lines named `loader.*`."""
    beton, index = write_beton(folder, NUM_IMAGES)
    paths = [index.path(number) for number in range(len(index))]
    results = {}
    for name, plan in PLANS.items():
        with one_core():
            results.update(compare(name, plan, beton, paths, folder, num_threads=1))
        if num_cores() > 1:
            results.update(compare(name, plan, beton, paths, folder, num_threads=num_cores()))
    results["loader.scaling_2_threads"] = scaling(beton)
    with one_core():
        views = PLANS["multicrop"].views
        results["loader.device_geometry_vs_decode"] = device_geometry(beton, ViewPlan(views=views), "no backgrounds")
        results["loader.device_geometry_with_backgrounds_vs_decode"] = device_geometry(
            beton, PLANS["multicrop"], "BG_Random p 0.2"
        )
        results["loader.extras_cost"] = extras_cost(beton)
        results["loader.recombine_vs_random"] = recombined(beton)
        planes = export_beton(
            open_store(folder / "s.zarr"), index, folder / "planes.beton", settings=BetonSettings(pixels="yuv420")
        )
        results.update(against_decoding(beton, planes))
        results["loader.first_batch_s"] = first_batch(beton)
    return results


def compare(
    name: str, plan: ViewPlan, beton: Path, paths: list[Path], folder: Path, *, num_threads: int
) -> dict[str, dict]:
    """Measure one plan on both paths and beside both peers, every side with the same number of threads or workers."""
    sizes_px = tuple(view.size_px for view in plan.views)
    num_workers = 0 if num_threads == 1 else num_threads
    torch.set_num_threads(num_threads)
    ours = images_per_s(our_epoch(beton, plan, None, num_threads))
    with_device = images_per_s(our_epoch(beton, plan, DeviceStage(plan, device="cpu"), num_threads))
    ffcv = images_per_s(ffcv_epoch(paths, folder, sizes_px, BATCH_SIZE, num_threads))
    few = paths[: 4 * BATCH_SIZE] if num_workers else paths[: 2 * BATCH_SIZE]
    vision = images_per_s(torchvision_epoch(few, sizes_px, BATCH_SIZE, num_workers), repetitions=1)
    cores = "one core" if num_threads == 1 else f"{num_threads} cores"
    views = f"{len(plan.views)} views; ours with masks, FG_min 0.1 and BG_Random p 0.2; {cores}"
    end = "" if num_threads == 1 else "_all_cores"
    return {
        f"loader.{name}_vs_ffcv{end}": row(
            ours, "images/s", peer=ffcv, ratio=ours / ffcv, what=f"{views}; FFCV: random resized crop and flip per view"
        ),
        f"loader.{name}_vs_torchvision{end}": row(
            ours, "images/s", peer=vision, ratio=ours / vision,
            what=f"{views}; photometrics left to the device; torchvision: PIL, MoCo-v2 recipe on the CPU",
        ),
        f"loader.{name}_cpu_only_vs_torchvision{end}": row(
            with_device, "images/s", peer=vision, ratio=with_device / vision,
            what=f"{views}; device stage on the CPU too; torchvision: PIL, MoCo-v2 recipe on the CPU",
        ),
    }  # fmt: skip


def scaling(beton: Path) -> dict:
    """Two threads over one, on a machine with two cores or more."""
    plan = PLANS["two_view"]
    one, two = (images_per_s(our_epoch(beton, plan, None, num), repetitions=5) for num in (1, 2))
    return row(two, "images/s", peer=one, ratio=two / one, what="2 views with extras, 2 threads; peer: ours, 1 thread")


def device_geometry(beton: Path, plan: ViewPlan, backgrounds: str) -> dict:
    """The host's part when views are cut on the device, beside nothing but decoding the same images."""
    whole = images_per_s(our_epoch(beton, plan, None, 1, geometry="device"), repetitions=5)
    plain = decoded_per_s(beton)
    what = f"8 boxes, masks, {backgrounds}, whole images handed over; peer: the same JPEGs decoded, nothing else"
    return row(whole, "images/s", peer=plain, ratio=whole / plain, what=f"{what}; one core")


def against_decoding(beton: Path, planes: Path) -> dict[str, dict]:
    """Both plans, bare and with everything, from JPEGs and from planes, over nothing but decoding the JPEGs to RGB."""
    sides = {
        f"{name}_{what}{end}": our_epoch(file, plans[name], None, 1)
        for end, file in (("", beton), ("_planes", planes))
        for what, plans in (("bare", BARE), ("all", PLANS))
        for name in plans
    }
    decode, num_rows, close = decoding(beton)
    seconds = best_cpu_seconds({"decode": decode, **sides})
    close()
    peer = num_rows / seconds["decode"]
    side_px = BetonSettings.background_side_px
    said = (
        "processor time, sides in turn; masks always; no rows decoded below all views; with all: FG_min 0.1 and "
        f"BG_Random p 0.2, backgrounds planes of {side_px} px; peer: whole JPEGs to RGB"
    )
    return {
        f"loader.{name}_vs_decode": row(
            num_rows / seconds[name], "images/s", peer=peer, ratio=seconds["decode"] / seconds[name],
            what=f"{name}; {said}; one core",
        )
        for name in sides
    }  # fmt: skip


def decoded_per_s(beton: Path) -> float:
    """Images of a .beton decoded per second to RGB, by the library that the loader uses."""
    decode, num_rows, close = decoding(beton)
    seconds = best_seconds(decode)
    close()
    return num_rows / seconds


def decoding(beton: Path) -> tuple[Callable[[], int], int, Callable[[], None]]:
    """What decodes all images of a .beton to RGB, their number, and what ends it."""
    records, file_bytes = np.ascontiguousarray(read_records(beton)), np.memmap(beton, np.uint8, mode="r")
    pixels = np.empty(3 * int(records["height"].max()) * int(records["width"].max()), np.uint8)
    decoder = open_decoder()

    @numba.njit
    def decode(records: np.ndarray, file_bytes: np.ndarray, decoder: int, pixels: np.ndarray) -> int:
        failed = 0
        for record in records:
            start, end = np.int64(record["image_ptr"]), np.int64(record["image_ptr"]) + np.int64(record["image_bytes"])
            height, width = np.int64(record["height"]), np.int64(record["width"])
            failed += decode_jpeg(decoder, file_bytes[start:end], height, width, pixels, 3 * width)
        return failed

    return lambda: decode(records, file_bytes, decoder, pixels), len(records), lambda: close_decoder(decoder)


def extras_cost(beton: Path) -> dict:
    """What masks, constraint and backgrounds take of the loader's time, by its own clock, in the shortest of epochs."""
    best: dict[str, float] = {}
    with Loader(beton, PLANS["two_view"], LoaderOptions(batch_size=BATCH_SIZE, seed=0, num_threads=1)) as loader:
        for _ in range(9):
            before = loader.stage_seconds()
            for _ in loader.epoch(0):
                pass
            taken = {stage: after - before[stage] for stage, after in loader.stage_seconds().items()}
            best = min((each for each in (best, taken) if each), key=lambda each: sum(each.values()))
    extras = sum(best[stage] for stage in ("boxes", "masks", "donors"))
    without = sum(best.values()) - extras
    what = "2 views: boxes, masks and donors (planes) over all other stages; shortest of 9 epochs; one core"
    return row(extras / without, "share", what=what)


def recombined(beton: Path) -> dict:
    """Foregrounds put on other backgrounds beside other backgrounds put behind them, as often."""
    plan = PLANS["two_view"]
    moved = replace(plan, background=replace(BACKGROUND, name="recombine"))
    ours, peer = (images_per_s(our_epoch(beton, each, None, 1), repetitions=5) for each in (moved, plan))
    return row(ours, "images/s", peer=peer, ratio=ours / peer, what="2 views, p 0.2; peer: BG_Random, p 0.2; one core")


def first_batch(beton: Path) -> dict:
    """Seconds from opening a file in a new process to its first batch, compiled kernels in numba's cache."""
    program = (
        "import time; from pathlib import Path; from backdrop.pipeline.loader.loader import Loader\n"
        "from backdrop.pipeline.loader.loader_options import LoaderOptions\n"
        "from tests.bench.loader import PLANS\n"
        "start = time.perf_counter()\n"
        f"options = dict(batch_size={BATCH_SIZE}, seed=0, num_threads=1)\n"
        f"with Loader(Path({str(beton)!r}), PLANS['two_view'], LoaderOptions(**options)) as loader:\n"
        "    next(loader.epoch(0))\n"
        "    print(time.perf_counter() - start)\n"
    )
    taken = [float(subprocess.check_output([sys.executable, "-c", program])) for _ in range(3)]
    return row(min(taken), "s", what="opening to first batch in a new process, imports not counted; one core")


def images_per_s(epoch: Callable[[], int], repetitions: int = 3) -> float:
    counted = []
    seconds = best_seconds(lambda: counted.append(epoch()), repetitions=repetitions)
    return counted[-1] / seconds


def our_epoch(
    beton: Path, plan: ViewPlan, stage: DeviceStage | None, num_threads: int, geometry: str = "host"
) -> Callable[[], int]:
    loader = Loader(
        beton, plan, LoaderOptions(batch_size=BATCH_SIZE, seed=0, num_threads=num_threads, geometry=geometry)
    )

    def epoch() -> int:
        count = 0
        for batch in loader.epoch(0):
            count += len(batch.row_B)
            if stage is not None:
                stage(batch)
        return count

    return epoch
