"""The store on disk: read back as written, by us and by zarr alone; nothing damaged or half built passes for whole."""

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
import zstandard

import backdrop.stores.format.writer
from backdrop.errors import CorruptStore, UserError
from backdrop.stores.format.part_reader import map_file
from backdrop.stores.format.provenance import canonical_json, differing_fields, identity_digest, log_event, log_path
from backdrop.stores.format.reader import describe, open_store
from backdrop.stores.format.schema import COLUMNS, NOT_BUILT, Status
from backdrop.stores.format.writer import finish, missing_parts, open_for_build, part_rows_for, write_part
from backdrop.stores.images.image_codec import sha256
from backdrop.stores.maintenance.verify import verify
from tests.material.part_arrays import array_bytes, flip_bit
from tests.material.small_store import (
    IDENTITY,
    NUM_ROWS,
    PART_ROWS,
    digest_of_all,
    mask_of,
    race,
    row_of,
    small_store,
    tree,
    write_parts,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("store") / "toy.zarr")


@pytest.fixture
def copy(path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(path, tmp_path / "copy.zarr"))


def test_every_field_comes_back(path: Path) -> None:
    store = open_store(path)
    assert (store.num_rows, len(store), store.num_parts, store.dataset, store.split) == (11, 11, 3, "folder", "train")
    assert store.store_id == sha256((path / "MANIFEST.json").read_bytes()).hex()
    for row in range(NUM_ROWS):
        given = row_of(row)
        assert (store.key(row), store.message(row)) == (given.key, given.message)
        assert (store.label[row], store.height[row], store.width[row]) == (given.label, given.height, given.width)
        assert store.status[row] == given.status
        assert store.background_jpeg(row) == given.background_jpeg
        assert store.source_sha256(row) == given.source_sha256
        assert store.source_bytes[row] == given.source_bytes
        if given.mask_packed is not None:
            np.testing.assert_array_equal(store.mask_packed(row), given.mask_packed)
            np.testing.assert_array_equal(store.mask(row), mask_of(row) * (row != 5))
        if given.saliency_HW is None:
            assert store.saliency(row) is None
        else:
            np.testing.assert_array_equal(store.saliency(row), given.saliency_HW)
    assert store.keys() == [row_of(row).key for row in range(NUM_ROWS)]


def test_box_and_fraction_are_those_of_the_mask(tmp_path: Path) -> None:
    mask_HW = np.zeros((9, 19), np.uint8)
    mask_HW[2:5, 7:18] = 1
    rows = [row_of(0), row_of(1)]
    rows[1] = backdrop.stores.format.writer.StoreRow(
        row=1, key="k", label=0, height=9, width=19, status=Status.OK, mask_packed=np.packbits(mask_HW, axis=1)
    )
    open_for_build(tmp_path / "s", IDENTITY, 2, 2)
    write_part(tmp_path / "s", 0, rows)
    finish(tmp_path / "s")
    store = open_store(tmp_path / "s")
    assert store.box[1].tolist() == [2, 7, 3, 11]
    assert store.foreground_fraction[1] == np.float32(33 / 171)


def test_rows_without_a_mask_say_why(path: Path) -> None:
    store = open_store(path)
    with pytest.raises(UserError, match=r"row 3 \(class 0/bild-\u00e4-3.jpg\) has no mask: decode-error: reason 3"):
        store.mask_packed(3)
    with pytest.raises(UserError, match="mask-error: reason 8"):
        store.mask_packed(8)
    assert store.mask(3) is None
    assert store.background(3) is None
    assert store.saliency(3) is None
    assert store.mask(5).sum() == 0
    for row in (-1, NUM_ROWS):
        with pytest.raises(IndexError):
            store.key(row)


def arrays_by_zarr(path: Path, part: int) -> zarr.Group:
    return zarr.open_group(zarr.storage.ZipStore(path / f"parts/part-{part:05d}/arrays.zip", mode="r"), mode="r")


def test_a_part_takes_two_files_one_folder_and_four_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(backdrop.stores.format.writer, "sync", synced.append)
    open_for_build(tmp_path / "s", IDENTITY, 1, 1)
    synced.clear()
    write_part(tmp_path / "s", 0, [row_of(0)])
    assert sorted(file.name for file in (tmp_path / "s/parts/part-00000").rglob("*")) == ["arrays.zip", "part.json"]
    assert len(synced) == 4


def test_zarr_alone_reads_everything(path: Path) -> None:
    group = zarr.open_group(str(path), mode="r")
    assert group.attrs["num_rows"] == NUM_ROWS
    assert group.attrs["mask_polarity"].startswith("1 = foreground")
    parts = [arrays_by_zarr(path, part) for part in range(3)]
    for row in range(NUM_ROWS):
        part, at = divmod(row, group.attrs["part_rows"])
        rows, given = parts[part], row_of(row)

        def blob(name: str, rows: zarr.Group = rows, at: int = at) -> bytes:
            begin, end = rows[f"{name}_offsets"][at : at + 2]
            return rows[name][begin:end].tobytes()

        assert blob("key").decode() == given.key
        assert blob("background") == given.background_jpeg
        assert blob("message").decode() == given.message
        assert rows["source_sha256"][at].tobytes() == given.source_sha256
        assert int(rows["source_bytes"][at]) == given.source_bytes
        if given.mask_packed is not None:
            assert zstandard.decompress(blob("mask")) == given.mask_packed.tobytes()
        for column in COLUMNS:
            assert rows[column.name].dtype == np.dtype(column.dtype)
            assert rows[column.name].shape[1:] == column.row_shape


def test_an_array_without_entries_is_still_an_array_for_zarr(tmp_path: Path) -> None:
    open_for_build(tmp_path / "s", IDENTITY, 1, 1)
    write_part(tmp_path / "s", 0, [row_of(0)])
    array = arrays_by_zarr(tmp_path / "s", 0)["message"]
    assert array.shape == (0,)
    assert array[:].size == 0


def test_nothing_volatile_is_inside(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "other-name.zarr"
    write_parts(other, [2, 0])
    assert tree(small_store(other)) == tree(path)
    log_event(other, "started", workers=3)
    assert json.loads(log_path(other).read_text())["workers"] == 3
    assert tree(other) == tree(path)
    assert not (other.parent / "other-name.zarr.staging").exists()


def test_half_built_stores(tmp_path: Path) -> None:
    path = tmp_path / "half.zarr"
    write_parts(path, [1])
    assert missing_parts(path) == [0, 2]
    with pytest.raises(UserError, match="lacks 2 parts"):
        finish(path)
    with pytest.raises(UserError, match="half built"):
        open_store(path)
    store = open_store(path, allow_partial=True)
    assert not store.is_complete
    assert store.store_id is None
    assert store.status.tolist()[3:9] == [NOT_BUILT, 0, 1, 0, 0, NOT_BUILT]
    np.testing.assert_array_equal(store.mask(4), mask_of(4))
    with pytest.raises(UserError, match="part-00000 is not built yet"):
        store.mask(0)
    assert verify(path, allow_partial=True) == []
    assert describe(open_store(path, allow_partial=True))["rows_not_built"] == 7
    small_store(path)
    assert describe(open_store(path))["status"] == {
        "ok": 8, "no-foreground": 1, "all-foreground": 0, "decode-error": 1, "mask-error": 1,
    }  # fmt: skip


def test_another_identity_is_refused_by_name(path: Path) -> None:
    before = tree(path)
    other = {**IDENTITY, "detector": {"name": "rbd", "algorithm_version": 1}, "threshold": 0.5}
    with pytest.raises(UserError) as caught:
        open_for_build(path, other, NUM_ROWS, PART_ROWS)
    assert "detector.name: 'rbd' here, 'by-hand' there" in str(caught.value)
    assert "threshold: '0.5' here, '0.9' there" in str(caught.value)
    assert "algorithm_version" not in str(caught.value)
    with pytest.raises(UserError, match="num_rows: 12 here, 11 there"):
        open_for_build(path, IDENTITY, 12, PART_ROWS)
    assert tree(path) == before


def test_places_that_are_taken_or_missing(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="folder with other things in it"):
        open_for_build(tmp_path / "photos", IDENTITY, 1, 1)
    with pytest.raises(UserError, match="is a file"):
        open_for_build(tmp_path / "photos" / "a.jpg", IDENTITY, 1, 1)
    with pytest.raises(UserError, match="cannot be written"):
        open_for_build(tmp_path / "photos" / "a.jpg" / "s", IDENTITY, 1, 1)
    for nothing in (tmp_path / "nowhere", tmp_path / "photos"):
        with pytest.raises(UserError, match="is not a store"):
            open_store(nothing)
    (tmp_path / "empty").mkdir()
    open_for_build(tmp_path / "empty", IDENTITY, 1, 1)
    assert missing_parts(tmp_path / "empty") == [0]


def test_schema_versions(copy: Path) -> None:
    def rewrite(version: str) -> None:
        for file in (copy / "zarr.json", copy / "MANIFEST.json"):
            file.write_text(file.read_text().replace('"schema_version":"2.0"', f'"schema_version":"{version}"'))

    text = (copy / "zarr.json").read_text(), (copy / "MANIFEST.json").read_text()
    rewrite("2.7")
    assert open_store(copy).key(0) == row_of(0).key
    (copy / "zarr.json").write_text(text[0])
    (copy / "MANIFEST.json").write_text(text[1])
    rewrite("3.0")
    with pytest.raises(UserError, match=r"has schema .* 3.0; this version reads .* 1.x and 2.x"):
        open_store(copy)


def test_a_read_only_store_opens(copy: Path) -> None:
    for file in copy.rglob("*"):
        file.chmod(0o555 if file.is_dir() else 0o444)
    np.testing.assert_array_equal(open_store(copy).mask(0), mask_of(0))
    assert verify(copy) == []
    for file in copy.rglob("*"):
        file.chmod(0o755)


def test_part_rows_for_is_bounded_and_depends_on_nothing_else() -> None:
    sizes = [part_rows_for(num_rows) for num_rows in (1, 32, 800, 1025, 5_000, 118_287, 1_281_167)]
    assert sizes == [32, 32, 32, 64, 256, 1024, 1024]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_that_the_same_command_resumes(
    code: int, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = backdrop.stores.format.writer._write, []

    def full(file: Path, data: bytes) -> None:
        written.append(file)
        if len(written) > 5:
            raise OSError(code, os.strerror(code), str(file))
        write(file, data)

    target = tmp_path / "toy.zarr"
    with monkeypatch.context() as patched:
        patched.setattr(backdrop.stores.format.writer, "_write", full)
        with pytest.raises(UserError, match=r"is full .* the same command again: it resumes"):
            small_store(target)
    assert missing_parts(target) == [1, 2]
    assert tree(small_store(target)) == tree(path)


# ------------------------------------------------------------------------------------------------------------- damage


PART = "parts/part-00001"


@pytest.mark.parametrize(
    "name", [f"{PART}/part.json", "parts/zarr.json", "zarr.json", "MANIFEST.json", f"{PART}/arrays.zip"]
)
def test_one_flipped_bit_anywhere_is_found(name: str, copy: Path) -> None:
    size = (copy / name).stat().st_size
    for at in (0, size // 2, size - 1) if name.endswith("json") else range(0, size, max(1, size // 50)):
        data = bytearray((copy / name).read_bytes())
        data[at] ^= 4
        (copy / name).write_bytes(data)
        found = verify(copy)
        assert found, f"{name}: bit in byte {at}"
        if "part-00001" in name:
            assert 1 in {problem.part for problem in found}, found
            assert all(problem.part in (1, None) for problem in found), found
        data[at] ^= 4
        (copy / name).write_bytes(data)
    assert verify(copy) == []


@pytest.mark.parametrize("blob", ["mask", "background", "saliency", "key", "message"])
def test_verify_and_reading_name_the_damaged_row(blob: str, copy: Path) -> None:
    row, part = 8 if blob == "message" else 9, copy / "parts/part-00002"
    flip_bit(part, f"{blob}/c/0", 0 if row == 8 else np.frombuffer(array_bytes(part, f"{blob}_offsets/c/0"), "<i8")[1])
    assert row in [problem.row for problem in verify(copy)]
    assert {problem.row for problem in verify(copy)} <= {None, row}
    store = open_store(copy)
    read = {"mask": store.mask, "background": store.background_jpeg}.get(blob) or getattr(store, blob)
    with pytest.raises(CorruptStore, match=rf"part-00002: {blob} of row {row}") as caught:
        read(row)
    assert blob == "key" or row_of(row).key in str(caught.value)
    assert store.key(10) == row_of(10).key
    np.testing.assert_array_equal(store.mask(10), mask_of(10))


@pytest.mark.parametrize("name", ["mask/c/0", "mask_offsets/c/0", "mask_crc32c/c/0", "height/c/0"])
def test_an_array_that_is_damaged_is_not_read(name: str, copy: Path) -> None:
    part = copy / "parts/part-00000"
    flip_bit(part, name, len(array_bytes(part, name)) // 2)
    assert_not_read(copy)


@pytest.mark.parametrize("name", ["arrays.zip", "part.json"])
@pytest.mark.parametrize("change", ["cut", "remove"])
def test_reading_never_returns_what_is_damaged(name: str, change: str, copy: Path) -> None:
    file = copy / "parts/part-00000" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 4])
    if change == "remove":
        file.unlink()
    assert_not_read(copy)


def assert_not_read(copy: Path) -> None:
    refused, store = 0, open_store(copy)
    for row in range(3):
        try:
            np.testing.assert_array_equal(store.mask(row), mask_of(row))
        except CorruptStore as error:
            refused += 1
            assert "part-00000" in str(error)  # noqa: PT017
    assert refused >= 1
    np.testing.assert_array_equal(store.mask(4), mask_of(4))


def test_quick_verification_sees_sizes_and_strangers(copy: Path) -> None:
    assert verify(copy, full=False) == []
    shutil.rmtree(copy / "parts/part-00002")
    (copy / "parts/part-00000/arrays.zip").write_bytes(b"short")
    (copy / "parts/part-00001/arrays.zip").unlink()
    (copy / "stranger").write_bytes(b"")
    (copy / "parts/part-00001/stranger").write_bytes(b"")
    text = "\n".join(map(str, verify(copy, full=False)))
    for expected in (
        "part-00002: the part is missing",
        "part-00000: arrays.zip has 5 bytes",
        "part-00001: arrays.zip is missing",
        "part-00001: stranger does not belong",
        "stranger does not belong to the store",
    ):
        assert expected in text


def test_swapped_parts_are_named(copy: Path) -> None:
    for source, place in (("part-00000", "aside"), ("part-00001", "part-00000"), ("aside", "part-00001")):
        (copy / "parts" / source).rename(copy / "parts" / place)
    for full in (True, False):
        assert {problem.part for problem in verify(copy, full=full)} == {0, 1}
        assert "damaged, or of another part" in str(verify(copy, full=full)[0])
    with pytest.raises(CorruptStore, match="part-00000"):
        open_store(copy).mask(0)


@pytest.mark.parametrize(
    ("old", "new", "part", "what"),
    [
        ('"ok":8', '"ok":9', None, "totals.status.ok: 9 here, 8 there"),
        ('"rows":4', '"rows":5', None, "its list of parts"),
        ('"identity":', '"identity" :', None, "the way it is written"),
        ('"mask_polarity":"1', '"mask_polarity":"0', None, "does not match"),
        ('"num_rows":11', '"num_rows":12', None, "does not match"),
        (
            '"name":"part-00001","receipt_sha256":"',
            '"name":"part-00001","receipt_sha256":"0',
            1,
            "part.json does not match",
        ),
    ],
)
@pytest.mark.parametrize("full", [True, False])
def test_a_manifest_edited_by_hand_is_found(
    old: str, new: str, part: int | None, what: str, full: bool, copy: Path
) -> None:
    manifest = copy / "MANIFEST.json"
    assert manifest.read_text().count(old) >= 1
    manifest.write_text(manifest.read_text().replace(old, new, 1))
    found = verify(copy, full=full)
    assert part in {problem.part for problem in found}
    assert what in "\n".join(map(str, found))


def test_an_identity_edited_everywhere_is_found_by_its_digest(copy: Path) -> None:
    for file in (copy / "zarr.json", copy / "MANIFEST.json"):
        file.write_text(file.read_text().replace('"threshold":"0.9"', '"threshold":"0.5"'))
    assert "the identity does not have the digest" in str(verify(copy, full=False)[0])


def test_a_damaged_manifest_does_not_hide_damaged_parts(copy: Path) -> None:
    (copy / "MANIFEST.json").write_bytes((copy / "MANIFEST.json").read_bytes()[:-30])
    (copy / "parts/part-00001/part.json").unlink()
    (copy / "parts/part-00002/arrays.zip").write_bytes(b"short")
    assert {problem.part for problem in verify(copy, full=False)} == {None, 1, 2}


def test_a_receipt_edited_in_a_half_built_store_is_found(copy: Path) -> None:
    (copy / "MANIFEST.json").unlink()
    receipt = copy / "parts/part-00001/part.json"
    for old, new, what in (('"ok":3', '"ok":4', "miscounts"), ('"first_row":4', '"first_row":0', "of another store")):
        text = receipt.read_text()
        receipt.write_text(text.replace(old, new))
        assert [problem.part for problem in verify(copy, allow_partial=True)] == [1]
        assert what in str(verify(copy, allow_partial=True)[0])
        receipt.write_text(text)


def test_an_extra_folder_is_found(copy: Path) -> None:
    (copy / "parts/part-00001/mask").mkdir()
    assert [str(problem) for problem in verify(copy, full=False)] == ["part-00001: mask does not belong to the part"]


def test_rows_that_contradict_themselves_are_found(tmp_path: Path) -> None:
    rows = [row_of(row) for row in range(4)]
    rows[0] = replace(rows[0], mask_packed=np.zeros_like(rows[0].mask_packed))
    rows[1] = replace(rows[1], status=Status.NO_FOREGROUND)
    rows[2] = replace(rows[2], status=Status.ALL_FOREGROUND)
    open_for_build(tmp_path / "s", IDENTITY, 4, 4)
    write_part(tmp_path / "s", 0, rows)
    finish(tmp_path / "s")
    assert [problem.row for problem in verify(tmp_path / "s")] == [0, 1, 2]


def test_a_part_removed_for_repair_is_built_again(copy: Path, path: Path) -> None:
    shutil.rmtree(copy / "parts/part-00001")
    (copy / "MANIFEST.json").unlink()
    assert missing_parts(copy) == [1]
    assert tree(small_store(copy)) == tree(path)


# ----------------------------------------------------------------------------------------- processes, threads, racing


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_other_processes_read_a_store_opened_here(method: str, path: Path) -> None:
    store = open_store(path)
    expected = digest_of_all(store)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=digest_of_all, args=(store, queue)) for _ in range(2)]
    for child in children:
        child.start()
    assert [queue.get(timeout=60) for _ in children] == [expected] * 2
    for child in children:
        child.join(timeout=60)


def test_threads_read_a_store_while_it_opens_its_parts(path: Path) -> None:
    expected, store, got = digest_of_all(open_store(path)), open_store(path), []
    threads = [threading.Thread(target=lambda: got.append(digest_of_all(store))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [expected] * 8


def test_a_pickled_store_refuses_another_one_in_its_place(copy: Path) -> None:
    pickled = pickle.dumps(open_store(copy))
    assert pickle.loads(pickled).key(1) == row_of(1).key
    shutil.rmtree(copy)
    open_for_build(copy, {**IDENTITY, "threshold": 0.1}, 1, 1)
    write_part(copy, 0, [row_of(0)])
    finish(copy)
    with pytest.raises(CorruptStore, match="no longer the store"):
        pickle.loads(pickled)


def test_more_parts_than_open_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (0, 0))
    store = open_store(path)
    assert store._map_blob.cache_info().maxsize == 16
    assert store._map_blob.__wrapped__ is map_file


def test_racing_builders_agree(path: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(3), context.Queue()
    target = tmp_path / "raced.zarr"
    builders = [context.Process(target=race, args=(target, barrier, queue)) for _ in range(3)]
    for builder in builders:
        builder.start()
    assert {queue.get(timeout=60) for _ in builders} == {open_store(path).store_id}
    for builder in builders:
        builder.join(timeout=60)
    assert tree(target) == tree(path)


def test_a_builder_whose_stage_was_swept_finds_its_part(path: Path, tmp_path: Path, monkeypatch) -> None:
    target = tmp_path / "swept.zarr"
    write_parts(target, [0])
    rename = os.rename

    def rename_late(source: Path, place: Path) -> None:
        if "part-00001" in str(place):
            monkeypatch.setattr(os, "rename", rename)
            small_store(target)  # another builder writes the part, finishes, and sweeps the staging folder
        rename(source, place)

    monkeypatch.setattr(os, "rename", rename_late)
    assert write_part(target, 1, [row_of(row) for row in range(4, 8)])["num_rows"] == 4
    assert tree(target) == tree(path)


# ---------------------------------------------------------------------------------------------------------- identity


def test_canonical_json() -> None:
    assert canonical_json({"b": (1, None, True), "a": {"x": 0.1 + 0.2, "n": "\u00e4"}}) == (
        b'{"a":{"n":"\\u00e4","x":"0.30000000000000004"},"b":[1,null,true]}\n'
    )
    assert identity_digest({"a": 1, "b": 2}) == identity_digest({"b": 2, "a": 1})
    assert identity_digest({"a": 1}) != identity_digest({"a": 1.0})
    with pytest.raises(TypeError, match="has no place in an identity"):
        canonical_json({"a": Path("x")})


def test_differing_fields() -> None:
    assert differing_fields({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}, "d": 4}) == [
        "b.c: 2 here, 3 there",
        "d: 'absent' here, 4 there",
    ]
