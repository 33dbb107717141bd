"""The local engine: every part once, whatever happens to its workers."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stores.engines.local import run
from stores.errors import PartsFailed, UserError
from tests.misbehaving_parts import run_part


class Bar:
    rows = 0

    def __call__(self, num_rows: int) -> None:
        self.rows += num_rows


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


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(ending: signal.Signals, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.misbehaving_parts", str(tmp_path)],
        cwd=Path(__file__).resolve().parents[1],
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


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
