"""What every engine promises, and the promise above all: a store's bytes do not depend on the engine."""

import logging
import os
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from backdrop.errors import PartsFailed, UserError
from backdrop.stores import engines
from backdrop.stores.format.reader import open_store
from tests.material import pretend_slurm
from tests.material.misbehaving_parts import run_part
from tests.material.small_images import DeadlyDetector, build, index_of, make_images, parts_of_few_rows
from tests.material.small_store import tree

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def small_parts() -> Iterator[None]:
    with parts_of_few_rows():
        yield


@pytest.fixture(scope="module")
def ray_of_two() -> Iterator[None]:
    """One Ray for all tests here: it takes seconds to start. The engine joins what the program has started."""
    import ray

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patched.setenv("PYTHONPATH", str(REPOSITORY))
        ray.init(
            "local", num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, logging_level=logging.ERROR
        )
    yield
    ray.shutdown()


@pytest.fixture
def prepare(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Callable[..., list[dict]]]:
    """Set up what an engine needs, and return its `run`."""

    def set_up(name: str) -> Callable[..., list[dict]]:
        if name == "ray":
            request.getfixturevalue("ray_of_two")
        module = import_module(f"backdrop.stores.engines.{name}")
        if name == "rank":
            monkeypatch.setenv("RANK", "0")
            monkeypatch.setenv("WORLD_SIZE", "1")
        elif name == "slurm":
            commands = pretend_slurm.install(tmp_path / "commands")
            monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
            monkeypatch.setattr(module, "JOURNAL_SECONDS", 0.05)
            monkeypatch.setattr(module, "QUEUE_SECONDS", 0.3)
            monkeypatch.setattr(module, "MISSED_TIMES", 2)
            monkeypatch.chdir(tmp_path)
        return module.run

    return set_up


# Ray alone takes 10 s to start, and 2 s for each worker.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "ray" else []) for name in engines.NAMES]
)
def test_what_every_engine_promises(name: str, prepare: Callable, tmp_path: Path) -> None:
    run = prepare(name)
    reported: list[int] = []
    (tmp_path / "parts").mkdir()
    with pytest.raises(PartsFailed) as caught:
        run(run_part, tmp_path / "parts", [11, 3, 10], num_workers=2, progress=reported.append)
    assert set(caught.value.reasons) == {3}
    assert "1 of 3 parts failed 3 times; the others are done" in str(caught.value)
    assert "ValueError: a bug in part 3" in str(caught.value)
    assert len(list(tmp_path.glob("parts/part3.*"))) == 3
    assert len(list(tmp_path.glob("parts/part10.*"))) == len(list(tmp_path.glob("parts/part11.*"))) == 1
    assert sum(reported) == 4

    receipts = run(run_part, tmp_path / "parts", [12, 10, 13], num_workers=2, progress=reported.append)
    assert [receipt["part"] for receipt in receipts] == [12, 10, 13]
    assert sum(reported) == 4 + 6
    assert all(set(receipt["threads"]) == {"1"} for receipt in receipts)
    assert run(run_part, tmp_path, [], num_workers=2, progress=reported.append) == []

    with pytest.raises(UserError, match="the disk is full"):
        run(run_part, tmp_path / "parts", [4], num_workers=2, progress=reported.append)
    assert len(list(tmp_path.glob("parts/part4.*"))) == 1
    with pytest.raises(UserError, match="-1 workers"):
        run(run_part, tmp_path, [10], num_workers=-1, progress=reported.append)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def expected(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that this process builds."""
    out = tmp_path_factory.mktemp("expected") / "s"
    with parts_of_few_rows():
        build(images, out)
    return out


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_the_bytes_do_not_depend_on_the_number_of_workers(
    num_workers: int, images: Path, expected: Path, tmp_path: Path
) -> None:
    summary = build(images, tmp_path / "s", num_workers=num_workers)
    assert summary["store_id"] == open_store(expected).store_id
    assert tree(tmp_path / "s") == tree(expected)


@pytest.mark.parametrize("name", [pytest.param("ray", marks=pytest.mark.slow), "slurm"])
def test_the_bytes_do_not_depend_on_the_engine_nor_on_a_killed_worker(
    name: str, prepare: Callable, images: Path, expected: Path, tmp_path: Path
) -> None:
    prepare(name)
    deadly = DeadlyDetector(died=tmp_path / "died")
    summary = build(images, tmp_path / "s", detector=deadly, engine=name, num_workers=2)
    assert deadly.died.exists()
    assert summary["store_id"] == open_store(expected).store_id
    assert summary["rows_built"] == len(index_of(images))
    assert tree(tmp_path / "s") == tree(expected)
    assert not list(tmp_path.glob("slurm-jobs-*"))


def test_the_bytes_do_not_depend_on_ranks(
    images: Path, expected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        summary = build(images, tmp_path / "s", engine="rank")
    assert summary["store_id"] == open_store(expected).store_id
    assert tree(tmp_path / "s") == tree(expected)
