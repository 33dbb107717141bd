"""A published store brings its .beton along, and a machine without the images trains on it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from backdrop.errors import CorruptStore, UserError
from backdrop.pipeline.beton.beton_of_store import StoreSource, beton_of
from backdrop.pipeline.beton.published_beton import publish_beton, pull_beton
from backdrop.pipeline.beton.reader import BetonSettings, open_beton, read_sidecar
from backdrop.pipeline.beton.verify import problems_of_beton
from backdrop.pipeline.beton.writer import ExportWork, export_beton
from backdrop.stores.datasets import open_index
from backdrop.stores.format.reader import open_store
from backdrop.stores.maintenance.verify import verify
from backdrop.stores.sharing.remote import publish
from cli import main


@pytest.fixture(scope="module")
def sharded(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store with a .beton of three shards beside it."""
    folder = tmp_path_factory.mktemp("sharded")
    store = folder / "scenes.zarr"
    store.symlink_to(scenes)
    index = open_index("folder", root=scenes.parent / "images")
    out, settings = folder / "scenes.beton", BetonSettings(shard_rows=8)
    export_beton(open_store(store), index, out, settings=settings, work=ExportWork(num_workers=0))
    return store


def run(*words: object) -> dict:
    done = CliRunner().invoke(main, [str(word) for word in (*words, "--json", "--quiet")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize("is_sharded", [True, False])
def test_what_is_published_comes_back_byte_for_byte(
    is_sharded: bool, sharded: Path, scenes: Path, tmp_path: Path
) -> None:
    store, url = sharded if is_sharded else scenes, (tmp_path / "there").as_uri()
    published = run("store", "publish", store, url, "--beton")
    assert published["beton"]["objects"] == (5 if is_sharded else 2)
    assert run("store", "publish", store, url, "--beton")["beton"]["objects"] == 0
    assert not verify(tmp_path / "there", full=False), "the address still is a store that can be read in place"
    out = tmp_path / "here" / "s.zarr"
    out.parent.mkdir()
    assert "beton" not in run("store", "pull", url, "--out", out, "--no-beton")
    pulled = run("store", "pull", url, "--out", out)
    assert pulled["beton"]["objects"] == published["beton"]["objects"]
    beton = out.with_suffix(".beton")
    assert read_sidecar(beton) == read_sidecar(store.with_suffix(".beton"))
    assert not list(problems_of_beton(beton, full=True))
    assert run("store", "verify", beton)["sound"]
    assert run("store", "pull", url, "--out", out)["beton"]["objects"] == 0
    # Without the images, and without any settings of this machine.
    assert beton_of(StoreSource(store=out)) == beton
    cached = beton_of(StoreSource(store=url, cache=tmp_path / "cache"))
    assert (open_beton(cached).records == open_beton(beton).records).all()


def test_a_pull_goes_on_where_it_was_and_checks_every_object(sharded: Path, tmp_path: Path) -> None:
    url, out = (tmp_path / "there").as_uri(), tmp_path / "s.beton"
    publish(sharded, url)
    store_id = str(open_store(sharded).store_id)
    assert pull_beton(url, store_id, out) is None
    publish_beton(sharded, url)
    hurt = tmp_path / "there" / "beton" / "scenes-00002-of-00003.beton"
    sound = hurt.read_bytes()
    hurt.write_bytes(sound[:-1] + b"x")
    with pytest.raises(CorruptStore, match="does not match the digest"):
        pull_beton(url, store_id, out)
    assert not (out / hurt.name).exists()
    hurt.write_bytes(sound)
    kept = {file: file.stat().st_ino for file in out.iterdir()}
    assert kept
    pulled = pull_beton(url, store_id, out)
    assert pulled is not None
    assert pulled["objects"] == 5 - len(kept)
    assert kept == {file: file.stat().st_ino for file in kept}


def test_a_published_beton_never_changes(sharded: Path, scenes: Path, tmp_path: Path) -> None:
    url = (tmp_path / "there").as_uri()
    publish(sharded, url)
    publish_beton(sharded, url)
    with pytest.raises(UserError, match="never changes"):
        publish_beton(scenes, url)
    with pytest.raises(UserError, match=r"another \.beton than the published one"):
        pull_beton(url, str(open_store(scenes).store_id), scenes.with_suffix(".beton"))


def test_verify_finds_a_damaged_shard(sharded: Path, tmp_path: Path) -> None:
    url, out = (tmp_path / "there").as_uri(), tmp_path / "s.beton"
    publish(sharded, url)
    publish_beton(sharded, url)
    pull_beton(url, str(open_store(sharded).store_id), out)
    shard = out / "scenes-00001-of-00003.beton"
    with shard.open("r+b") as file:
        file.seek(shard.stat().st_size - 5)
        file.write(b"x")
    assert not list(problems_of_beton(out, full=False))
    assert [str(shard) in problem for problem in problems_of_beton(out, full=True)] == [True]
    shard.unlink()
    assert "lacks scenes-00001-of-00003.beton" in next(problems_of_beton(out, full=False))
