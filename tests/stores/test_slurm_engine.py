"""The Slurm engine: jobs that die whole, refusals, Ctrl-C; with pretended commands, and slowly with a real Slurm."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backdrop.errors import PartsFailed, UserError
from backdrop.stores.engines import slurm
from tests.material import pretend_slurm
from tests.material.misbehaving_parts import Bar, Unreadable, run_part
from tests.material.real_slurm import slurm as real_slurm
from tests.material.small_images import DeadlyDetector, build, make_images, parts_of_few_rows
from tests.material.waiting import wait_for

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "JOURNAL_SECONDS", 0.05)
    monkeypatch.setattr(slurm, "QUEUE_SECONDS", 0.2)
    monkeypatch.setattr(slurm, "MISSED_TIMES", 2)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the pretended Slurm keeps its jobs."""
    commands = pretend_slurm.install(tmp_path / "commands")
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1")
    return commands / "jobs"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with real_slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture
def in_real(real: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in real.items():
        monkeypatch.setenv(name, value)


def kill_whole_jobs(folder: Path) -> None:
    """Parts 7 and 8 kill their job; the one of 7 succeeds the second time."""
    folder.mkdir()
    bar = Bar()
    with pytest.raises(PartsFailed) as caught:
        slurm.run(run_part, folder, [7, 8, 10, 11], num_workers=2, progress=bar)
    assert set(caught.value.reasons) == {8}
    log = Path(str(caught.value).rpartition("its log is ")[2])
    assert "Loading pickle" in log.read_text()
    counts = {part: len(list(folder.glob(f"part{part}.*"))) for part in (7, 8, 10, 11)}
    assert counts == {7: 2, 8: 3, 10: 1, 11: 1}
    assert bar.rows == 6


def test_jobs_that_die_are_submitted_again_with_what_they_left(pretended: Path, tmp_path: Path) -> None:
    bar = Bar()
    with pytest.raises(PartsFailed, match="job 3 ended too early") as caught:
        slurm.run(run_part, tmp_path, [8, 11], num_workers=1, progress=bar)
    assert set(caught.value.reasons) == {8}
    assert bar.rows == 2
    assert {job.name for job in pretended.glob("*.sh")} == {"1.sh", "2.sh", "3.sh", "4.sh"}  # three for 8, then 11


def test_jobs_that_cannot_start_are_an_error_that_names_their_log(pretended: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no worker can be started: its job 3 ended too early") as caught:
        slurm.run(run_part, Unreadable(), [10], num_workers=1, progress=Bar())
    log = Path(str(caught.value).rpartition("its log is ")[2])
    assert "this spec cannot be read" in log.read_text()


def test_what_a_job_asks_for_is_left_to_sbatch(
    pretended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_CPUS_PER_TASK", "6")
    slurm.run(run_part, tmp_path, [10, 11, 12], num_workers=2, progress=Bar())
    lines = (pretended / "1.sh").read_text().splitlines()
    asked = {line.removeprefix("#SBATCH --").partition("=")[0] for line in lines if line.startswith("#SBATCH")}
    assert {"cpus-per-task", "array", "no-requeue", "output"} <= asked
    assert not asked & {"time", "partition", "mem", "gpus-per-node", "wckey"}
    assert "#SBATCH --cpus-per-task=6" in lines
    assert "#SBATCH --array=0-1%2" in lines
    assert not list(tmp_path.glob("slurm-jobs-*"))


def test_without_slurm_or_without_jobs_there_is_a_message(pretended: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="give the number of jobs"):
        slurm.run(run_part, None, [10], num_workers=None, progress=Bar())
    (pretended.parent / "sbatch").write_text("#!/bin/sh\necho 'invalid partition' >&2\nexit 1\n")
    with pytest.raises(UserError, match="sbatch refused the jobs: invalid partition"):
        slurm.run(run_part, None, [10], num_workers=1, progress=Bar())
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="no sbatch, squeue, scancel, srun here"):
        slurm.run(run_part, None, [10], num_workers=1, progress=Bar())


def test_a_part_is_one_jobs_until_it_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / slurm.CLAIMS).mkdir()
    first, second = (slurm._NotedPart(run_part, tmp_path, number) for number in (0, 1))
    assert first(tmp_path, 10, lambda num_rows: None)["part"] == 10
    assert second(tmp_path, 10, lambda num_rows: None) == {}
    assert first(tmp_path, 10, lambda num_rows: None)["part"] == 10  # after the death of its process, say
    starter, given = slurm._Build(tmp_path, lambda num_rows: None, frozenset([10])), []
    monkeypatch.setattr(slurm._Build, "submit", lambda self, shares: given.extend(shares))
    starter.at_work[0, 10] = slurm._AtWork(since=time.monotonic() - 2 * slurm.SLOW_SECONDS)
    starter.seconds = [1.0, 1.0]
    starter._give_again_what_hangs()
    assert given == []  # two fellows tell nothing yet
    starter.seconds.append(1.0)
    for _ in range(2):
        starter._give_again_what_hangs()
    assert given == [[10]]
    assert second(tmp_path, 10, lambda num_rows: None)["part"] == 10


@pytest.mark.slow
def test_a_free_job_takes_parts_of_a_busy_one(pretended: Path, tmp_path: Path) -> None:
    """Job 0 begins with 9, which waits for 10 to be begun, which comes next in job 0."""
    receipts = slurm.run(run_part, tmp_path, [9, 11, 10], num_workers=2, progress=Bar())
    assert [receipt["part"] for receipt in receipts] == [9, 11, 10]


@pytest.mark.slow
def test_a_part_that_hangs_is_given_to_another_job_and_each_job_keeps_one_journal(
    pretended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(slurm, "SLOW_SECONDS", 1.0)
    monkeypatch.setattr(slurm, "SLOW_TIMES", 1.0)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2")
    (tmp_path / "parts").mkdir()
    journals: set[str] = set()

    class Watching(Bar):
        def __call__(self, num_rows: int) -> None:
            super().__call__(num_rows)
            journals.update(path.name for path in tmp_path.glob("slurm-jobs-*/*.jsonl"))

    bar = Watching()
    receipts = slurm.run(run_part, tmp_path / "parts", [0, 10, 11, 12], num_workers=1, progress=bar)
    assert [receipt["part"] for receipt in receipts] == [0, 10, 11, 12]
    assert bar.rows == 8
    assert len(list((tmp_path / "parts").glob("part0.*"))) == 2
    assert "part 0 takes" in capsys.readouterr().err
    assert journals == {"0.jsonl", "1.jsonl"}
    assert not pretend_slurm.running(pretended)
    assert not list(tmp_path.glob("slurm-jobs-*"))


def test_a_line_that_a_kill_cut_off_spoils_no_other(tmp_path: Path) -> None:
    starter = slurm._Build(tmp_path, lambda num_rows: None)
    noted = slurm._NotedPart(run_part, tmp_path, 3)
    noted.note("started", 4, None)
    with (tmp_path / "3.jsonl").open("a") as journal:
        journal.write('["rows", 4')
    noted.note("done", 4, {"part": 4})
    starter.look_into_journals()
    assert starter.attempts.receipts == {4: {"part": 4}}


def test_half_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    reported: list[int] = []
    starter = slurm._Build(tmp_path, reported.append)
    journal = tmp_path / "0.jsonl"
    journal.write_text('["started", 4, null]\n["rows", 4, 3]\n["rows", 4')
    starter.look_into_journals()
    assert reported == [3]
    journal.write_text(journal.read_text() + ', 2]\n["started", 4, null]\n')
    starter.look_into_journals()
    assert reported == [3, 2, -5]


def interrupt(folder: Path, list_jobs: Callable[[], object]) -> None:
    """Ctrl-C at a starter whose jobs are at work; they are gone when it ends."""
    folder.mkdir()
    starter = subprocess.Popen(
        [sys.executable, "-m", "tests.material.misbehaving_parts", str(folder), "slurm"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: (folder / "running").exists())
    assert list_jobs()
    starter.send_signal(signal.SIGINT)
    errors = starter.communicate(timeout=60)[1].decode()
    assert "KeyboardInterrupt" in errors
    assert not list_jobs()
    assert not list(folder.parent.glob("slurm-jobs-*"))


def test_ctrl_c_cancels_the_jobs(pretended: Path, tmp_path: Path) -> None:
    interrupt(tmp_path / "parts", lambda: pretend_slurm.running(pretended))


@pytest.mark.slow
@pytest.mark.usefixtures("in_real")
def test_a_real_slurm_builds_the_same_store(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images")
    with parts_of_few_rows():
        expected = build(images, tmp_path / "expected")["store_id"]
        deadly = DeadlyDetector(died=tmp_path / "died")
        built = build(images, tmp_path / "built", detector=deadly, engine="slurm", num_workers=2)
    assert built["store_id"] == expected
    assert deadly.died.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("in_real")
def test_a_real_slurm_loses_jobs(tmp_path: Path) -> None:
    kill_whole_jobs(tmp_path / "parts")


@pytest.mark.slow
@pytest.mark.usefixtures("in_real")
def test_a_real_slurm_reads_its_variables_and_cancels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_TIMELIMIT", "7")
    monkeypatch.setenv("SBATCH_JOB_NAME", "named")

    def jobs() -> str:
        return subprocess.run(
            ["squeue", "--noheader", "--format=%j %l"], capture_output=True, text=True, check=True
        ).stdout

    seen: list[str] = []
    interrupt(tmp_path / "parts", lambda: seen.append(jobs()) or seen[-1].strip())  # type: ignore[func-returns-value]
    assert set(seen[0].split("\n")) == {"named 7:00", ""}


@pytest.mark.slow
@pytest.mark.usefixtures("in_real")
def test_a_real_slurm_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "nowhere")
    with pytest.raises(UserError, match=r"sbatch refused the jobs: .*invalid partition"):
        slurm.run(run_part, None, [10], num_workers=1, progress=Bar())
