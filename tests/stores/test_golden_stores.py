"""Stores written by earlier versions are read by this one; see `tests/golden_stores/`."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from backdrop.errors import UserError
from backdrop.stores.format import schema
from backdrop.stores.format.reader import open_store
from backdrop.stores.images.image_codec import sha256
from backdrop.stores.maintenance.diff import diff
from backdrop.stores.maintenance.merge import merge
from backdrop.stores.maintenance.verify import verify
from backdrop.stores.sharing.remote import publish, pull
from backdrop.stores.sharing.store_cache import open_published
from tests.golden_stores import formulas
from tests.material.small_store import tree

GOLDEN = Path(__file__).parents[1] / "golden_stores"
STORE_IDS = {
    "1.0": "223cd0744ff6b2611e2634c733499eba9c7f996295a2bb0e0cf1817dd1ac3375",
    "2.0": "c399bccc87a1059c92b8a4fc4f989eb0ff5f6e3923eb7012eb07fe27daa6a96e",
}
# SHA-256 of the backgrounds' bytes, in order: they are stored as given.
BACKGROUNDS_SHA256 = "aad5a1d18fa831bf92dc9c6b21bc1b00633b3af5749c78b593344bafed284770"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "v2.0", tmp_path / "copy"))


def test_there_is_one_for_every_schema_version() -> None:
    assert (GOLDEN / f"v{schema.SCHEMA_VERSION}").is_dir(), "a new schema version needs a golden store"


@pytest.mark.parametrize("version", STORE_IDS)
def test_it_holds_what_its_formulas_say(version: str) -> None:
    store = open_store(GOLDEN / f"v{version}")
    assert (store.store_id, store.num_rows, store.schema_version) == (STORE_IDS[version], 7, version)
    assert set(store.status.tolist()) == set(schema.Status)
    assert verify(store.path) == []
    for row, status in enumerate(formulas.STATUSES):
        assert (store.status[row], store.key(row)) == (status, formulas.key_of(row))
        assert (store.height[row], store.width[row]) == formulas.size_of(row)
        assert store.label[row] == (-1 if row == 5 else row % 2)
        assert (store.source_sha256(row), store.source_bytes[row]) == (bytes([row]) * 32, 1000 * row)
        assert store.message(row) == ("" if status.has_mask else f"reason {row}")
        if status.has_mask:
            mask_HW = formulas.mask_of(row)
            np.testing.assert_array_equal(store.mask(row), mask_HW)
            assert store.foreground_fraction[row] == np.float32(mask_HW.mean())
        saliency_HW, expected_HW = store.saliency(row), formulas.saliency_of(row)
        assert (saliency_HW is None) == (expected_HW is None)
        if expected_HW is not None:
            np.testing.assert_array_equal(saliency_HW, expected_HW)
    assert store.box[5].tolist() == [2, 3, 4, 10]
    assert store.box[1].tolist() == [0, 0, 0, 0]
    backgrounds = [store.background_jpeg(row) for row in range(7)]
    assert [bool(jpeg) for jpeg in backgrounds] == [True, True, False, False, False, True, True]
    assert sha256(b"".join(backgrounds)).hex() == BACKGROUNDS_SHA256


def test_todays_writer_writes_the_same_bytes_but_for_zstd_frames(tmp_path: Path) -> None:
    """Ids of stores change only with the schema version; frames may change with the version of zstd."""
    golden, path = open_store(GOLDEN / "v2.0"), tmp_path / "again"
    rows = [formulas.row_of(row, golden.background_jpeg(row)) for row in range(7)]
    formulas.open_for_build(path, formulas.IDENTITY, 7, formulas.PART_ROWS)
    formulas.write_part(path, 0, rows)
    formulas.finish(path)
    assert tree(path).keys() == tree(GOLDEN / "v2.0").keys()
    for name in ("zarr.json", "parts/zarr.json"):
        assert (path / name).read_bytes() == (GOLDEN / "v2.0" / name).read_bytes(), name
    ours, theirs = (zipfile.ZipFile(store / "parts/part-00000/arrays.zip") for store in (path, GOLDEN / "v2.0"))
    assert ours.namelist() == theirs.namelist()
    for name in ours.namelist():
        if not name.startswith(("mask", "saliency")):
            assert ours.read(name) == theirs.read(name), name


@pytest.mark.parametrize("version", STORE_IDS)
def test_a_merge_keeps_its_content_and_writes_todays_schema(version: str, tmp_path: Path) -> None:
    assert merge([GOLDEN / f"v{version}"], tmp_path / "merged") == STORE_IDS["2.0"]
    assert tree(tmp_path / "merged") == tree(GOLDEN / "v2.0")
    merge([GOLDEN / f"v{version}"], tmp_path / "merged")  # again: nothing to do, though the parts are kept otherwise


def test_schemas_that_keep_the_same_do_not_differ() -> None:
    found = diff(open_store(GOLDEN / "v1.0"), open_store(GOLDEN / "v2.0"))
    assert (found["equal"], found["parts_not_read"]) == (True, 1)


def test_a_half_built_store_of_an_earlier_schema_is_not_gone_on_with(tmp_path: Path) -> None:
    half = Path(shutil.copytree(GOLDEN / "v1.0", tmp_path / "half"))
    (half / "MANIFEST.json").unlink()
    with pytest.raises(UserError, match=r"schema_version: 2.0 here, 1.0 there"):
        formulas.open_for_build(half, formulas.IDENTITY, 7, formulas.PART_ROWS)


@pytest.mark.parametrize("version", STORE_IDS)
def test_it_is_published_pulled_and_read_from_there(version: str, tmp_path: Path) -> None:
    url, golden = f"file://{tmp_path}/public", open_store(GOLDEN / f"v{version}")
    publish(golden.path, url, progress=False)
    pull(url, tmp_path / "back", progress=False)
    assert tree(tmp_path / "back") == tree(golden.path)
    through_cache = open_published(url, tmp_path / "cache")
    np.testing.assert_array_equal(through_cache.mask(5), golden.mask(5))
    assert through_cache.background_jpeg(0) == golden.background_jpeg(0)


def with_version(copy: Path, version: str) -> Path:
    for file in (copy / "zarr.json", copy / "MANIFEST.json"):
        content = json.loads(file.read_bytes())
        content.get("attributes", content)["schema_version"] = version
        file.write_text(json.dumps(content))
    return copy


def test_an_unknown_minor_version_is_read_but_not_written(copy: Path, tmp_path: Path) -> None:
    store = open_store(with_version(copy, "2.99"))
    assert store.schema_version == "2.99"
    np.testing.assert_array_equal(store.mask(0), formulas.mask_of(0))
    with pytest.raises(UserError, match=r"schema version 2.99, this version writes 2.0"):
        merge([copy], tmp_path / "merged")


@pytest.mark.parametrize("version", ["3.0", "0.9", "10.0"])
def test_an_unknown_major_version_is_refused(version: str, copy: Path) -> None:
    with_version(copy, version)
    for refusing in (open_store, verify):
        with pytest.raises(UserError, match=rf"has schema .* {version}; this version reads .* 1.x and 2.x"):
            refusing(copy)
