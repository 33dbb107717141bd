"""Merging: parts built apart give the store built in one place, or are refused with the reason."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import backdrop.stores.format.writer
from backdrop.errors import CorruptStore, UserError
from backdrop.stores.format.reader import open_store
from backdrop.stores.format.writer import missing_parts, open_for_build, write_part
from backdrop.stores.maintenance.merge import merge, ranges
from backdrop.stores.maintenance.verify import verify
from tests.material.part_arrays import array_bytes, flip_bit
from tests.material.small_store import IDENTITY, NUM_ROWS, PART_ROWS, row_of, small_store, tree, write_parts

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("whole") / "toy.zarr")


@pytest.fixture
def halves(whole: Path, tmp_path: Path) -> list[Path]:
    """Two half-built stores that share part 1."""
    return [without(whole, 2, tmp_path / "a.zarr"), without(whole, 0, tmp_path / "b.zarr")]


def without(whole: Path, part: int, path: Path) -> Path:
    """A copy of the store that lacks a part and the manifest."""
    return Path(shutil.copytree(whole, path, ignore=shutil.ignore_patterns(f"part-0000{part}", "MANIFEST.json")))


def test_merged_halves_are_the_whole_byte_for_byte(halves: list[Path], whole: Path, tmp_path: Path) -> None:
    before = [tree(half) for half in halves]
    assert merge(halves, tmp_path / "out.zarr") == open_store(whole).store_id
    assert tree(tmp_path / "out.zarr") == tree(whole)
    assert not (tmp_path / "out.zarr.staging").exists()
    assert [tree(half) for half in halves] == before
    assert merge([whole, *halves], tmp_path / "out.zarr") == open_store(whole).store_id  # again: nothing to do
    a_file = "parts/part-00000/arrays.zip"
    assert not os.path.samefile(tmp_path / "out.zarr" / a_file, halves[0] / a_file)


def test_one_of_the_sources_may_be_the_place(halves: list[Path], whole: Path) -> None:
    merge(halves, halves[0])
    assert tree(halves[0]) == tree(whole)


def test_another_identity_is_refused_by_name(halves: list[Path], tmp_path: Path) -> None:
    open_for_build(tmp_path / "c.zarr", {**IDENTITY, "threshold": 0.5}, NUM_ROWS, PART_ROWS)
    with pytest.raises(UserError, match=r"threshold: '0.9' here, '0.5' there"):
        merge([*halves, tmp_path / "c.zarr"], tmp_path / "out.zarr")
    open_for_build(tmp_path / "d.zarr", IDENTITY, NUM_ROWS, PART_ROWS + 1)
    with pytest.raises(UserError, match=r"part_rows: 4 here, 5 there"):
        merge([halves[0], tmp_path / "d.zarr"], tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()
    with pytest.raises(UserError, match=r"threshold: '0.9' here, '0.5' there"):
        merge(halves, tmp_path / "c.zarr")
    with pytest.raises(UserError, match="nothing to merge"):
        merge([], tmp_path / "out.zarr")


def test_missing_parts_are_listed_before_anything_is_written(tmp_path: Path) -> None:
    write_parts(tmp_path / "a.zarr", [1])
    with pytest.raises(UserError, match=r"2 of 3 parts are in none of the stores: 0, 2\."):
        merge([tmp_path / "a.zarr"], tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"


def test_parts_that_differ_are_named_with_their_stores(halves: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other.zarr"
    open_for_build(other, IDENTITY, NUM_ROWS, PART_ROWS)
    rows = [row_of(row) for row in range(4, 8)]
    write_part(other, 1, [*rows[:3], backdrop.stores.format.writer.StoreRow(**{**vars(rows[3]), "label": 77})])
    with pytest.raises(UserError) as caught:
        merge([*halves, other], tmp_path / "out.zarr")
    for expected in ("part-00001 is not the same", str(halves[0]), str(other)):
        assert expected in str(caught.value)
    with pytest.raises(UserError, match="part-00001 is not the same"):  # the place itself may hold the other one
        merge(halves, other)


@pytest.mark.parametrize(
    ("name", "change"),
    [("mask/c/0", "flip"), ("box/zarr.json", "flip"), ("mask/c/0", "cut"), ("zarr.json", "remove")],
)
def test_damage_is_never_copied(name: str, change: str, halves: list[Path], whole: Path, tmp_path: Path) -> None:
    part = halves[1] / "parts/part-00002"
    file = part / "arrays.zip"
    good = file.read_bytes()
    if change == "flip":
        flip_bit(part, name, len(array_bytes(part, name)) // 2)
    elif change == "cut":
        file.write_bytes(good[: len(good) // 2])
    else:
        file.unlink()
    with pytest.raises(CorruptStore, match="part-00002") as caught:
        merge(halves, tmp_path / "out.zarr")
    assert str(halves[1]) in str(caught.value)
    assert missing_parts(tmp_path / "out.zarr") == [2]
    assert verify(tmp_path / "out.zarr", allow_partial=True) == []
    file.write_bytes(good)
    merge(halves, tmp_path / "out.zarr")
    assert tree(tmp_path / "out.zarr") == tree(whole)


def test_damaged_receipts_and_manifests_are_refused(halves: list[Path], whole: Path, tmp_path: Path) -> None:
    finished = Path(shutil.copytree(whole, tmp_path / "finished.zarr"))
    manifest, receipt = finished / "MANIFEST.json", finished / "parts/part-00001/part.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"rows":4', '"rows":5', 1))
    with pytest.raises(CorruptStore, match=r"MANIFEST\.json does not match"):
        merge([finished], tmp_path / "out.zarr")
    manifest.write_text(text)
    shutil.move(finished / "parts/part-00002", tmp_path / "taken-away")
    with pytest.raises(CorruptStore, match=r"part-00002.part\.json is missing"):
        merge([finished], tmp_path / "out.zarr")
    manifest.unlink()
    miscounted = receipt.read_text().replace('"ok":3', '"ok":2', 1)
    assert miscounted != receipt.read_text()
    receipt.write_text(miscounted)
    with pytest.raises(CorruptStore, match="part-00001 miscounts its rows"):
        merge([finished, without(whole, 1, tmp_path / "rest.zarr")], tmp_path / "out.zarr")
    receipt.write_text(receipt.read_text().replace('"first_row":4', '"first_row":0'))
    with pytest.raises(CorruptStore, match="receipt of part-00001 is damaged, or of another store"):
        merge([finished], tmp_path / "out.zarr")


SCRIPT = """
import sys
from pathlib import Path
from backdrop.stores.maintenance.merge import merge
merge([Path(name) for name in sys.argv[2:]], Path(sys.argv[1]))
"""


@pytest.mark.parametrize(("num_kills", "num_parts"), [(3, 9), pytest.param(20, 66, marks=pytest.mark.slow)])
def test_a_killed_merge_goes_on(num_kills: int, num_parts: int, tmp_path: Path) -> None:
    num_rows = 4 * num_parts
    rows = [backdrop.stores.format.writer.StoreRow(**{**vars(row_of(row % 11)), "row": row}) for row in range(num_rows)]
    for name, parts in (("a.zarr", range(num_parts * 2 // 3)), ("b.zarr", range(num_parts // 2, num_parts))):
        open_for_build(tmp_path / name, IDENTITY, num_rows, 4)
        for part in parts:
            write_part(tmp_path / name, part, rows[4 * part : 4 * part + 4])
    out = tmp_path / "out.zarr"
    command = [sys.executable, "-c", SCRIPT, str(out), str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")]
    rng, num_killed = random.Random(0), 0
    for kill in range(num_kills):
        process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
        goal = num_parts * kill // num_kills  # so that every kill finds the merge at work
        deadline = time.monotonic() + 60
        while process.poll() is None and len(list(out.glob("parts/part-*"))) < goal:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        num_killed += process.wait() == -signal.SIGKILL
        assert not (out / "MANIFEST.json").exists() or verify(out) == []
    assert num_killed >= num_kills / 2
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    assert verify(out) == []
    expected = tree(tmp_path / "a.zarr") | tree(tmp_path / "b.zarr")
    assert {name: data for name, data in tree(out).items() if name != "MANIFEST.json"} == expected
