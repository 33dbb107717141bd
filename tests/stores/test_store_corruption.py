"""Damaged and hostile folders, opened where they lie: verification finds them, the reader returns no wrong pixels."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backdrop.errors import CorruptStore, UserError
from backdrop.stores.format.packed_arrays import ARRAYS
from backdrop.stores.format.provenance import canonical_json
from backdrop.stores.format.reader import open_store
from backdrop.stores.format.schema import MANIFEST, RECEIPT, ROOT_METADATA
from backdrop.stores.format.writer import manifest_bytes, missing_parts
from backdrop.stores.images.image_codec import sha256
from backdrop.stores.maintenance.merge import merge
from backdrop.stores.maintenance.verify import verify
from tests.material.schema_versions import to_schema_1, to_schema_2
from tests.material.small_store import NUM_ROWS, small_store, tree

PART = "parts/part-00001"
FIELDS = ("key", "message", "mask_packed", "saliency", "background_jpeg", "source_sha256")
COLUMNS = ("status", "label", "height", "width", "foreground_fraction", "box", "source_bytes")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("sound") / "toy.zarr")


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copy.zarr"))


@pytest.fixture
def of_schema_1(copy: Path) -> Path:
    """The same store with each array in files of its own, which a hostile hand changes easily."""
    return to_schema_1(copy)


def everything(path: Path) -> dict[tuple[str, int], object]:
    """All that can be read of a store, field and row; what is refused as damaged is left out."""
    found: dict[tuple[str, int], object] = {}
    try:
        store = open_store(path)
    except UserError:
        return found
    for name in COLUMNS:
        for row in range(NUM_ROWS):
            try:
                found[name, row] = getattr(store, name)[row].tolist()
            except CorruptStore:
                continue
    for name in FIELDS:
        for row in range(NUM_ROWS):
            try:
                value = getattr(store, name)(row)
            except CorruptStore:
                continue
            except UserError:
                value = "no mask"
            found[name, row] = (value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value
    return found


def damages(sound: Path) -> st.SearchStrategy[tuple[str, bytes | None]]:
    """A file of the store and what it holds after one piece of damage; None where it is gone."""
    files = sorted(tree(sound).items())
    bits = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7))

    def flipped(data: bytes, at: tuple[float, int]) -> bytes:
        place = int(at[0] * len(data))
        return data[:place] + bytes([data[place] ^ (1 << at[1])]) + data[place + 1 :]

    def damaged(file: tuple[str, bytes]) -> st.SearchStrategy[tuple[str, bytes | None]]:
        name, data = file
        others = [
            there for other, there in files if other.rpartition("/part-")[2][5:] == name.rpartition("/part-")[2][5:]
        ]
        swapped = [there for there in others if there != data] or [data + b"\0"]
        return st.tuples(
            st.just(name),
            st.one_of(
                bits.map(lambda at: flipped(data, at)),
                bits.map(lambda at: flipped(data, at)),
                st.integers(0, len(data) - 1).map(lambda length: data[:length]),
                st.binary(min_size=1, max_size=9).map(lambda more: data + more),
                st.sampled_from(swapped),
                st.none(),
            ),
        )

    return st.sampled_from(files).flatmap(damaged)


def check_damage(copy: Path, was: dict[tuple[str, int], object], name: str, content: bytes | None) -> None:
    file = copy / name
    before = file.read_bytes()
    try:
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        try:
            problems = verify(copy)
        except UserError:  # no store at all any more, half built, or of another schema
            assert name in (ROOT_METADATA, MANIFEST)
        else:
            assert problems
            if name.startswith("parts/part-"):
                assert int(name[11:16]) in {problem.part for problem in problems}
        now = everything(copy)
        assert {field: value for field, value in now.items() if value != was[field]} == {}
    finally:
        file.write_bytes(before)


def damage_test(max_examples: int) -> Callable[[Path, Path], None]:
    def test(sound: Path, copy: Path) -> None:
        was = everything(sound)
        assert len(was) == NUM_ROWS * len((*FIELDS, *COLUMNS))

        @settings(max_examples=max_examples, deadline=None, suppress_health_check=list(HealthCheck))
        @given(damage=damages(sound))
        def any_damage(damage: tuple[str, bytes | None]) -> None:
            check_damage(copy, was, *damage)

        any_damage()
        assert verify(copy) == []

    return test


test_any_damage_is_found_and_nothing_wrong_is_read = damage_test(60)
test_much_damage_is_found_and_nothing_wrong_is_read = pytest.mark.slow(damage_test(3000))


# ------------------------------------------------------------------------------------------------------ hostile stores


def fit(path: Path, change: Callable[[dict], object] = lambda receipt: None) -> None:
    """Make the receipt of the part fit its files, change it, and make the manifest fit it: what a hostile hand does."""
    receipt = json.loads((path / PART / RECEIPT).read_bytes())
    for name, stated in receipt["files"].items():
        file = path / PART / name
        if file.is_file() and file.stat().st_size < 1 << 20:
            content = file.read_bytes()
            stated.update(bytes=len(content), sha256=sha256(content).hex())
    change(receipt)
    (path / PART / RECEIPT).write_bytes(canonical_json(receipt))
    manifest = json.loads((path / MANIFEST).read_bytes())
    manifest["parts"][1]["receipt_sha256"] = sha256((path / PART / RECEIPT).read_bytes()).hex()
    with suppress(UserError):
        manifest = json.loads(manifest_bytes(path))  # with totals that fit
    (path / MANIFEST).write_bytes(canonical_json(manifest))


def refused(path: Path, was: dict[tuple[str, int], object]) -> None:
    """Nothing of the part is read as something else, nothing of it is passed on, and verification tells."""
    now = everything(path)
    assert {field for field, value in now.items() if value != was[field]} == set()
    assert len(now) < len(was)
    assert verify_tells(path)
    with pytest.raises(UserError):
        merge([path], path.parent / "merged.zarr")
    merged = path.parent / "merged.zarr"
    assert not merged.exists() or 1 in missing_parts(merged)


def verify_tells(path: Path) -> bool:
    try:
        return bool(verify(path))
    except UserError:
        return True


def replace_row(path: Path, name: str, at: int, payload: bytes) -> None:
    """Put other bytes in a row's place in the part, with offsets and checksum that fit."""
    chunk, offsets_file, checksums_file = (path / PART / f"{name}{end}" / "c/0" for end in ("", "_offsets", "_crc32c"))
    data, offsets = chunk.read_bytes(), np.fromfile(offsets_file, "<i8")
    chunk.write_bytes(data[: offsets[at]] + payload + data[offsets[at + 1] :])
    offsets[at + 1 :] += len(payload) - (offsets[at + 1] - offsets[at])
    offsets_file.write_bytes(offsets.tobytes())
    checksums = np.fromfile(checksums_file, "<u4")
    checksums[at] = google_crc32c.value(payload)
    checksums_file.write_bytes(checksums.tobytes())


def sparse(path: Path, name: str) -> None:
    with open(path / PART / name, "r+b") as file:
        file.truncate(1 << 40)


def wild_offsets(path: Path) -> None:
    """A row of a terabyte, in a file that has it."""
    offsets = np.fromfile(path / PART / "background_offsets/c/0", "<i8")
    offsets[-1] = 1 << 40
    (path / PART / "background_offsets/c/0").write_bytes(offsets.tobytes())
    sparse(path, "background/c/0")


def column(path: Path, name: str, value: int) -> None:
    file = path / PART / name / "c/0"
    file.write_bytes(np.full(4, value, "|u1" if name == "status" else "<i4").tobytes())


HOSTILE: dict[str, Callable[[Path], object]] = {
    "mask that swells": lambda path: replace_row(path, "mask", 0, zstandard.compress(bytes(64 << 20))),
    "mask that claims a terabyte": lambda path: replace_row(
        path, "mask", 0, b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little") + b"\x01\x00\x00"
    ),
    "soft map that swells": lambda path: replace_row(path, "saliency", 1, zstandard.compress(bytes(64 << 20))),
    "pickled mask": lambda path: replace_row(path, "mask", 0, pickle.dumps(np.zeros((3, 3)))),
    "huge pictures": lambda path: column(path, "height", 2**31 - 1),
    "negative pictures": lambda path: column(path, "width", -8),
    "unknown status": lambda path: column(path, "status", 77),
    "rows of a terabyte": wild_offsets,
    "offsets that go back": lambda path: (path / PART / "mask_offsets/c/0").write_bytes(
        np.array([0, 90, 40, 10, (path / PART / "mask/c/0").stat().st_size], "<i8").tobytes()
    ),
    "column of a terabyte": lambda path: sparse(path, "height/c/0"),
    "checksums of a terabyte": lambda path: sparse(path, "mask_crc32c/c/0"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("is_packed", [False, True])
def test_rows_that_ask_for_too_much(name: str, is_packed: bool, sound: Path, of_schema_1: Path) -> None:
    was, copy = everything(sound), of_schema_1
    HOSTILE[name](copy)
    fit(copy)
    if is_packed and "terabyte" in name and "claims" not in name:
        pytest.skip("no file of a terabyte is packed; the receipt says so in test_receipts_that_make_no_sense")
    if is_packed:
        to_schema_2(copy)
    now = everything(copy)
    changed = {field for field, value in now.items() if value != was[field]}
    assert not [field for field, _ in changed if field not in ("height", "width")]
    assert len(now) < len(was)
    assert verify(copy)


@pytest.mark.parametrize(
    "file", [ROOT_METADATA, MANIFEST, f"{PART}/{RECEIPT}", f"{PART}/{ARRAYS}", f"{PART}/width/c/0", f"{PART}/mask/c/0"]
)
@pytest.mark.parametrize("kind", ["pipe", "terabyte", "folder", "device"])
@pytest.mark.timeout(60)
def test_what_is_no_plain_file_or_has_no_end(file: str, kind: str, sound: Path, copy: Path) -> None:
    """Neither waited for nor read."""
    was, place = everything(sound), (to_schema_1(copy) if "/c/" in file else copy) / file
    if kind == "terabyte":
        with open(place, "r+b") as opened:
            opened.truncate(1 << 40)
    else:
        place.unlink()
        {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda path: path.symlink_to("/dev/zero")}[kind](place)
    refused(copy, was)


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "../../../evil", "mask/../../part-00000/part.json"])
@pytest.mark.parametrize("is_packed", [False, True])
def test_names_that_lead_elsewhere(name: str, is_packed: bool, sound: Path, copy: Path) -> None:
    (copy.parent / "evil").write_bytes(b"x")
    stated = {"bytes": 1, "sha256": sha256(b"x").hex()}
    if is_packed:
        fit(copy, lambda receipt: receipt["arrays"].update({name: {**stated, "offset": 5}}))
    else:
        fit(to_schema_1(copy), lambda receipt: receipt["files"].update({name: stated}))
    assert 1 in {problem.part for problem in verify(copy)}
    before = {path for path in copy.parent.rglob("*") if "merged" not in str(path)}
    with pytest.raises(CorruptStore, match="outside its part"):
        merge([copy], copy.parent / "merged.zarr")
    assert {path for path in copy.parent.rglob("*") if "merged" not in str(path)} == before
    assert everything(copy) == everything(sound)
    manifest = json.loads((copy / MANIFEST).read_bytes())
    manifest["parts"][1]["name"] = name
    (copy / MANIFEST).write_bytes(canonical_json(manifest))
    assert verify(copy)


ABSURD = [
    ("num_rows", 1 << 60), ("num_rows", 0), ("num_rows", -5), ("num_rows", "11"), ("num_rows", True),
    ("num_rows", 11.5), ("num_rows", None), ("part_rows", 0), ("part_rows", 1 << 40), ("part_rows", "4"),
    ("identity", "toy"), ("identity", None), ("identity_sha256", 7), ("schema_version", None), ("schema_version", [1]),
    ("schema", {}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), ABSURD)
def test_absurd_metadata(field: str, value: object, copy: Path) -> None:
    """Written alike into both files that state them."""
    root = json.loads((copy / ROOT_METADATA).read_bytes())
    root["attributes"][field] = value
    (copy / ROOT_METADATA).write_bytes(json.dumps(root).encode())
    manifest = json.loads((copy / MANIFEST).read_bytes())
    manifest[field] = value
    (copy / MANIFEST).write_bytes(json.dumps(manifest).encode())
    for allow_partial in (False, True):
        with pytest.raises(UserError):
            open_store(copy, allow_partial=allow_partial)
    assert verify_tells(copy)


NOT_JSON = (
    b"", b"[]", b"null", b"\x80\x04\x95cposix\nsystem\n.", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000,
    b'{"attributes":[]}', b'{"part":1,"files":[],"status_counts":[],"num_rows":4}', b"\xff\xfe{}",
)  # fmt: skip


@pytest.mark.parametrize("file", [ROOT_METADATA, MANIFEST, f"{PART}/{RECEIPT}"])
def test_metadata_that_are_no_json_of_ours(file: str, sound: Path, copy: Path) -> None:
    """Pickles among them."""
    was = everything(sound)
    for content in NOT_JSON:
        (copy / file).write_bytes(content)
        if file.endswith(RECEIPT):
            manifest = json.loads((copy / MANIFEST).read_bytes())
            manifest["parts"][1]["receipt_sha256"] = sha256(content).hex()
            (copy / MANIFEST).write_bytes(canonical_json(manifest))
        refused(copy, was)


@pytest.mark.parametrize(
    "change",
    [
        lambda receipt: receipt.update(files=[]),
        lambda receipt: receipt.update(num_rows="4"),
        lambda receipt: receipt.update(num_rows=1 << 40),
        lambda receipt: receipt.update(arrays=[]),
        lambda receipt: receipt["files"][ARRAYS].update(bytes="9"),
        lambda receipt: receipt["arrays"]["mask/c/0"].update(bytes="9"),
        lambda receipt: receipt["arrays"]["mask/c/0"].update(bytes=-1),
        lambda receipt: receipt["arrays"]["mask/c/0"].update(bytes=1 << 40),
        lambda receipt: receipt["arrays"]["mask/c/0"].update(sha256=None),
        lambda receipt: receipt["arrays"]["mask/c/0"].update(offset=1 << 40),
        lambda receipt: receipt["arrays"]["mask/c/0"].update(offset=-1),
        lambda receipt: receipt["arrays"]["mask/c/0"].pop("offset"),
        lambda receipt: receipt["arrays"].update({"mask/c/0": 7}),
        lambda receipt: receipt["status_counts"].update(ok="many"),
        lambda receipt: receipt["status_counts"].update(ok=1 << 70),
        lambda receipt: receipt.update(status_counts=None),
    ],
)
def test_receipts_that_make_no_sense(change: Callable[[dict], object], sound: Path, copy: Path) -> None:
    was = everything(sound)
    fit(copy, change)
    refused(copy, was)
