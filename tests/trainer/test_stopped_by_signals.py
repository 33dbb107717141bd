"""Runs with the real loader that a scheduler stops by SIGTERM end as if it had not: same weights, bit for bit."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from backdrop.pipeline.beton.beton_of_store import StoreSource
from backdrop.trainer.parts import checkpoint_files
from backdrop.trainer.run import metrics_log
from backdrop.trainer.run.loop import RunRequest, pretrain
from tests.material.interrupted_runs import assert_same_end

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:tensorboard")

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from pathlib import Path
from backdrop.pipeline.beton.beton_of_store import StoreSource
from backdrop.trainer.run.loop import RunRequest, pretrain
changes = ("views.size_px=32", "batch_size=4", "log_steps=1", f"epochs={sys.argv[3]}")
request = RunRequest(method="moco", background="random", recipe="smoke", overrides=changes)
pretrain(request, StoreSource(store=Path(sys.argv[1])), out=Path(sys.argv[2]), resume=True)
"""


def start(store: Path, out: Path, num_epochs: int) -> subprocess.Popen[bytes]:
    """Start a run, or go on with it."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(store), str(out), str(num_epochs)], cwd=ROOT, stderr=subprocess.DEVNULL
    )


def steps_logged(out: Path) -> int:
    return len((out / "metrics.jsonl").read_text().splitlines()) if (out / "metrics.jsonl").exists() else 0


def stop(process: subprocess.Popen[bytes], out: Path, num_steps: int, wait_s: float) -> None:
    """Send SIGTERM once a run has done so many steps more, and wait for its end."""
    before, deadline = steps_logged(out), time.monotonic() + 200
    while steps_logged(out) < before + num_steps and process.poll() is None:
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.01)
    time.sleep(wait_s)
    process.send_signal(signal.SIGTERM)
    process.wait(60)


def go_on(store: Path, out: Path, num_epochs: int) -> None:
    assert start(store, out, num_epochs).wait(900) == 0


def run_here(store: Path, out: Path, num_epochs: int) -> None:
    """The same run in this process, which has all imported; resumed where it stopped."""
    changes = ("views.size_px=32", "batch_size=4", "log_steps=1", f"epochs={num_epochs}")
    request = RunRequest(method="moco", background="random", recipe="smoke", overrides=changes)
    pretrain(request, StoreSource(store=store), out=out, resume=True)


def test_a_run_that_was_stopped_ends_bit_for_bit(scenes: Path, tmp_path: Path) -> None:
    """A real signal, sent to this process while the run is in the middle of an epoch."""
    run_here(scenes, tmp_path / "whole", 2)
    out, num_steps = tmp_path / "stopped", steps_logged(tmp_path / "whole")

    def stop_after_a_step() -> None:
        deadline = time.monotonic() + 100
        while steps_logged(out) < 1 and time.monotonic() < deadline:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)

    watch = threading.Thread(target=stop_after_a_step)
    watch.start()
    run_here(scenes, out, 2)
    watch.join()
    last = checkpoint_files.latest(out)
    assert last is not None
    assert checkpoint_files.step_of(last) < num_steps
    run_here(scenes, out, 2)
    assert_same_end(tmp_path / "whole", out)
    assert steps_logged(out) == num_steps


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_fifty_stops_at_random_moments_change_nothing(scenes: Path, tmp_path: Path) -> None:
    """Also before the first step, within a checkpoint, and after the last."""
    draw, num_stops = random.Random(0), 0
    go_on(scenes, tmp_path / "whole", 6)
    for number in range(13):
        out = tmp_path / f"stopped{number}"
        for _ in range(4):
            process = start(scenes, out, 6)
            stop(process, out, draw.randrange(0, 5), draw.uniform(0, 0.3))
            num_stops += 1
        go_on(scenes, out, 6)
        assert_same_end(tmp_path / "whole", out)
        assert [record["step"] for record in metrics_log.read_metrics(out)] == list(
            range(steps_logged(tmp_path / "whole"))
        )
    assert num_stops >= 50
