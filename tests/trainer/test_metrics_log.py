"""The log of a run is found in by bisection: at four million lines as at forty thousand, and a short one as ever."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backdrop.errors import UserError
from backdrop.trainer.recipes import smoke
from backdrop.trainer.run import metrics_log
from backdrop.trainer.settings import to_json
from tests.material.long_logs import STEPS_AN_EPOCH, record_of, write_log

ROOT = Path(__file__).resolve().parents[2]
NUM_LONG = 4_003_200  # 800 epochs of ImageNet at batch 256


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight epochs, 40,032 lines, 17 MB."""
    folder = tmp_path_factory.mktemp("run")
    write_log(folder / metrics_log.FILE, 8 * STEPS_AN_EPOCH)
    return folder


@pytest.fixture
def num_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each read took."""
    reads, pread = [], os.pread

    def counted(*words: int) -> bytes:
        block = pread(*words)
        reads.append(len(block))
        return block

    monkeypatch.setattr(os, "pread", counted)
    return reads


def test_a_made_up_log_is_as_a_run_writes_it(long_log: Path) -> None:
    with (long_log / metrics_log.FILE).open() as file:
        for step, line in enumerate(itertools.islice(file, STEPS_AN_EPOCH + 2)):
            assert line == json.dumps(record_of(step)) + "\n"


def test_little_of_a_long_log_is_read(long_log: Path, num_read: list[int]) -> None:
    assert metrics_log.last_metrics(long_log)["step"] == 8 * STEPS_AN_EPOCH - 1
    assert sum(num_read) <= 4096
    before = (long_log / metrics_log.FILE).read_bytes()
    num_read.clear()
    metrics_log.drop_metrics_from(long_log, 8 * STEPS_AN_EPOCH)
    assert (long_log / metrics_log.FILE).read_bytes() == before, "all steps are done: nothing is dropped"
    assert sum(num_read) <= 64 * 1024
    num_read.clear()
    records, has_all = metrics_log.sampled_metrics(long_log)
    assert sum(num_read) <= 6e6 < len(before) / 2
    assert not has_all
    steps = [record["step"] for record in records]
    assert all(record == record_of(step) for record, step in zip(records, steps, strict=True))
    assert steps[0] == 0
    assert steps[-1] == 8 * STEPS_AN_EPOCH - 1
    assert 4000 <= len(steps) <= 4010
    assert max(b - a for a, b in itertools.pairwise(steps)) <= 13, "evenly: 40,032 / 4,000 steps apart"
    assert [record["knn_top1"] for record in records if "knn_top1" in record] == list(range(8)), "scores stay"


def lines_of(steps: range) -> str:
    return "".join(json.dumps(record_of(step)) + "\n" for step in steps)


@pytest.mark.parametrize("step", [0, 1, 7, 8, 9, 20, 21, 30])
@pytest.mark.parametrize("torn", ["", '{"step": 21, "lo', "\0\0\0"])
def test_steps_that_will_be_done_again_are_dropped_with_a_torn_line(tmp_path: Path, step: int, torn: str) -> None:
    path = tmp_path / metrics_log.FILE
    path.write_text(lines_of(range(8)) + lines_of(range(8, 21)) + torn)
    metrics_log.drop_metrics_from(tmp_path, step)
    assert path.read_text() == lines_of(range(min(step, 21)))
    last = metrics_log.last_metrics(tmp_path)
    assert (last and last["step"]) == (min(step, 21) - 1 if step else None)


def test_there_may_be_no_log_and_no_whole_line(tmp_path: Path) -> None:
    def found() -> tuple:
        metrics_log.drop_metrics_from(tmp_path, 5)
        return metrics_log.last_metrics(tmp_path), metrics_log.sampled_metrics(tmp_path)

    assert found() == (None, ([], True))
    (tmp_path / metrics_log.FILE).write_text('{"st')
    assert metrics_log.last_metrics(tmp_path) is None
    assert found() == (None, ([], True))


def test_lines_longer_than_a_block_and_of_older_runs_are_read(tmp_path: Path) -> None:
    """Before, lines had no clock and no rank."""
    lines = [{"step": step, "epoch": 0, "loss": 1.0, "note": "x" * (700 * step)} for step in range(12)]
    (tmp_path / metrics_log.FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert metrics_log.last_metrics(tmp_path) == lines[-1]
    assert metrics_log.read_metrics(tmp_path) == lines
    metrics_log.drop_metrics_from(tmp_path, 10)
    assert metrics_log.read_metrics(tmp_path) == lines[:10]


@pytest.mark.parametrize("line", ["no json", "[1, 2]", '{"loss": 1}'])
def test_a_damaged_line_is_named_by_its_place(tmp_path: Path, line: str) -> None:
    (tmp_path / metrics_log.FILE).write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl that begins at byte 0 is no record of a step.*delete"):
        metrics_log.drop_metrics_from(tmp_path, 0)


REPORT = """
import resource, sys, time
from pathlib import Path
from backdrop.trainer.report import page
from backdrop.trainer.run import metrics_log
run, short = map(Path, sys.argv[1:])
page.write_report([short])  # what is imported on the way is no part of a log's cost
before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
page.write_report([run])
seconds = time.process_time() - begun
metrics_log.drop_metrics_from(run, 4_000_000)
resumed = time.process_time() - begun - seconds
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, seconds, resumed)
"""


def folder_of(path: Path, num_steps: int) -> Path:
    """A run's folder without checkpoints and store."""
    path.mkdir()
    (path / "settings.json").write_text(json.dumps(to_json(smoke.settings("moco", "none", False))))
    provenance = {"recipe": "smoke", "seed": 0, "store_id": "0" * 64, "commit": "abc"}
    (path / "run.json").write_text(json.dumps(provenance))
    write_log(path / metrics_log.FILE, num_steps)
    return path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_report_and_resume_at_four_million_lines(tmp_path: Path) -> None:
    """python -m pytest -s tests/trainer/test_metrics_log.py -m slow prints what it took."""
    short, run = folder_of(tmp_path / "short", 30), folder_of(tmp_path / "run", NUM_LONG)
    done = subprocess.run(
        [sys.executable, "-c", REPORT, run, short], cwd=ROOT, check=True, capture_output=True, text=True
    )
    megabytes, report_s, resume_s = map(float, done.stdout.split())
    print(f"report: {megabytes:.1f} MiB, {report_s:.2f} s of CPU; truncating at the resume: {resume_s:.4f} s")
    assert megabytes <= 100
    assert report_s <= 2
    assert resume_s <= 0.1
    assert metrics_log.last_metrics(run)["step"] == 3_999_999
    html = (run / "report.html").read_text()
    assert "The log is long: drawn and averaged are 4,8" in html
