"""Sweeping up: what was left behind goes, what somebody is at stays, and a store is never touched."""

import os
import shutil
import time
from pathlib import Path

import pytest

from backdrop.errors import UserError
from backdrop.stores.exports import MASK_FORMATS
from backdrop.stores.format.writer import missing_parts, staging_folder
from backdrop.stores.maintenance.gc import EXPORT_SUFFIXES, gc
from backdrop.stores.maintenance.verify import verify
from tests.material.small_store import small_store, tree, write_parts


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("store") / "toy.zarr")


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "toy.zarr"))


def leave(file: Path, age_s: float, content: bytes = b"12345") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    for name in (file, file.parent):
        os.utime(name, (time.time() - age_s,) * 2)
    return file


def test_old_stages_and_partial_files_go_and_young_ones_stay(path: Path) -> None:
    before = tree(path)
    old = leave(staging_folder(path) / "part-00001-abc/mask/c/0", 7200)
    young = leave(staging_folder(path) / "part-00002-def/mask/c/0", 10)
    os.utime(young.parents[2], (time.time() - 7200,) * 2)  # the stage looks old, what is in it does not
    os.utime(old.parents[2], (time.time() - 7200,) * 2)
    os.utime(old.parents[1], (time.time() - 7200,) * 2)
    cards = [leave(path.parent / f".toy.zarr.croissant.json.{age}.partial", age) for age in (7200, 10)]
    beton = leave(path.parent / "toy.beton.partial", 7200)
    shard = leave(path.parent / "toy.beton/toy-00001-of-00002.beton.partial", 7200)
    within = leave(path / "parts/part-00000/arrays.zip.1234.partial", 7200)
    other = leave(path.parent / ".another.zarr.json.1.partial", 7200)
    dry = gc(path, dry_run=True)
    assert (dry["freed_bytes"], len(dry["removed"]), len(dry["kept"])) == (25, 5, 2)
    assert all(file.exists() for file in (old, beton, within, *cards))
    done = gc(path)
    gone = {old.parents[2], cards[0], beton, shard, within}
    assert {item["path"] for item in done["removed"]} == {str(path) for path in gone}
    assert done["freed_bytes"] == 25
    assert not any(file.exists() for file in gone)
    assert all(file.exists() for file in (young, cards[1], other))
    assert gc(path, min_age_s=0)["freed_bytes"] == 10
    assert tree(path) == before
    assert verify(path) == []


def test_a_half_built_store_keeps_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "half.zarr"
    write_parts(path, [1])
    before = tree(path)
    leave(staging_folder(path) / "part-00000-x/zarr.json", 50)
    gc(path, min_age_s=0)
    assert not staging_folder(path).exists()
    assert tree(path) == before
    assert missing_parts(path) == [0, 2]


def test_a_link_in_a_stage_is_not_followed(path: Path, tmp_path: Path) -> None:
    photo = leave(tmp_path / "photos/a.jpg", 7200)
    staging_folder(path).mkdir()
    (staging_folder(path) / "link").symlink_to(photo.parent)
    gc(path, min_age_s=0)
    assert photo.exists()
    assert not (staging_folder(path) / "link").is_symlink()


def test_what_is_left_of_a_store_that_never_came_to_be(tmp_path: Path) -> None:
    leave(staging_folder(tmp_path / "s.zarr") / "store-x/zarr.json", 50)
    assert gc(tmp_path / "s.zarr", min_age_s=0)["freed_bytes"] == 5
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="is not a store, and nothing was left"):
        gc(tmp_path / "s.zarr")
    with pytest.raises(UserError, match="an age of -1"):
        gc(tmp_path / "s.zarr", min_age_s=-1)


def test_half_an_export_of_every_format_goes_and_whole_ones_stay(path: Path) -> None:
    assert {*EXPORT_SUFFIXES} == {".beton", *(suffix for _, suffix in MASK_FORMATS.values())}
    exports = [path.with_suffix(suffix) for suffix in EXPORT_SUFFIXES]
    whole = [leave(export, 7200) for export in exports]
    aside = [leave(export.with_name(f".{export.name}.1234abcd.partial"), 7200) for export in exports]
    records = [leave(export.with_name(f".{export.name}.export.json.1234abcd.partial"), 7200) for export in exports]
    tree_of_masks = leave(path.parent / "toy.masks.partial/a/b.png", 7200).parents[1]
    os.utime(tree_of_masks, (time.time() - 7200,) * 2)
    others = [leave(path.parent / name, 7200) for name in ("toy.tar.partial", "toy2.zarr.partial", ".toy.partial")]
    gone = [*aside, *records, tree_of_masks]
    assert {item["path"] for item in gc(path)["removed"]} == {str(file) for file in gone}
    assert not any(file.exists() for file in gone)
    assert all(file.exists() for file in (*whole, *others))


def test_what_a_killed_publishing_leaves_in_a_folder_goes(path: Path) -> None:
    before = tree(path)
    leave(path / "parts/part-00001/mask/c/0#1", 7200)
    leave(path / "MANIFEST.json#12", 10)
    assert [item["path"] for item in gc(path)["removed"]] == [str(path / "parts/part-00001/mask/c/0#1")]
    assert gc(path, min_age_s=0)["freed_bytes"] == 5
    assert tree(path) == before


def test_names_that_look_like_patterns(whole: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(whole, tmp_path / "[ab]*.zarr"))
    mine, other = (leave(tmp_path / f".{name}.card.1.partial", 50) for name in ("[ab]*.zarr", "a-b.zarr"))
    assert gc(store, min_age_s=0)["freed_bytes"] == 5
    assert (mine.exists(), other.exists()) == (False, True)
