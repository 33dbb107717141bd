"""The batch script of trainer/SLURM.md, as pasted, with commands of Slurm that stand in for the real ones."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "trainer" / "SLURM.md"
# srun's tasks: they end by themselves, or wait for SIGTERM as a training does.
SRUN = """#!/bin/bash
echo "$@" > srun.txt
if [ -n "$ENDS_WITH" ]; then exit "$ENDS_WITH"; fi
trap 'exit 1' TERM
echo $$ > started.txt
while true; do sleep 0.02; done
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo one; echo two; else echo "$@" >> requeued.txt; fi
"""
SCANCEL = """#!/bin/bash
echo "$@" > cancelled.txt
kill -TERM "$(cat started.txt)"
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A folder with the script as pasted, and what it needs around it."""
    found = re.search(r"```bash\n(#!/bin/bash\n.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    (tmp_path / "pretrain.sh").write_text(found[1])
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text("")
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def start(job: Path, ends_with: str = "") -> subprocess.Popen[bytes]:
    names = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "ENDS_WITH": ends_with}
    path = f"{job}:{os.environ['PATH']}"
    return subprocess.Popen(["bash", "pretrain.sh"], cwd=job, env=os.environ | names | {"PATH": path})


@pytest.mark.parametrize("code", ["0", "3"])
def test_a_job_that_ends_by_itself_is_not_queued_again(job: Path, code: str) -> None:
    assert start(job, ends_with=code).wait(60) == int(code)
    words = (job / "srun.txt").read_text().split()
    assert words[words.index("--rdzv-endpoint") + 1] == "one:29500"
    assert words[words.index("--nnodes") + 1] == "2"
    assert words[words.index("cli.py") + 1] == "pretrain"
    assert not (job / "requeued.txt").exists()


def test_a_job_whose_time_is_over_stops_the_training_and_is_queued_again(job: Path) -> None:
    process = start(job)
    try:
        deadline = time.monotonic() + 60
        while not (job / "started.txt").exists() or not (job / "started.txt").read_text().strip():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(60) == 1
    finally:
        process.kill()
        process.wait()
    assert (job / "cancelled.txt").read_text().split() == ["--signal=TERM", "7.0"]
    assert (job / "requeued.txt").read_text().split() == ["requeue", "7"]
