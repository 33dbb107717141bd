"""The local engine: every part once, whatever happens to its workers."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from backdrop import devices as _devices
from backdrop.errors import PartsFailed, UserError
from backdrop.stores.engines import local
from backdrop.stores.engines.local import run
from tests.material.misbehaving_parts import Bar, run_part
from tests.material.waiting import wait_for


def test_a_killed_worker_is_replaced_and_its_part_done_again(tmp_path: Path) -> None:
    bar = Bar()
    receipts = run(run_part, tmp_path, [10, 1, 5, 11, 12], num_workers=2, progress=bar)
    assert [receipt["part"] for receipt in receipts] == [10, 1, 5, 11, 12]
    assert bar.rows == 10
    assert len(list(tmp_path.glob("part1.*"))) == 3
    assert len(list(tmp_path.glob("part10.*"))) == 1
    assert {receipt["pid"] for receipt in receipts}.isdisjoint({os.getpid()})
    assert all(set(receipt["threads"]) == {"1"} for receipt in receipts)


def test_parts_that_always_fail_are_named_after_the_others_are_done(tmp_path: Path) -> None:
    bar = Bar()
    with pytest.raises(PartsFailed) as caught:
        run(run_part, tmp_path, [2, 3, 10, 11], num_workers=2, progress=bar)
    message = str(caught.value)
    assert set(pickle.loads(pickle.dumps(caught.value)).reasons) == {2, 3}
    assert "2 of 4 parts failed 3 times; the others are done" in message
    assert "part 2: signal 9 ended its worker (out of memory?)" in message
    assert "ValueError: a bug in part 3" in message
    assert len(list(tmp_path.glob("part2.*"))) == len(list(tmp_path.glob("part3.*"))) == 3
    assert len(list(tmp_path.glob("part11.*"))) == 1
    assert bar.rows == 4


def test_a_user_error_ends_everything_at_once(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match="the disk is full"):
        run(run_part, tmp_path, [6, 4], num_workers=2, progress=Bar())
    assert time.monotonic() - start < 30
    assert not list(tmp_path.glob("part4.1"))


def test_no_processes_for_a_debugger_and_none_for_no_parts(tmp_path: Path) -> None:
    assert run(run_part, tmp_path, [10], num_workers=0, progress=Bar())[0]["pid"] == os.getpid()
    assert run(run_part, tmp_path, [], num_workers=4, progress=Bar()) == []
    with pytest.raises(UserError, match="-1 workers"):
        run(run_part, tmp_path, [10], num_workers=-1, progress=Bar())


def test_the_environment_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    run(run_part, tmp_path, [10], num_workers=1, progress=Bar())
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_each_worker_sees_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "visible_gpus", lambda: ["3", "GPU-5f"])
    receipts = run(run_part, tmp_path, [9, 10], num_workers=None, progress=Bar(), uses_gpu=True)
    gpu_of = {receipt["pid"]: receipt["gpu"] for receipt in receipts}
    assert sorted(gpu_of.values()) == ["3", "GPU-5f"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert run(run_part, tmp_path, [10], num_workers=1, progress=Bar())[0]["gpu"] == "7"


def test_gpus_go_round_and_a_replacement_takes_the_one_that_became_free() -> None:
    workers = local._Processes(run_part, None, ["0", "1"])
    taken = []
    for _ in range(4):
        taken.append(workers._least_used_gpu())
        workers.alive.append(local._Worker(None, None, taken[-1]))  # type: ignore[arg-type]
    assert taken == ["0", "1", "0", "1"]
    del workers.alive[1]
    assert workers._least_used_gpu() == "1"


@pytest.mark.parametrize(
    ("named", "seen", "expected"),
    [(None, 2, ["0", "1"]), ("5, GPU-8a", 2, ["5", "GPU-8a"]), ("1,-1,2", 1, ["1"]), ("", 0, []), (None, 0, [])],
)
def test_the_visible_gpus_are_those_the_user_left(
    named: str | None, seen: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = SimpleNamespace(device_count=lambda: seen)  # CUDA's own count, which ends at the first bad name
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert _devices.visible_gpus() == expected


def test_cores_are_those_that_slurm_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    assert _devices.num_cores() == 8
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "3")
    assert _devices.num_cores() == 3


def test_nothing_asks_for_gpus_where_parts_use_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise AssertionError("torch would be imported")

    monkeypatch.setattr(local, "visible_gpus", fail)
    assert len(run(run_part, tmp_path, [10], num_workers=None, progress=Bar())) == 1


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(ending: signal.Signals, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.material.misbehaving_parts", str(tmp_path), "local"],
        cwd=Path(__file__).resolve().parents[2],
        start_new_session=True,
        stderr=subprocess.PIPE,
        # Where the tests run in the background of a shell, Ctrl-C is ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: (tmp_path / "running").exists())
    if ending == signal.SIGINT:  # as a terminal does: to the whole group
        os.killpg(parent.pid, ending)
    else:
        parent.send_signal(ending)
    errors = parent.communicate(timeout=30)[1].decode()
    wait_for(lambda: not group_is_alive(parent.pid))
    assert errors.count("Traceback") <= 1, errors  # the parent's KeyboardInterrupt, none of the workers


def group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
