"""A .beton that is larger than memory: the table is shared, the rows to come are asked for, opening is quick."""

import ctypes
import gc
import json
import mmap
import os
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from backdrop import cli
from backdrop.errors import CorruptStore
from backdrop.pipeline.beton.reader import open_beton
from backdrop.pipeline.beton.scene_kernels import will_need
from backdrop.pipeline.loader import read_ahead
from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.loader.read_ahead import MAX_GAP_BYTES, RowReadAhead, reads_rows
from backdrop.pipeline.views.view_plan import Background, View, ViewPlan
from tests.material.synthetic_table import IMAGE_BYTES, ROW_BYTES, write_table

PLAN = ViewPlan(views=(View(size_px=32),) * 2, background=Background(name="random", probability=0.5))


@pytest.fixture
def beton(scenes: Path) -> Path:
    return scenes.with_suffix(".beton")


def read(beton: Path, **options: object) -> list[tuple[bytes, ...]]:
    """Rows and pixels of an epoch's batches."""
    with Loader(beton, PLAN, LoaderOptions(**{"batch_size": 4, "seed": 1, "num_threads": 1, **options})) as loader:
        return [
            (batch.row_B.numpy().tobytes(), batch.views[0].image_BHWC.numpy().tobytes()) for batch in loader.epoch(1)
        ]


def test_what_is_read_ahead_changes_no_byte(beton: Path) -> None:
    expected = read(beton)
    assert read(beton, read_ahead="rows") == expected
    quasi = read(beton, order="quasi-random")
    assert quasi == read(beton, order="quasi-random", num_threads=2, read_ahead="system")
    assert sorted(b"".join(rows for rows, _ in quasi)) == sorted(b"".join(rows for rows, _ in expected))
    with Loader(beton, PLAN, LoaderOptions(batch_size=4, seed=1, num_threads=1, order="quasi-random")) as loader:
        resumed = [batch.row_B.numpy().tobytes() for batch in loader.epoch(1, first_batch=2)]
    assert resumed == [rows for rows, _ in quasi[2:]]


def test_the_machines_memory_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "memory_bytes", lambda: 10**9)
    assert not reads_rows("auto", "random", 4 * 10**8)
    assert reads_rows("auto", "random", 6 * 10**8)
    assert reads_rows("auto", "quasi-random", 10**6)
    assert reads_rows("rows", "random", 10**6)
    assert not reads_rows("system", "quasi-random", 10**12)


def test_what_will_be_needed_is_read(tmp_path: Path) -> None:
    """On a disk the pages around it stay there; in a folder that is memory itself all are there at once."""
    path, start, num_bytes = tmp_path / "large", 300_001, 50_000
    path.write_bytes(np.random.default_rng(0).bytes(1 << 20))
    with path.open("rb") as file:
        os.fsync(file)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            mapped.madvise(mmap.MADV_RANDOM)
            file_bytes = np.frombuffer(mapped, np.uint8)
            will_need(file_bytes, start, num_bytes)
            wanted = slice(start // mmap.PAGESIZE, (start + num_bytes) // mmap.PAGESIZE + 1)
            until = time.monotonic() + 30
            while not (is_there := in_memory(file_bytes))[wanted].all() and time.monotonic() < until:
                time.sleep(0.001)
            del file_bytes
    assert is_there[wanted].all()


def in_memory(file_bytes: np.ndarray) -> np.ndarray:
    """Whether each page of a mapped file is in memory."""
    pages = np.zeros(-(-file_bytes.size // mmap.PAGESIZE), np.uint8)
    mincore = ctypes.CDLL(None).mincore
    mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    assert mincore(file_bytes.ctypes.data, file_bytes.size, pages.ctypes.data) == 0
    return pages & 1 == 1


@pytest.mark.parametrize("batches_of_window", [1, 3])
def test_rows_are_asked_for_before_they_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches_of_window: int
) -> None:
    beton = open_beton(write_table(tmp_path / "t.beton", 200))
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(read_ahead, "_advise", lambda file_bytes, start, end, advice: asked.append((start, end)))
    order = np.random.default_rng(0).permutation(np.flatnonzero(beton.records["image_bytes"])).astype(np.int32)
    reading = RowReadAhead(beton, 8, batches_of_window)
    asked.clear()  # not to guess
    seen, num_asked = [], []
    for rows in reading.batches(order, 4):
        seen.append(rows)
        num_asked.append(len(asked))
        for start in beton.records["image_ptr"][rows]:
            assert any(begin <= start and start + IMAGE_BYTES <= end for begin, end in asked)
    assert (np.concatenate(seen) == order[32:]).all()
    assert asked == sorted(set(asked), key=asked.index), "nothing is asked for twice"
    read_bytes = sum(end - start for start, end in asked)
    assert read_bytes <= len(order[32:]) * ROW_BYTES + len(asked) * MAX_GAP_BYTES
    assert num_asked[0] < len(asked) / 3 + 8, "not all of an epoch at once"
    if batches_of_window > 1:
        assert len(asked) < len(order[32:]), "neighbours are read in one go"


def regions_of(name: str) -> dict[int, list[str]]:
    """Where a mapped file begins in memory, by region, and what the system was told of each."""
    found, start = dict[int, list[str]](), None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            start = int(line.split("-")[0], 16) if line.endswith(name) else None
        elif line.startswith("VmFlags:") and start is not None:
            found[start] = line.split()[1:]
    return found


def test_the_system_does_not_guess_within_the_blobs(tmp_path: Path) -> None:
    beton = open_beton(write_table(tmp_path / "t.beton", 500))
    RowReadAhead(beton, 8, 1)
    address = beton.file_bytes.ctypes.data
    flags = regions_of("t.beton")
    blobs = address + int(beton.records["image_ptr"][0]) // mmap.PAGESIZE * mmap.PAGESIZE
    assert "rr" in flags[max(start for start in flags if start <= blobs)]
    assert "rr" not in flags[min(start for start in flags if start >= address)], "the table stays as it is"


def base_of(array: np.ndarray) -> object:
    """What an array is a view of, in the end."""
    base: object = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return base


def private_bytes() -> int:
    """Memory of this process that is no page of a file."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["RssAnon"].split()[0])


def open_and_start(path: Path) -> tuple[float, float, int]:
    """Seconds of CPU to open a file and to start an epoch of it, whose first image is a hole; its own bytes then."""
    gc.collect()
    before, begin = private_bytes(), time.process_time()
    with Loader(path, PLAN, LoaderOptions(batch_size=8, seed=0, num_threads=1)) as loader:
        opened_s, opened_bytes = time.process_time() - begin, private_bytes() - before
        begin = time.process_time()
        with pytest.raises(CorruptStore, match="image"):
            next(loader.epoch(0))
        return opened_s, time.process_time() - begin, opened_bytes


HUGE = pytest.param(100_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])


@pytest.mark.parametrize("num_rows", [200_000, HUGE])
def test_a_large_table_opens_soon_and_is_nobodys_own(tmp_path: Path, num_rows: int) -> None:
    """104 bytes a row are mapped; 4 are the rows', 8 the lenders', and 4 the epoch's order while it is made."""
    open_and_start(write_table(tmp_path / "small.beton", 100))  # compiled code is loaded
    path = write_table(tmp_path / "large.beton", num_rows)
    beton = open_beton(path)
    assert all(isinstance(base_of(array), mmap.mmap) for array in (beton.records, beton.file_bytes))
    assert len(beton.records) == num_rows
    opened_s, started_s, own_bytes = open_and_start(path)
    print(f"{num_rows} rows: open {opened_s:.2f} s, {own_bytes / num_rows:.1f} B a row; epoch {started_s:.2f} s")
    assert max(opened_s, started_s) < (10 if num_rows > 10**6 else 1)
    assert own_bytes < 12 * num_rows + (8 << 20)


def test_the_command_counts_what_a_cold_file_costs(beton: Path, tmp_path: Path) -> None:
    words = ["loader-bench", "--store", beton, "--method", "moco", "--recipe", "smoke", "--batch-size", 4]
    words += ["--threads", 1, "--order", "quasi-random", "--cold", "--seconds", 0.2]
    done = CliRunner().invoke(cli.main, [*map(str, words), "--json", str(tmp_path / "cold.json")])
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "cold.json").read_text())
    assert result["order"] == "quasi-random"
    assert list(result["cold"]) == ["system", "rows"]
    for cost in result["cold"].values():
        assert cost["images"] > 0
        assert min(cost["read_kb"], cost["major_faults"]) >= 0
        assert cost["images_per_s"] > 0
    assert "as the loader asks for" in done.output
    done = CliRunner().invoke(cli.main, [*map(str, words), "--trace", str(tmp_path / "trace.json")])
    assert done.exit_code == 2
    assert "--cold counts" in done.output
