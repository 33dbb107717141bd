"""Stores written by earlier versions are read by this one; see `tests/golden_stores/`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from backdrop.errors import UserError
from backdrop.stores.format import schema
from backdrop.stores.format.reader import open_store
from backdrop.stores.images.image_codec import sha256
from backdrop.stores.maintenance.merge import merge
from backdrop.stores.maintenance.verify import verify
from tests.golden_stores import make_v1_0
from tests.material.small_store import tree

GOLDEN = Path(__file__).parents[1] / "golden_stores"
STORE_ID = "223cd0744ff6b2611e2634c733499eba9c7f996295a2bb0e0cf1817dd1ac3375"
# SHA-256 of the backgrounds' bytes, in order: they are stored as given.
BACKGROUNDS_SHA256 = "aad5a1d18fa831bf92dc9c6b21bc1b00633b3af5749c78b593344bafed284770"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "v1.0", tmp_path / "copy"))


def test_there_is_one_for_every_schema_version() -> None:
    assert (GOLDEN / f"v{schema.SCHEMA_VERSION}").is_dir(), "a new schema version needs a golden store"


def test_v1_0_holds_what_its_formulas_say() -> None:
    store = open_store(GOLDEN / "v1.0")
    assert (store.store_id, store.num_rows, store.schema_version) == (STORE_ID, 7, "1.0")
    assert set(store.status.tolist()) == set(schema.Status)
    assert verify(GOLDEN / "v1.0") == []
    for row, status in enumerate(make_v1_0.STATUSES):
        assert (store.status[row], store.key(row)) == (status, make_v1_0.key_of(row))
        assert (store.height[row], store.width[row]) == make_v1_0.size_of(row)
        assert store.label[row] == (-1 if row == 5 else row % 2)
        assert (store.source_sha256(row), store.source_bytes[row]) == (bytes([row]) * 32, 1000 * row)
        assert store.message(row) == ("" if status.has_mask else f"reason {row}")
        if status.has_mask:
            mask_HW = make_v1_0.mask_of(row)
            np.testing.assert_array_equal(store.mask(row), mask_HW)
            assert store.foreground_fraction[row] == np.float32(mask_HW.mean())
        saliency_HW, expected_HW = store.saliency(row), make_v1_0.saliency_of(row)
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
    golden, path = open_store(GOLDEN / "v1.0"), tmp_path / "again"
    rows = [make_v1_0.row_of(row, golden.background_jpeg(row)) for row in range(7)]
    make_v1_0.open_for_build(path, make_v1_0.IDENTITY, 7, make_v1_0.PART_ROWS)
    make_v1_0.write_part(path, 0, rows)
    make_v1_0.finish(path)
    assert tree(path).keys() == tree(GOLDEN / "v1.0").keys()
    of_frames = ("mask", "saliency", "part.json", "MANIFEST.json")
    for name, data in tree(path).items():
        if not name.removeprefix("parts/part-00000/").startswith(of_frames):
            assert data == (GOLDEN / "v1.0" / name).read_bytes(), name


def test_a_merge_keeps_its_id(tmp_path: Path) -> None:
    assert merge([GOLDEN / "v1.0"], tmp_path / "merged") == STORE_ID
    assert tree(tmp_path / "merged") == tree(GOLDEN / "v1.0")


def with_version(copy: Path, version: str) -> Path:
    for file in (copy / "zarr.json", copy / "MANIFEST.json"):
        content = json.loads(file.read_bytes())
        content.get("attributes", content)["schema_version"] = version
        file.write_text(json.dumps(content))
    return copy


def test_an_unknown_minor_version_is_read_but_not_written(copy: Path, tmp_path: Path) -> None:
    store = open_store(with_version(copy, "1.99"))
    assert store.schema_version == "1.99"
    np.testing.assert_array_equal(store.mask(0), make_v1_0.mask_of(0))
    with pytest.raises(UserError, match=r"schema version 1.99, this version writes 1.0"):
        merge([copy], tmp_path / "merged")


@pytest.mark.parametrize("version", ["2.0", "0.9", "10.0"])
def test_an_unknown_major_version_is_refused(version: str, copy: Path) -> None:
    with_version(copy, version)
    for refusing in (open_store, verify):
        with pytest.raises(UserError, match=rf"has schema .* {version}; this version reads .* 1.x"):
            refusing(copy)
