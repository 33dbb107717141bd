"""Where a loader's time goes: clocks in the kernels, the Chrome trace, and the command that reads them out."""

import itertools
import json
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numba import njit

from backdrop import cli
from backdrop.errors import UserError
from backdrop.pipeline.beton.writer import export_beton
from backdrop.pipeline.loader import trace as tracing
from backdrop.pipeline.loader._stage_clock import BOXES, STAGES, end_stage, make_clock, stage_sums, start_clock
from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.loader.trace import Trace
from backdrop.pipeline.views.view_plan import Background, View, ViewPlan
from backdrop.stores.format.reader import open_store
from tests.material import small_scenes

PLAN = ViewPlan(
    views=(View(size_px=32), View(size_px=24), View(size_px=16, is_global=False)),
    background=Background(name="random", probability=1.0),
)


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store, index = small_scenes.build(tmp_path_factory.mktemp("scenes"))
    return export_beton(open_store(store), index, tmp_path_factory.mktemp("beton") / "small.beton")


@njit
def many_stages(clock: np.ndarray, num: int) -> None:
    for _ in range(num):
        end_stage(clock, BOXES)


def test_the_clock_reads_real_time_into_the_right_stage() -> None:
    for start, end in ((start_clock, end_stage), (start_clock.py_func, end_stage.py_func)):
        clock = make_clock()
        before_ns = time.monotonic_ns()
        start(clock)
        time.sleep(0.02)
        end(clock, BOXES)
        spent_ns = time.monotonic_ns() - before_ns
        sums = stage_sums(clock)
        assert 20e6 <= sums[BOXES] <= spent_ns
        assert sums.sum() == sums[BOXES]


def test_reading_the_clock_costs_next_to_nothing() -> None:
    # A row of 8 views reads it about 22 times and takes 1.5 ms or more: 0.5 % of that are 340 ns a reading.
    clock, num = make_clock(), 20_000
    many_stages(clock, 1)
    taken_s = []
    for _ in range(10):
        begin = time.perf_counter()
        many_stages(clock, num)
        taken_s.append(time.perf_counter() - begin)
    assert min(taken_s) / num < 340e-9


@pytest.mark.parametrize("geometry", ["host", "device"])
def test_every_stage_is_counted_where_it_happens(beton: Path, geometry: str) -> None:
    spent_s = {}
    for name in ("none", "random"):
        plan, trace = replace(PLAN, background=replace(PLAN.background, name=name)), Trace()
        options = {"batch_size": 5, "seed": 1, "num_threads": 1, "geometry": geometry}
        with Loader(beton, plan, LoaderOptions(**options), trace=trace) as loader:
            assert set(loader.stage_seconds().values()) == {0.0}
            deque(loader.epoch(0), maxlen=0)
            spent_s[name] = loader.stage_seconds()
            in_groups_s = sum(end - begin for kind, _, begin, end, _ in trace._events if kind == tracing.ROWS) / 1e9
            # The rest of a group is the way from Python to the kernel and back.
            assert sum(spent_s[name].values()) <= in_groups_s
    assert tuple(spent_s["none"]) == STAGES
    assert spent_s["none"]["donors"] == 0 < spent_s["random"]["donors"]
    for stage in ("checks", "decode", "boxes", "masks"):
        assert min(each[stage] for each in spent_s.values()) > 0
    assert (spent_s["random"]["resize"] > 0) == (geometry == "host")


def traced(path: Path) -> tuple[list[dict], dict[int, str], dict]:
    """Spans, names of threads, and the rest of a trace."""
    content = json.loads(path.read_text())
    events = content["traceEvents"]
    assert len({event["pid"] for event in events}) == 1
    threads = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert [event["args"] for event in events if event["name"] == "process_name"] == [{"name": "backdrop loader"}]
    return [event for event in events if event["ph"] == "X"], threads, content["otherData"]


def assert_sound(spans: list[dict], threads: dict[int, str]) -> None:
    """Known names, in order, and no thread in two places at once."""
    assert {span["name"] for span in spans} <= set(tracing.NAMES)
    assert {span["tid"] for span in spans} == set(threads)
    assert spans[0]["ts"] >= 0
    assert all(a["ts"] <= b["ts"] for a, b in itertools.pairwise(spans))
    for thread in threads:
        own = [span for span in spans if span["tid"] == thread]
        assert all(span["dur"] >= 0 for span in own)
        assert all(a["ts"] + a["dur"] <= b["ts"] + 0.001 for a, b in itertools.pairwise(own))


def test_a_trace_shows_who_did_what(beton: Path, tmp_path: Path) -> None:
    trace = Trace()
    with Loader(beton, PLAN, LoaderOptions(batch_size=5, seed=1, num_threads=2), trace=trace) as loader:
        for epoch in range(2):
            deque(loader.epoch(epoch), maxlen=0)
        num_batches, num_rows = 2 * loader.num_batches, 2 * loader.num_batches * 5
    trace.write(tmp_path / "trace.json")
    spans, threads, rest = traced(tmp_path / "trace.json")
    assert_sound(spans, threads)
    assert rest == {"events_left_out": 0}
    groups = [span for span in spans if span["name"] == tracing.ROWS]
    assert sum(span["args"]["rows"] for span in groups) == num_rows
    assert all(sum(span["args"][stage] for stage in STAGES) <= span["dur"] for span in groups)
    assert all(threads[span["tid"]].startswith("backdrop-loader") for span in groups)
    batches = [span for span in spans if span["name"] == tracing.BATCH]
    assert [span["args"]["number"] for span in batches] == 2 * list(range(num_batches // 2))
    assert {threads[span["tid"]] for span in batches} == {"backdrop-batches"}
    # Every group lies inside a batch.
    inside = [any(b["ts"] <= g["ts"] and g["ts"] + g["dur"] <= b["ts"] + b["dur"] for b in batches) for g in groups]
    assert all(inside)
    waits = [span for span in spans if span["name"] == tracing.WAIT_FOR_BATCH]
    assert len(waits) == num_batches + 2  # and the end of each epoch
    assert {threads[span["tid"]] for span in waits} == {"MainThread"}


def test_a_trace_does_not_grow_for_ever(beton: Path, tmp_path: Path) -> None:
    trace = Trace(max_events=7)
    with Loader(beton, PLAN, LoaderOptions(batch_size=5, seed=1, num_threads=2), trace=trace) as loader:
        deque(loader.epoch(0), maxlen=0)
    trace.write(tmp_path / "trace.json")
    spans, threads, rest = traced(tmp_path / "trace.json")
    assert_sound(spans, threads)
    assert len(spans) == 7
    assert rest["events_left_out"] > 7
    with pytest.raises(UserError, match="cannot be written"):
        trace.write(tmp_path / "trace.json" / "in a file")


def loader_bench(*words: str | Path):
    return CliRunner().invoke(cli.main, ["loader-bench", *map(str, words)])


@pytest.mark.parametrize(("method", "geometry"), [("swav", "host"), ("moco", "device")])
def test_the_command_measures_a_store(beton: Path, tmp_path: Path, method: str, geometry: str) -> None:
    words = ["--store", beton, "--method", method, "--bg", "random", "--recipe", "smoke", "--geometry", geometry]
    words += ["--set", "views.min_foreground=1.0", "--batch-size", 8, "--threads", 2, "--seconds", 0.2]
    words += ["--gpu-images-per-s", 500, "--json", tmp_path / "bench.json", "--trace", tmp_path / "trace.json"]
    done = loader_bench(*words)
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "bench.json").read_text())
    num_views = 8 if method == "swav" else 2
    assert (result["rows"], result["batch_size"], result["num_threads"]) == (20, 8, 2)
    assert len(result["views"]) == num_views
    rates = result["images_per_s"]
    assert min(rates["loader"], rates["with_device_stage"]) > 0
    assert list(result["us_per_image"]) == [*STAGES, "transfer", "device"]
    assert 0 <= result["consumer_wait_share"] <= 1
    assert result["estimate"]["cores_per_gpu"] == pytest.approx(500 * result["cpu_us_per_image"] / 1e6)
    memory = result["memory_bytes"]
    assert memory["peak"] > memory["resident"] / 2 > memory["ring"] > memory["scratch"] / 100 > 0
    # Crops that must hold all of the foreground: most tries fail.
    assert result["views"][-1]["tries"] > 2
    assert result["views"][-1]["fallback_share"] > 0.1
    for name in (*STAGES, "images/s", "cores", "memory", "an estimate"):
        assert name in done.output
    spans, threads, _ = traced(tmp_path / "trace.json")
    assert_sound(spans, threads)
    assert {span["name"] for span in spans} == set(tracing.NAMES)


def test_what_the_command_cannot_measure(beton: Path, tmp_path: Path) -> None:
    for words, message in (
        (["--store", tmp_path / "none.zarr", "--method", "swav"], "there is no store"),
        (["--store", beton, "--method", "moco", "--recipe", "swav_100"], "is for method 'swav'"),
        (["--store", beton, "--method", "swav", "--bg", "swaps"], "no negatives"),
        (["--store", beton, "--method", "moco", "--trace", beton / "in a file"], "cannot be written"),
    ):
        done = loader_bench(*words)
        assert done.exit_code == 2, done.output
        assert message in done.output
