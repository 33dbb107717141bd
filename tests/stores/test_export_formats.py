"""Exports: every mask read back with the format's own tools, whole or not there, never of a half-built store."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from backdrop.errors import CorruptStore, UserError
from backdrop.saliency.detectors import open_detector
from backdrop.stores.exports import coco_rle as export_coco_rle
from backdrop.stores.exports import export_masks
from backdrop.stores.exports import hdf5 as export_hdf5
from backdrop.stores.exports import png as export_png
from backdrop.stores.exports import webdataset as export_webdataset
from backdrop.stores.format.mask_codec import pack_rows
from backdrop.stores.format.reader import open_store
from backdrop.stores.format.schema import COLUMNS, Status
from backdrop.stores.format.writer import StoreRow, finish, open_for_build, write_part
from tests.material.part_arrays import flip_bit
from tests.material.small_store import IDENTITY, NUM_ROWS, PART_ROWS, mask_of, row_of, small_store, tree, write_parts

REPOSITORY = Path(__file__).resolve().parents[2]
EXPORTS = {
    "hdf5": (export_hdf5.export, "masks.h5"),
    "png": (export_png.export, "masks"),
    "coco-rle": (export_coco_rle.export, "masks.json"),
    "webdataset": (export_webdataset.export, "shards"),
}
WITHOUT_MASK = (3, 8)


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not what these tests are about."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("store") / "toy.zarr")


def expected(row: int) -> np.ndarray:
    return mask_of(row) * (row != 5)


def read_hdf5(out: Path, store: Path) -> dict[int, np.ndarray]:
    """As its attribute `how_to_read` says."""
    with h5py.File(out) as file:
        mask, offsets, height, width = (file[name] for name in ("mask", "mask_offsets", "height", "width"))
        return {
            i: np.unpackbits(mask[offsets[i] : offsets[i + 1]].reshape(height[i], -1), axis=1, count=width[i])
            for i in np.flatnonzero(file["status"][:] <= 2).tolist()
        }


def read_png(out: Path, store: Path) -> dict[int, np.ndarray]:
    masks = {}
    for row, key in enumerate(open_store(store).keys()):
        file = (out / key).with_suffix(".png")
        if file.exists():
            grey_HW = np.asarray(Image.open(file))
            assert set(np.unique(grey_HW)) <= {0, 255}
            masks[row] = grey_HW // 255
    return masks


def decoded_runs(counts: str, height: int, width: int) -> np.ndarray:
    """COCO's compressed runs by a loop: 5 bits a character, signed, from the fourth on less the one two before."""
    runs: list[int] = []
    at = 0
    while at < len(counts):
        value, shift, more = 0, 0, True
        while more:
            bits = ord(counts[at]) - 48
            value |= (bits & 31) << shift
            more, shift, at = bool(bits & 32), shift + 5, at + 1
            if not more and bits & 16:
                value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    pixels = [number % 2 for number, run in enumerate(runs) for _ in range(run)]
    return np.array(pixels, np.uint8).reshape(width, height).T  # columns first


def read_coco(out: Path, store: Path) -> dict[int, np.ndarray]:
    """With our own decoder, and pycocotools must agree."""
    masks = {}
    for result in json.loads(out.read_text()):
        runs = result["segmentation"]
        masks[result["image_id"]] = decoded_runs(runs["counts"], *runs["size"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of numpy 2, inside pycocotools 2.0.11
            np.testing.assert_array_equal(coco_mask.decode(runs), masks[result["image_id"]])
        assert (result["category_id"], result["score"]) == (1, 1.0)
    return masks


def read_webdataset(out: Path, store: Path) -> dict[int, np.ndarray]:
    """Every row is a sample of its shard, with what it has."""
    opened, masks = open_store(store), {}
    for shard in sorted(out.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                row, _, suffix = member.name.partition(".")
                data = tar.extractfile(member).read()  # type: ignore[union-attr]
                if suffix == "mask.png":
                    masks[int(row)] = np.asarray(Image.open(io.BytesIO(data))) // 255
                elif suffix == "background.jpg":
                    assert data == opened.background_jpeg(int(row))
                else:
                    about = json.loads(data)
                    assert (about["row"], about["key"]) == (int(row), opened.key(int(row)))
    return masks


READERS: dict[str, Callable[[Path, Path], dict[int, np.ndarray]]] = {
    "hdf5": read_hdf5,
    "png": read_png,
    "coco-rle": read_coco,
    "webdataset": read_webdataset,
}


@pytest.mark.parametrize("name", EXPORTS)
def test_every_mask_comes_back(name: str, store: Path, tmp_path: Path) -> None:
    export, file_name = EXPORTS[name]
    done: list[int] = []
    out = export(open_store(store), tmp_path / "new folder" / file_name, progress=done.append)
    assert out == tmp_path / "new folder" / file_name
    assert sum(done) == NUM_ROWS
    masks = READERS[name](out, store)
    assert sorted(masks) == [row for row in range(NUM_ROWS) if row not in WITHOUT_MASK]
    for row, mask_HW in masks.items():
        np.testing.assert_array_equal(mask_HW, expected(row))
    assert not [file for file in out.parent.rglob("*") if "partial" in file.name]


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_kept_and_one_of_another_store_refused(name: str, store: Path, tmp_path: Path) -> None:
    export, file_name = EXPORTS[name]
    out = export(open_store(store), tmp_path / file_name)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert export(open_store(store), out) == out
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before
    other = tmp_path / "other.zarr"
    open_for_build(other, {**IDENTITY, "threshold": 0.1}, 1, 1)
    write_part(other, 0, [row_of(0)])
    finish(other)
    with pytest.raises(UserError, match=r"another store.*give another --out"):
        export(open_store(other), out)
    stranger = tmp_path / "stranger"
    if name == "png":
        stranger.mkdir()
    else:
        stranger.write_text("mine")
    with pytest.raises(UserError, match="there already"):
        export(open_store(store), stranger)


@pytest.mark.parametrize("name", EXPORTS)
def test_another_export_may_be_written_over_and_no_folder_of_anything_else(
    name: str, store: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.zarr"
    open_for_build(other, {**IDENTITY, "threshold": 0.1}, 1, 1)
    write_part(other, 0, [row_of(0)])
    finish(other)
    out = export_masks(open_store(other), name, tmp_path / EXPORTS[name][1])
    export_masks(open_store(store), name, out, overwrite=True)
    assert len(READERS[name](out, store)) == NUM_ROWS - len(WITHOUT_MASK)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    export_masks(open_store(store), name, out, overwrite=True)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before, "the same one is kept"
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "mine").write_text("mine")
    with pytest.raises(UserError, match="there already"):
        export_masks(open_store(store), name, stranger, overwrite=True)
    assert (stranger / "mine").exists()


@pytest.mark.parametrize("name", EXPORTS)
def test_half_built_and_damaged_stores_give_no_export(name: str, store: Path, tmp_path: Path) -> None:
    export, file_name = EXPORTS[name]
    write_parts(tmp_path / "half", [1])
    with pytest.raises(UserError, match="half built"):
        export(open_store(tmp_path / "half"), tmp_path / "out" / file_name)
    damaged = Path(shutil.copytree(store, tmp_path / "damaged"))
    flip_bit(damaged / "parts/part-00002", "mask/c/0", -1)
    with pytest.raises(CorruptStore, match="mask of row 10"):
        export(open_store(damaged), tmp_path / "out" / file_name)
    assert not (tmp_path / "out" / file_name).exists()


def test_hdf5_holds_all_columns_and_says_what_it_is(store: Path, tmp_path: Path) -> None:
    opened = open_store(store)
    with h5py.File(export_hdf5.export(open_store(store), tmp_path / "m.h5")) as file:
        assert file.attrs["store_id"] == opened.store_id
        assert json.loads(file.attrs["identity"]) == opened.identity
        assert "unpackbits" in file.attrs["how_to_read"]
        for column in COLUMNS:
            values = np.concatenate([opened.part(part).column(column.name) for part in range(opened.num_parts)])
            np.testing.assert_array_equal(file[column.name][:], values)
            assert file[column.name].dtype == values.dtype
        assert file["key"].asstr()[:].tolist() == opened.keys()
        assert file["message"].asstr()[:].tolist() == [opened.message(row) for row in range(NUM_ROWS)]


def test_rows_without_a_mask_are_listed(store: Path, tmp_path: Path) -> None:
    png = json.loads((export_png.export(open_store(store), tmp_path / "m") / "export.json").read_text())
    coco = json.loads(
        export_coco_rle.record_path(export_coco_rle.export(open_store(store), tmp_path / "m.json")).read_text()
    )
    for record in (png, coco):
        assert record["store_id"] == open_store(store).store_id
        assert record["num_masks"] == NUM_ROWS - 2
        assert [(row["row"], row["status"], row["message"]) for row in record["rows_without_mask"]] == [
            (3, "decode-error", "reason 3"),
            (8, "mask-error", "reason 8"),
        ]
    assert coco["image_ids"] == "rows of the store"


def store_of_keys(path: Path, keys: list[str]) -> Path:
    open_for_build(path, IDENTITY, len(keys), PART_ROWS)
    for first in range(0, len(keys), PART_ROWS):
        rows = [replace(row_of(0), row=row, key=keys[row]) for row in range(first, min(first + PART_ROWS, len(keys)))]
        write_part(path, first // PART_ROWS, rows)
    finish(path)
    return path


def test_coco_image_ids_are_those_of_the_file_names(tmp_path: Path) -> None:
    store = store_of_keys(tmp_path / "s", [f"{number:012d}.jpg" for number in (9, 25, 139, 581_921, 1_000_000)])
    out = export_coco_rle.export(open_store(store), tmp_path / "m.json")
    assert [result["image_id"] for result in json.loads(out.read_text())] == [9, 25, 139, 581_921, 1_000_000]
    twice = store_of_keys(tmp_path / "t", ["a/1.jpg", "b/01.jpg"])
    out = export_coco_rle.export(open_store(twice), tmp_path / "t.json")
    assert [result["image_id"] for result in json.loads(out.read_text())] == [0, 1]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (17, 1), (40, 33)])
def test_runs_of_masks_of_every_kind(shape: tuple[int, int], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    masks = [np.zeros(shape, np.uint8), np.ones(shape, np.uint8), (rng.random(shape) < 0.5).astype(np.uint8)]
    statuses = [Status.NO_FOREGROUND, Status.ALL_FOREGROUND, Status.OK]
    open_for_build(tmp_path / "s", IDENTITY, 3, 3)
    rows = [
        StoreRow(row=i, key=f"k{i}.png", label=0, height=shape[0], width=shape[1], status=status, mask_packed=packed)
        for i, (status, packed) in enumerate(zip(statuses, map(pack_rows, masks), strict=True))
    ]
    write_part(tmp_path / "s", 0, rows)
    finish(tmp_path / "s")
    for name, (export, file_name) in EXPORTS.items():
        found = READERS[name](export(open_store(tmp_path / "s"), tmp_path / file_name), tmp_path / "s")
        for row, mask_HW in enumerate(masks):
            np.testing.assert_array_equal(found[row], mask_HW)


def test_a_store_without_any_mask(tmp_path: Path) -> None:
    open_for_build(tmp_path / "s", IDENTITY, 1, 1)
    write_part(tmp_path / "s", 0, [replace(row_of(3), row=0)])
    finish(tmp_path / "s")
    for name, (export, file_name) in EXPORTS.items():
        assert READERS[name](export(open_store(tmp_path / "s"), tmp_path / file_name), tmp_path / "s") == {}


def test_the_detector_of_mask_folders_reads_the_tree(store: Path, tmp_path: Path) -> None:
    detector = open_detector(f"masks:{export_png.export(open_store(store), tmp_path / 'm')}")
    for row in (0, 5, 9):
        image_HWC = np.zeros((*mask_of(row).shape, 3), np.uint8)
        np.testing.assert_array_equal(detector(image_HWC, open_store(store).key(row)), expected(row))


@pytest.mark.parametrize("key", ["../out.jpg", "/etc/out.jpg", "a/../../out.jpg", "a\0b.jpg", ""])
def test_keys_cannot_leave_the_folder(key: str, tmp_path: Path) -> None:
    store = store_of_keys(tmp_path / "s", ["a.jpg", key])
    before = tree(tmp_path)
    with pytest.raises(UserError, match="which is no file inside a folder"):
        export_png.export(open_store(store), tmp_path / "masks")
    assert tree(tmp_path) == before


def test_keys_that_would_share_a_file_are_named(tmp_path: Path) -> None:
    store = store_of_keys(tmp_path / "s", ["a/x.jpg", "a/x.webp"])
    with pytest.raises(UserError, match=r"a/x.jpg and a/x.webp .* would both be a/x.png"):
        export_png.export(open_store(store), tmp_path / "masks")


def test_a_tree_is_resumed(store: Path, tmp_path: Path) -> None:
    whole = tree(export_png.export(open_store(store), tmp_path / "whole"))
    partial = Path(shutil.copytree(tmp_path / "whole", tmp_path / "masks.partial"))
    files = sorted(partial.rglob("*.png"))
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-5])  # a kill in the middle of a file
    files[2].write_bytes(b"")
    (partial / ".export.json.0a.partial").write_bytes(b"{")
    kept = {file.name: file.stat().st_mtime_ns for file in files[3:]}
    export_png.export(open_store(store), tmp_path / "masks")
    assert tree(tmp_path / "masks") == whole
    now = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "masks").rglob("*.png")}
    assert {name: now[name] for name in kept} == kept
    partial.mkdir()
    (partial / "mine.txt").write_text("x")
    shutil.rmtree(tmp_path / "masks")
    with pytest.raises(UserError, match="there already"):
        export_png.export(open_store(store), tmp_path / "masks")


SCRIPT = """
import sys, time
from importlib import import_module
from pathlib import Path
import backdrop.stores.format.part_reader
from backdrop.stores.format.reader import open_store
mask_packed = backdrop.stores.format.part_reader.Part.mask_packed
def slow(part, at):
    print("row", flush=True)
    time.sleep(0.1)
    return mask_packed(part, at)
backdrop.stores.format.part_reader.Part.mask_packed = slow
import_module(sys.argv[1]).export(open_store(sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.mark.parametrize("name", EXPORTS)
def test_a_killed_export_leaves_nothing_under_its_name(name: str, store: Path, tmp_path: Path) -> None:
    export, file_name = EXPORTS[name]
    out = tmp_path / file_name
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, export.__module__, str(store), str(out)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline() == b"row\n"
    time.sleep(0.02)
    process.kill()
    process.communicate()
    assert not out.exists()
    export(open_store(store), out)
    assert sorted(READERS[name](out, store)) == [row for row in range(NUM_ROWS) if row not in WITHOUT_MASK]
