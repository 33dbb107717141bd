"""The card of a store: a function of its content, digests that hold, every field of a row."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from backdrop.errors import CorruptStore, UserError
from backdrop.stores.format.reader import open_store
from backdrop.stores.format.schema import BLOBS, COLUMNS
from backdrop.stores.maintenance.card import FIELDS, card, card_path, write_card
from backdrop.stores.maintenance.gc import gc
from tests.material.small_store import small_store, tree, write_parts


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("store") / "toy.zarr")


def test_the_card_depends_on_the_content_alone_and_lies_beside_it(path: Path, tmp_path: Path) -> None:
    before = tree(path)
    moved = Path(shutil.copytree(path, tmp_path / "elsewhere.zarr"))
    first = write_card(path).read_bytes()
    assert write_card(moved).read_bytes() == first
    assert card_path(moved) == tmp_path / "elsewhere.zarr.croissant.json"
    assert json.loads(first) == card(path)
    assert str(tmp_path).encode() not in first
    assert tree(path) == before
    assert gc(path, min_age_s=0)["removed"] == []


def test_digests_and_sizes_are_those_of_the_files(path: Path) -> None:
    found = card(path)
    files = [item for item in found["distribution"] if item["@type"] == "cr:FileObject"]
    assert {file["contentUrl"] for file in files} == {
        "MANIFEST.json", "zarr.json", "parts/zarr.json", *(f"parts/part-0000{part}/part.json" for part in range(3)),
    }  # fmt: skip
    for file in files:
        data = (path / file["contentUrl"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(data).hexdigest()
        assert file["contentSize"] == f"{len(data)} B"
    assert found["version"] == f"2.0.0+{open_store(path).store_id[:16]}"
    assert "11 images of folder-train (8 ok, 1 no-foreground" in found["description"]


def test_every_field_of_a_row_is_there_and_its_chunks_are_found(path: Path) -> None:
    assert FIELDS.keys() == {field.name for field in (*COLUMNS, *BLOBS)}
    found = card(path)
    sets = {item["@id"]: item for item in found["distribution"] if item["@type"] == "cr:FileSet"}
    (rows,) = found["recordSet"]
    for field in rows["field"]:
        chunks = sets[field["source"]["fileSet"]["@id"]]
        files = sorted(path.glob(sets[chunks["containedIn"]["@id"]]["includes"]))
        found_in = [file for file in files if chunks["includes"] in zipfile.ZipFile(file).namelist()]
        assert len(found_in) == (2 if field["name"] == "message" else 3), field["name"]  # part 1 has no messages
    ids = [item["@id"] for item in (*found["distribution"], rows, *rows["field"])]
    assert len(ids) == len(set(ids))
    prefixes = {name.split(":")[0] for name in json.dumps(found).split('"') if name.startswith(("prov:", "cr:", "sc:"))}
    assert prefixes <= found["@context"].keys()


def test_unfinished_and_damaged_stores_have_no_card(path: Path, tmp_path: Path) -> None:
    write_parts(tmp_path / "half.zarr", [0])
    with pytest.raises(UserError, match="half built"):
        write_card(tmp_path / "half.zarr")
    damaged = Path(shutil.copytree(path, tmp_path / "damaged.zarr"))
    (damaged / "MANIFEST.json").write_text((damaged / "MANIFEST.json").read_text().replace('"ok":8', '"ok":9'))
    with pytest.raises(CorruptStore, match="does not match its store"):
        write_card(damaged)
    assert not list(tmp_path.glob("*.json"))


def test_who_publishes_it_may_say_more_and_nothing_else(path: Path) -> None:
    about = {"license": "https://creativecommons.org/licenses/by/4.0/", "datePublished": "2026-01-02"}
    assert card(path, about) == {**card(path), **about}
    with pytest.raises(UserError, match=r"a card takes license, .* given: version"):
        card(path, {"version": "3"})
