"""What a file that is colder than memory costs: bytes of the disk and faults that waited for it, for each image.

Twice over the same rows, from a file that the system has just forgotten: read ahead as the system likes, and as the
loader asks for.
"""

import gc
import os
import resource
import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from backdrop.pipeline.beton.reader import files_of, read_sidecar
from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.views.view_plan import ViewPlan
from backdrop.progress import warn

# `LoaderOptions.read_ahead`, as the table calls them.
WAYS = {"system": "as the system likes", "rows": "as the loader asks for"}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of each image that was taken; batches that were only prepared are in it, so take many.

    read_kb: from the disk. major_faults: times that a thread stood still for it. images_per_s: with those waits.
    """

    images: int
    read_kb: float
    major_faults: float
    images_per_s: float


def cold_bench(beton: Path, plan: ViewPlan, options: LoaderOptions, *, seconds: float) -> dict[str, Any]:
    """Measure both ways, each for so many seconds or one epoch.

    Args: beton, plan, options: as of `Loader`; read_ahead is not looked at. seconds: of each way.
    Returns: plain data. Raises: UserError as `Loader`.
    """
    ways = {way: _cost(beton, plan, replace(options, read_ahead=way, drop_last=False), seconds) for way in WAYS}
    with Loader(beton, plan, replace(options, batch_size=1)) as loader:
        row_kb, num_rows = loader.mean_row_bytes / 1000, loader.num_rows
    if min(cost.read_kb for cost in ways.values()) < row_kb / 2:
        warn(
            f"{beton} did not leave the memory: its folder is memory itself, or other processes read the file. Less "
            "was read of the disk than its rows have"
        )
    costs = {way: asdict(cost) for way, cost in ways.items()}
    return {"beton": str(beton), "rows": num_rows, "order": options.order, "row_kb": row_kb, "cold": costs}


def table(result: dict[str, Any]) -> str:
    """Return what `cold_bench` found as a table to read."""
    return "\n".join(
        [
            f"{result['beton']}: {result['rows']} rows of {result['row_kb']:,.0f} KB (image and mask), order "
            f"{result['order']}; forgotten by the system before each",
            "",
            "read ahead               KB/image  faults/image  images/s  images",
            *(
                f"{WAYS[way]:<24} {cost['read_kb']:>8,.0f}  {cost['major_faults']:>12.1f} "
                f"{cost['images_per_s']:>9,.0f} {cost['images']:>7,}"
                for way, cost in result["cold"].items()
            ),
        ]
    )


def _cost(beton: Path, plan: ViewPlan, options: LoaderOptions, seconds: float) -> Cost:
    """Take batches of a file that is on the disk alone."""
    gc.collect()  # a loader of before, which would hold pages of the file
    forget(beton)
    num_images = 0
    with Loader(beton, plan, options) as loader, closing(loader.epoch(0)) as batches:
        read_before, faults_before = _counts()
        begin = time.perf_counter()
        for batch in batches:
            num_images += len(batch.row_B)
            if time.perf_counter() - begin > seconds:
                break
        wall_s = time.perf_counter() - begin
    read, faults = _counts()
    return Cost(
        images=num_images,
        read_kb=(read - read_before) / num_images / 1000,
        major_faults=(faults - faults_before) / num_images,
        images_per_s=num_images / wall_s,
    )


def forget(beton: Path) -> None:
    """Have the system drop what it holds of a .beton in memory; of pages that a process has mapped it keeps some."""
    for path, _, _ in files_of(beton, read_sidecar(beton)):
        with path.open("rb") as file:
            os.fsync(file)  # what was not written yet would stay
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _counts() -> tuple[int, int]:
    """Bytes that this process has had read from disks, and its faults that waited for one."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["read_bytes"]), resource.getrusage(resource.RUSAGE_SELF).ru_majflt
