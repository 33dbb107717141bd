"""The Ray engine alone: its own Ray, a cluster that is there, GPUs, Ctrl-C; the rest is in test_engines.py."""

import importlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backdrop.errors import UserError
from tests.material.misbehaving_parts import Bar, run_part
from tests.material.waiting import wait_for

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_without_its_package_an_engine_says_how_to_get_it(
    engine: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"backdrop.stores.engines.{engine}", raising=False)
    with pytest.raises(UserError, match=f"pip install {package}"):
        importlib.import_module(f"backdrop.stores.engines.{engine}")


def test_an_actor_answers_with_what_the_pool_understands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from backdrop.stores.engines import ray

    monkeypatch.chdir("/")
    actor = ray._Actor(pickle.dumps((run_part, Path("parts"))), tmp_path / "elsewhere")
    rows, kind, message = actor.prepare()
    assert (rows, kind) == (0, "user error")
    assert "is not there on" in message
    (tmp_path / "elsewhere" / "parts").mkdir(parents=True)
    assert actor.prepare() == (0, "ready", None)
    rows, kind, receipt = actor.attempt(10)
    assert (rows, kind, receipt["part"]) == (2, "done", 10)
    assert (tmp_path / "elsewhere" / "parts" / "part10.0").exists()
    rows, kind, reason = actor.attempt(3)
    assert (rows, kind) == (1, "error")
    assert "ValueError: a bug in part 3" in reason
    assert actor.rows() == 0
    assert actor.attempt(4) == (1, "user error", "the disk is full")


def ray_processes() -> list[str]:
    """Command lines of Ray's processes of this user."""
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if "raylet" in line or "gcs_server" in line or line.startswith("ray::")]


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """Skip where another Ray runs: what is left of ours could not be told from it."""
    if ray_processes():
        pytest.skip("a Ray is running on this machine")
    yield
    wait_for(lambda: not ray_processes())


@pytest.mark.slow
@pytest.mark.usefixtures("elsewhere")
def test_a_ray_of_its_own_ends_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from backdrop.stores.engines import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    bar = Bar()
    receipts = ray.run(run_part, tmp_path, [10, 1, 5, 11, 12], num_workers=2, progress=bar)
    assert [receipt["part"] for receipt in receipts] == [10, 1, 5, 11, 12]
    assert len(list(tmp_path.glob("part1.*"))) == 3
    assert bar.rows == 10
    assert not ray.ray.is_initialized()


@pytest.mark.slow
@pytest.mark.usefixtures("elsewhere")
def test_actors_join_a_cluster_and_have_a_gpu_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from backdrop.stores.engines import ray

    command = [str(Path(sys.executable).parent / "ray")]
    quiet = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(REPOSITORY)}
    start = ["start", "--head", "--num-cpus=3", "--num-gpus=2", "--port=0", "--include-dashboard=false"]
    subprocess.run([*command, *start], env=quiet, check=True, capture_output=True, cwd="/")
    try:
        monkeypatch.setenv("RAY_ADDRESS", "auto")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "parts").mkdir()
        relative = Path("parts")  # to where this was started, not to where the cluster was
        receipts = ray.run(run_part, relative, [9, 10], num_workers=None, progress=Bar(), uses_gpu=True)
        assert sorted(receipt["gpu"] for receipt in receipts) == ["0", "1"]
        receipts = ray.run(run_part, relative, [9, 10], num_workers=None, progress=Bar())
        assert not any(receipt["gpu"] for receipt in receipts)
        assert ray_processes()
    finally:
        subprocess.run([*command, "stop", "--force"], env=quiet, check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.usefixtures("elsewhere")
def test_ctrl_c_leaves_no_actor(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.material.misbehaving_parts", str(tmp_path), "ray"],
        cwd=REPOSITORY,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: (tmp_path / "running").exists())
    os.killpg(parent.pid, signal.SIGINT)
    errors = parent.communicate(timeout=60)[1].decode()
    assert "KeyboardInterrupt" in errors
    assert parent.returncode != 0


def test_a_cluster_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from backdrop.stores.engines import ray

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"RAY_ADDRESS=127\.0\.0\.1:1: this cluster cannot be joined"):
        ray.run(run_part, tmp_path, [10], num_workers=1, progress=Bar())
