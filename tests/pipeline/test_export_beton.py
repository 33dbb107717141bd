"""Scenes and .beton files: what goes in comes out, and what is half written or foreign is refused."""

import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backdrop.errors import CorruptStore, UserError
from backdrop.pipeline.beton import scene
from backdrop.pipeline.beton import scene_kernels as kernels
from backdrop.pipeline.beton import writer as export
from backdrop.pipeline.beton.hashed_images import HashedImages
from backdrop.pipeline.beton.reader import BetonSettings, read_blob, read_records, read_sidecar, sidecar_path
from backdrop.pipeline.beton.table_reader import has_mask
from backdrop.pipeline.beton.writer import export_beton
from backdrop.stores.datasets import open_index
from backdrop.stores.format.reader import Store
from backdrop.stores.format.schema import Status
from backdrop.stores.images.image_codec import decode_rgb, jpeg_header
from backdrop.stores.indexes.dataset_index import DatasetIndex
from tests.material import small_scenes

MAX_SIDE_PX = 200


@pytest.fixture(scope="module")
def store(built: tuple[Store, DatasetIndex]) -> Store:
    return built[0]


@pytest.fixture(scope="module")
def beton(built: tuple[Store, DatasetIndex], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_beton(*built, tmp_path_factory.mktemp("beton") / "small.beton", max_side_px=MAX_SIDE_PX)


def row_of(index: DatasetIndex, number: int) -> int:
    return next(row for row, key in enumerate(index.keys) if f"{number:03d}." in key)


masks = st.builds(
    lambda shape, seed, density: (np.random.default_rng(seed).random(shape) < density).astype(np.uint8),
    st.tuples(st.integers(1, 40), st.integers(1, 150)), st.integers(0, 10_000), st.sampled_from([0, 0.1, 0.5, 0.95, 1]),
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(mask_HW=masks)
def test_runs_hold_exactly_the_mask(mask_HW: np.ndarray) -> None:
    packed = np.packbits(mask_HW, axis=1)
    runs = scene.encode_runs(packed, mask_HW.shape[1])
    assert runs.dtype == np.uint32
    assert (scene.decode_runs(runs, *mask_HW.shape) == packed).all()
    assert len(runs) <= 2 * mask_HW.size


def test_runs_of_a_mask_by_hand() -> None:
    mask_HW = np.zeros((2, 70), np.uint8)
    mask_HW[0, 3:5] = mask_HW[0, 69] = mask_HW[1, :2] = 1
    # Rows of 70 pixels take 128 bits.
    assert scene.encode_runs(np.packbits(mask_HW, axis=1), 70).tolist() == [3, 5, 69, 70, 128, 130]


def test_records_say_how_large_foregrounds_are(beton: Path) -> None:
    records, file_bytes = read_records(beton), np.memmap(beton, np.uint8, mode="r")
    assert records["foreground_pixels"].max() > 0
    for record in records:
        runs = np.frombuffer(read_blob(file_bytes, record, "mask"), np.uint32).astype(np.int64)
        assert record["foreground_pixels"] == (runs[1::2] - runs[::2]).sum()


@pytest.mark.parametrize("runs", [[0, 200], [5, 5], [9, 4], [0, 4, 3, 6], [1]])
def test_runs_that_are_no_mask_are_refused(runs: list[int]) -> None:
    with pytest.raises(CorruptStore):
        scene.decode_runs(np.array(runs), 2, 30)
    words = np.zeros(2, np.uint64)
    assert not kernels.expand_runs.py_func(np.array(runs, np.uint32), words)


def test_compiled_and_plain_expansion_agree() -> None:
    runs = np.array([0, 3, 60, 70, 127, 300], np.uint32)
    compiled, plain = np.ones(5, np.uint64), np.ones(5, np.uint64)
    assert kernels.expand_runs(runs, compiled)
    assert kernels.expand_runs.py_func(runs, plain)
    assert (compiled == plain).all()


# Of the XXH64 specification's reference implementation, seed 0.
@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", 0xEF46DB3751D8E999), (b"a", 0xD24EC4F1A98C6E5B), (b"abc", 0x44BC2CF5AD770999),
     (b"Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1)],
)  # fmt: skip
def test_checksum_is_xxh64(data: bytes, expected: int) -> None:
    assert scene.checksum(data) == expected


@settings(deadline=None, max_examples=30)
@given(data=st.binary(min_size=1, max_size=200), at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_every_flipped_bit_changes_the_checksum(data: bytes, at: int, bit: int) -> None:
    changed = bytearray(data)
    changed[at % len(data)] ^= 1 << bit
    assert scene.checksum(bytes(changed)) != scene.checksum(data)


@pytest.mark.parametrize("size", [(3, 5), (640, 480), (1, 2000), (513, 512), (2000, 3)])
def test_shrunk_sizes_keep_the_aspect(size: tuple[int, int]) -> None:
    height, width = scene.shrunk_size(size, 512)
    assert max(height, width) == min(max(size), 512)
    assert abs(height - size[0] * min(1, 512 / max(size))) <= 1
    assert abs(width - size[1] * min(1, 512 / max(size))) <= 1


def test_masks_shrink_by_nearest_centre() -> None:
    mask_HW = np.array([[0, 0, 0, 1, 1, 1]] * 3 + [[1, 1, 1, 0, 0, 0]] * 3, np.uint8)
    small = scene.resize_mask(np.packbits(mask_HW, axis=1), (6, 6), (2, 2))
    assert np.unpackbits(small, axis=1, count=2).tolist() == [[0, 1], [1, 0]]


def test_plain_jpegs_are_kept_byte_for_byte_and_others_encoded_again(
    built: tuple[Store, DatasetIndex], store: Store
) -> None:
    index, images = built[1], HashedImages(store=store, root=built[1].root)
    encoded_again = {small_scenes.ROTATED, small_scenes.PROGRESSIVE, small_scenes.LARGE, small_scenes.PNG}
    for number in range(small_scenes.NUM_IMAGES):
        row = row_of(index, number)
        made = scene.scene_of_row(images, row, max_side_px=MAX_SIDE_PX, jpeg_quality=90)
        if number in (small_scenes.NO_MASK, small_scenes.DAMAGED):
            assert (made.height, made.image_blob) == (0, b"")
            continue
        assert (made.image_blob == index.read(row)) == (number not in encoded_again), number
        pixels = decode_rgb(made.image_blob)
        assert pixels.shape[:2] == (made.height, made.width)
        assert made.mask_packed.shape == (made.height, (made.width + 7) // 8)
        if number != small_scenes.LARGE:
            assert np.abs(pixels.astype(int) - decode_rgb(index.read(row))).mean() < 4
            assert (made.mask_packed == store.mask_packed(row)).all()
    assert made.height <= MAX_SIDE_PX


def test_the_file_holds_the_store(beton: Path, built: tuple[Store, DatasetIndex], store: Store) -> None:
    records, file_bytes = read_records(beton), np.fromfile(beton, np.uint8)
    images = HashedImages(store=store, root=built[1].root)
    assert len(records) == store.num_rows
    assert (records["row"] == np.arange(store.num_rows)).all()
    assert (records["label"] == store.label).all()
    assert (records["status"] == store.status).all()
    for row, record in enumerate(records):
        made = scene.scene_of_row(images, row, **BetonSettings(max_side_px=MAX_SIDE_PX).of_scenes)
        assert read_blob(file_bytes, record, "key").decode() == store.key(row)
        assert read_blob(file_bytes, record, "image") == made.image_blob
        assert read_blob(file_bytes, record, "background") == made.background_blob
        if Status(int(store.status[row])).has_mask:
            runs = np.frombuffer(read_blob(file_bytes, record, "mask"), np.uint32)
            assert (scene.decode_runs(runs, made.height, made.width) == made.mask_packed).all()
    assert (~has_mask(records)).sum() == 2
    sidecar = read_sidecar(beton)
    assert sidecar["store_id"] == store.store_id
    assert sidecar["num_rows"] == store.num_rows


def test_an_export_is_kept_replaced_or_refused(
    beton: Path, built: tuple[Store, DatasetIndex], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / beton.name
    for path in (beton, sidecar_path(beton)):
        shutil.copy(path, tmp_path / path.name)

    def refuse(*args: object) -> None:
        raise AssertionError("an existing file was written again")

    with monkeypatch.context() as patch:
        patch.setattr(export, "write_file", refuse)
        assert export_beton(*built, copy, max_side_px=MAX_SIDE_PX) == copy
        with pytest.raises(UserError, match="other settings"):
            export_beton(*built, copy, max_side_px=64)
    copy.write_bytes(copy.read_bytes()[:-100])
    monkeypatch.setattr(export, "num_cores", lambda: 3)
    export_beton(*built, copy, max_side_px=MAX_SIDE_PX)
    assert copy.read_bytes() == beton.read_bytes(), "the same bytes at any number of threads"


@pytest.mark.parametrize("damage", ["no file", "no sidecar", "short", "not json", "another format"])
def test_incomplete_files_are_not_opened(beton: Path, tmp_path: Path, damage: str) -> None:
    copy, sidecar = tmp_path / beton.name, sidecar_path(tmp_path / beton.name)
    content = json.loads(sidecar_path(beton).read_text())
    if damage != "no file":
        copy.write_bytes(beton.read_bytes()[: -50 if damage == "short" else None])
    if damage == "another format":
        content["format_version"] = 99
    if damage != "no sidecar":
        sidecar.write_text("{" if damage == "not json" else json.dumps(content))
    with pytest.raises(UserError, match="export"):
        read_sidecar(copy)


def test_a_changed_image_is_named(built: tuple[Store, DatasetIndex], tmp_path: Path) -> None:
    store, index = built
    images = tmp_path / "images"
    shutil.copytree(index.root, images)
    changed = open_index("folder", root=images)
    path = changed.path(4)
    data = bytearray(path.read_bytes())
    data[-10] ^= 1  # same size: the index cannot tell
    path.write_bytes(bytes(data))
    out = tmp_path / "x.beton"
    with pytest.raises(UserError, match=rf"row 4, {changed.keys[4]}: the image file is not the one"):
        export_beton(store, changed, out)
    assert not out.exists()
    with pytest.raises(UserError, match="there is no file"):
        read_sidecar(out)


def test_another_folder_is_refused(built: tuple[Store, DatasetIndex], tmp_path: Path) -> None:
    other = replace(
        built[1], keys=built[1].keys[:-1], labels=built[1].labels[:-1], sizes_bytes=built[1].sizes_bytes[:-1]
    )
    with pytest.raises(UserError, match="not those the store"):
        export_beton(built[0], other, tmp_path / "x.beton")


@pytest.mark.parametrize("setting", [{"max_side_px": 8}, {"settings": BetonSettings(jpeg_quality=100)}])
def test_settings_out_of_range_are_refused(built: tuple[Store, DatasetIndex], tmp_path: Path, setting: dict) -> None:
    with pytest.raises(UserError, match=r"must be in \["):
        export_beton(*built, tmp_path / "x.beton", **setting)


# --- what is read before a blob is believed --------------------------------------------------------------------------


def jpegs() -> list[bytes]:
    """Of several sizes and kinds: with EXIF, progressive, grey, with fill bytes before a marker."""
    made = []
    for size, options in (((1, 1), {}), ((5, 300), {"progressive": True}), ((700, 3), {"exif": Image.Exif()})):
        for mode in ("RGB", "L"):
            out = io.BytesIO()
            Image.new(mode, size[::-1]).save(out, "JPEG", **options)
            made.append(out.getvalue())
    plain = made[0]
    return [*made, plain[:2] + b"\xff\xff" + plain[2:], plain[:2] + b"\xff\xd0\xff\x01" + plain[2:]]


def test_sizes_of_jpegs_are_those_in_their_frame_header() -> None:
    for data in jpegs():
        header = jpeg_header(data) if b"\xff\xd0\xff\x01" not in data else jpeg_header(jpegs()[0])
        assert header is not None
        for size_of in (kernels.jpeg_size, kernels.jpeg_size.py_func):
            assert size_of(np.frombuffer(data, np.uint8)) == (header.height, header.width)


@settings(deadline=None, max_examples=60)
@given(data=st.binary(max_size=60), start=st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x00"]))
def test_sizes_of_anything_are_read_within_its_bytes(data: bytes, start: bytes) -> None:
    content = np.frombuffer(start + data, np.uint8)
    assert kernels.jpeg_size(content) == kernels.jpeg_size.py_func(content)
    for length in range(len(start + data)):
        assert kernels.jpeg_size(content[:length]) in ((0, 0), kernels.jpeg_size(content))


@pytest.mark.parametrize("width", [1, 63, 64, 65, 128, 130])
def test_only_bits_beyond_the_width_are_padding(width: int) -> None:
    num_words = (width + 63) // 64
    for bit in range(64 * num_words):
        words = np.zeros((3, num_words), np.uint64)
        words[1, bit // 64] = np.uint64(1) << np.uint64(63 - bit % 64)
        for is_within in (kernels.is_within, kernels.is_within.py_func):
            assert is_within(words, width) == (bit < width)


@pytest.mark.parametrize("is_outside", [False, True])
def test_a_blob_of_wrong_bytes_is_not_handed_over(beton: Path, is_outside: bool) -> None:
    records, file_bytes = read_records(beton), np.fromfile(beton, np.uint8)
    record = records[4].copy()
    assert read_blob(file_bytes, record, "key")
    if is_outside:
        record["key_ptr"] = file_bytes.size - 1
    else:
        file_bytes[int(record["key_ptr"])] ^= 1
    with pytest.raises(CorruptStore, match="row 4: the bytes of its key"):
        read_blob(file_bytes, record, "key")


def test_a_key_that_is_no_text_goes_into_its_record_as_its_bytes() -> None:
    nothing = np.zeros((0, 0), np.uint8)
    of_row = scene.Scene(
        row=0, key=os.fsdecode(b"b\xff.jpg"), label=0, status=Status.DECODE_ERROR, height=0, width=0, image_blob=b"",
        mask_packed=nothing, background_blob=b"", background_height=0, background_width=0,
    )  # fmt: skip
    assert scene.scene_blobs(of_row)["key"] == b"b\xff.jpg"
