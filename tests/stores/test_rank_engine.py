"""Processes that a scheduler started: their shares make one store, the one that a single machine builds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from backdrop.errors import UserError
from backdrop.stores.engines import rank
from backdrop.stores.format.reader import open_store
from tests.material.small_images import build, index_of, make_images, parts_of_few_rows
from tests.material.small_store import tree


@pytest.fixture(autouse=True)
def small_parts() -> Iterator[None]:
    with parts_of_few_rows():
        yield


def be(monkeypatch: pytest.MonkeyPatch, number: int, size: int) -> None:
    monkeypatch.setenv("RANK", str(number))
    monkeypatch.setenv("WORLD_SIZE", str(size))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_ranks_build_the_store_of_one(
    order: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(tmp_path / "images")
    whole = build(images, tmp_path / "whole" / "s")
    summaries = []
    for number in order:
        be(monkeypatch, number, 2)
        summaries.append(build(images, tmp_path / "shared" / "s", engine="rank"))
    assert [summary["store_id"] for summary in summaries] == [None, whole["store_id"]]
    assert sum(summary["rows_built"] for summary in summaries) == len(index_of(images))
    assert min(summary["rows_built"] for summary in summaries) > 0
    assert tree(tmp_path / "shared" / "s") == tree(tmp_path / "whole" / "s")


def test_what_a_lost_rank_leaves_is_done_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = make_images(tmp_path / "images")
    be(monkeypatch, 1, 2)
    assert build(images, tmp_path / "s", engine="rank")["store_id"] is None
    with pytest.raises(UserError, match="half built"):
        open_store(tmp_path / "s")
    assert build(images, tmp_path / "s")["store_id"] == open_store(tmp_path / "s").store_id


def test_neighbours_share_the_gpus_of_their_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert rank.share_of_machine(["0", "1", "2", "3"]) == (["1", "3"], 2)
    assert rank.share_of_machine(["0"]) == (["0"], 2)
    assert rank.share_of_machine([]) == ([], 2)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    monkeypatch.delenv("LOCAL_RANK")
    assert rank.share_of_machine(["0", "1"]) == (["0", "1"], 1)


def test_the_place_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="set RANK and WORLD_SIZE"):
        rank.place()
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    assert rank.place() == (2, 3)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "8")
    with pytest.raises(UserError, match="process 3 of 3"):
        rank.place()
    be(monkeypatch, 0, 4)
    assert rank.place() == (0, 4)
