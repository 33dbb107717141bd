"""The dry run at scale: what it concludes from its rows, and, slowly, that every stage runs."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench.photographs import write_dataset
from tests.scale import growth, table
from tests.scale.measured import measure
from tests.scale.stages import stages

ROOT = Path(__file__).resolve().parents[1]


def row(stage: str, rows: int, cpu_seconds: float, peak_mb: float) -> dict:
    return {
        "stage": stage,
        "rows": rows,
        "seconds": 2 * cpu_seconds,
        "cpu_seconds": cpu_seconds,
        "peak_mb": peak_mb,
        "own_mb": peak_mb,
    }


def test_growth_by_hand() -> None:
    as_rows = [row("build", 2000, 10, 100), row("build", 20_000, 91, 109)]
    (fit,) = growth.fits(as_rows)
    assert fit.factor == pytest.approx(0.91)
    assert fit.cpu_seconds == pytest.approx(1 + 1_281_167 * 0.0045)
    assert fit.megabytes == 109, "nearly as much as before is as much"
    assert growth.complaints(as_rows) == []
    assert growth.complaints(as_rows[:1]) == []


@pytest.mark.parametrize(
    ("few", "many", "said"),
    [
        ((10, 100), (400, 100), "grows 4.00 times as fast as rows"),
        ((10, 100), (90, 200), "would take 7,206 MB at 1,281,167 rows"),
        ((10, 100), (90, 5000), "a process had 5,000 MB"),
    ],
)
def test_what_grows_faster_than_rows_is_told(few: tuple, many: tuple, said: str) -> None:
    found = growth.complaints([row("build", 2000, *few), row("build", 20_000, *many)])
    assert any(said in complaint for complaint in found), found


def test_imports_are_no_growth() -> None:
    assert growth.complaints([row("open", 2000, 0.1, 50), row("open", 20_000, 4.9, 60)]) == []


def test_a_new_row_takes_the_place_of_the_old_one() -> None:
    kept = table.with_rows([row("a", 20, 1, 1), row("b", 2, 1, 1)], [row("a", 20, 9, 9), row("a", 2, 5, 5)])
    assert [(of["stage"], of["rows"], of["cpu_seconds"]) for of in kept] == [("b", 2, 1), ("a", 2, 5), ("a", 20, 9)]


def test_costs_are_those_of_the_kept_rows() -> None:
    """`python -m tests.scale --keep FOLDER` makes the table, and no kept row is a complaint."""
    kept = table.read_rows(table.KEPT)
    assert table.with_table(table.COSTS.read_text(), kept) == table.COSTS.read_text()
    assert growth.complaints(kept) == []


def test_memory_of_what_a_command_starts_is_seen() -> None:
    inner = "import time; x = bytearray(b'x') * (200 << 20); time.sleep(0.3)"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    found = measure("x", 1, ["-c", program])
    assert 200 < found["own_mb"] <= found["peak_mb"] < 400
    assert found["cpu_seconds"] > 0


@pytest.mark.slow
def test_every_stage_runs_once_and_is_not_run_again(tmp_path: Path) -> None:
    write_dataset(tmp_path / "photographs", 4)
    command = [sys.executable, "-m", "tests.scale", "--rows", "40", "--out", str(tmp_path / "run")]
    command += ["--photographs", str(tmp_path / "photographs")]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    rows = [json.loads(line) for line in (tmp_path / "run" / "rows.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == [name for name, _ in stages(40, tmp_path, tmp_path)]
    assert all(0 < row["peak_mb"] < growth.MOST_MB and row["commit"] for row in rows)
    begin = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert time.monotonic() - begin < 20, "nothing was left to do"
