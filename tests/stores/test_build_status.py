"""What a half-built store and the log beside it say of the build."""

import json
import os
import time
from pathlib import Path

import pytest

from backdrop.errors import UserError
from backdrop.stores.format.provenance import log_event, log_path
from backdrop.stores.format.writer import staging_folder
from backdrop.stores.maintenance.build_status import status
from tests.material.small_store import small_store, write_parts


def began(path: Path, seconds_ago: float) -> None:
    """Log that a build began in the past."""
    when = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(time.time() - seconds_ago))
    with open(log_path(path), "a") as log:
        log.write(json.dumps({"event": "started", "time": when, "rows": 11, "workers": 1}) + "\n")


def test_counts_speed_and_time_left(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    write_parts(path, [])
    found = status(path)
    assert (found["rows_per_second"], found["seconds_left"], found["last_event"]) == (None, None, None)
    began(path, 5000)  # an earlier build, that counts no longer
    began(path, 100)
    write_parts(path, [1])
    written = time.time() - 60
    os.utime(path / "parts/part-00001/part.json", (written, written))
    (staging_folder(path) / "part-00002-abc").mkdir(parents=True)
    found = status(path)
    assert found["parts"] == {"total": 3, "done": 1, "missing": 2}
    assert found["rows"] == {"total": 11, "done": 4, "missing": 7}
    assert (found["missing_parts"], found["stages"], found["complete"]) == ("0, 2", 1, False)
    assert found["rows_per_second"] == pytest.approx(4 / 40, rel=0.05)
    assert found["seconds_left"] == pytest.approx(70, rel=0.05)
    assert found["seconds_since_last_part"] == pytest.approx(60, abs=2)
    assert json.loads(json.dumps(found)) == found
    small_store(path)
    found = status(path)
    assert (found["complete"], found["seconds_left"], found["missing_parts"]) == (True, 0.0, "")


def test_parts_that_failed_until_they_are_there(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    write_parts(path, [0])
    log_event(path, "failed", parts={1: "Traceback\n  somewhere\nValueError: a bug\n", 2: "signal 9"})
    assert status(path)["failed_parts"] == {"1": "ValueError: a bug", "2": "signal 9"}
    write_parts(path, [1])
    assert status(path)["failed_parts"] == {"2": "signal 9"}


@pytest.mark.parametrize("cut", ['{"event": "sta', '{"event": "started"}', "[1, 2]", "\x00\x00\n", '"text"'])
def test_a_log_line_cut_off_by_a_kill_is_passed_over(cut: str, tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    write_parts(path, [0])
    began(path, 10)
    with open(log_path(path), "a") as log:
        log.write(cut)
    found = status(path)
    assert found["damaged_log_lines"] == 1
    assert found["last_event"]["workers"] == 1
    log_event(path, "started", workers=7)  # on the same line, whose begin is lost; or on one of its own
    assert status(path)["damaged_log_lines"] == 1
    log_event(path, "started", workers=8)
    assert status(path)["last_event"]["workers"] == 8


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a store"):
        status(tmp_path)
