"""Damaged and hostile .beton files: right data or an error that names the file or the row; never a crash, never a hang.

One child process reads file after file, so that a crash is seen as its death. Two kinds of damage: as disks leave it,
which must be noticed wherever it changes what is read; and "sealed", with a sidecar whose checksums fit, which only a
hand can make: then nothing but a clean answer is asked.
"""

import json
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.pipeline.beton.ffcv_layout import FIELD_DTYPE, HEADER_DTYPE
from backdrop.pipeline.beton.reader import read_records, sidecar_path
from backdrop.pipeline.beton.scene import BLOBS, SCENE_DTYPE
from backdrop.pipeline.beton.table_reader import TABLE_START
from backdrop.pipeline.beton.writer import export_beton
from backdrop.stores.format.reader import open_store
from tests.material import small_scenes
from tests.material.broken_betons import copy_of, seal

TIMEOUT_S = 60  # a hang is for ever; a busy machine is not
STARTS_WITHIN_S = 120  # imports, and kernels where numba's cache is cold


@dataclass(frozen=True)
class Change:
    """Bytes written over those at `at`; the file cut to `length`; whether the sidecar is made to fit."""

    at: int = 0
    data: bytes = b""
    length: int | None = None
    is_sealed: bool = False


class Child:
    """Reads the file again and again."""

    def __init__(self, beton: Path) -> None:
        self.beton = beton
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.material.loader_programs", "read_many", str(beton)],
            cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.sound = {geometry: self.read(geometry, STARTS_WITHIN_S) for geometry in ("host", "device")}
        assert all(answer.startswith("read ") for answer in self.sound.values()), self.sound

    def read(self, geometry: str, timeout_s: float = TIMEOUT_S) -> str:
        """Its answer; AssertionError where it died or hangs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(geometry + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        assert ready, "the reader hangs"
        answer = self._process.stdout.readline().rstrip("\n")
        assert answer, f"the reader died with exit code {self._process.wait()}"
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, index = small_scenes.build(tmp_path_factory.mktemp("scenes"))
    return export_beton(open_store(path), index, tmp_path_factory.mktemp("beton") / "x.beton", max_side_px=150)


@pytest.fixture(scope="module")
def children() -> Iterator[list[Child]]:
    running: list[Child] = []
    yield running
    for child in running:
        child.end()


@pytest.fixture
def child(sound: Path, children: list[Child], tmp_path_factory: pytest.TempPathFactory) -> Child:
    """One that lives; what killed the one before has failed its test already."""
    if not children or children[-1]._process.poll() is not None:
        children.append(Child(copy_of(sound, tmp_path_factory.mktemp("fuzzed"))))
    return children[-1]


@contextmanager
def changed(beton: Path, sound: Path, changes: list[Change]) -> Iterator[None]:
    """The file with the changes in it, then as it was."""
    original = np.memmap(sound, np.uint8, mode="r")
    try:
        with beton.open("r+b") as file:
            for change in changes:
                file.seek(change.at)
                file.write(change.data)
            for change in changes:
                if change.length is not None:
                    file.truncate(change.length)
        if any(change.is_sealed for change in changes):
            seal(beton)
        yield
    finally:
        with beton.open("r+b") as file:
            for change in changes:
                file.seek(change.at)
                file.write(original[change.at : change.at + max(1, len(change.data))].tobytes())
            if any(change.length is not None for change in changes) or beton.stat().st_size != original.size:
                shutil.copyfile(sound, beton)
        shutil.copyfile(sidecar_path(sound), sidecar_path(beton))


def assert_answers_well(child: Child, *, may_differ: bool, geometries: tuple[str, ...] = ("host", "device")) -> None:
    for geometry in geometries:
        answer = child.read(geometry)
        kind, _, rest = answer.partition(" ")
        assert kind in ("read", "refused"), answer
        if kind == "refused":
            assert child.beton.name in rest or re.search(r"row \d+[,:] ", rest) or "rows over" in rest, answer
        elif not may_differ:
            assert answer == child.sound[geometry], "damage went unnoticed"


def check(child: Child, sound: Path, changes: list[Change]) -> None:
    is_sealed = any(change.is_sealed for change in changes)
    with changed(child.beton, sound, changes):
        assert_answers_well(child, may_differ=is_sealed)


# --- fixed lists -----------------------------------------------------------------------------------------------------


def number(value: int, dtype: np.dtype) -> bytes:
    return (value % (1 << (8 * dtype.itemsize))).to_bytes(dtype.itemsize, "little")


def nasty_headers() -> list[tuple[int, bytes]]:
    assert HEADER_DTYPE.fields is not None
    values = (0, 1, 2, 21, 23, 255, -1, 1 << 31, 1 << 32, 1 << 62, 1 << 63, (1 << 63) - 1, (1 << 64) // 104)
    header = [
        (offset, number(value, dtype)) for dtype, offset in HEADER_DTYPE.fields.values() for value in values
    ]  # fmt: skip
    assert FIELD_DTYPE.fields is not None
    start, name = HEADER_DTYPE.itemsize, FIELD_DTYPE.fields["name"][1]
    field = [(start, bytes([kind])) for kind in (*range(9), 254)]
    field += [(start + name, text) for text in (b"\0", b"scenE", b"\xff" * 16, b"scene\0hidden", b"s" * 16)]
    arguments = FIELD_DTYPE.fields["arguments"][1]
    return header + field + [(start + arguments, b"\xff" * 64)]


def nasty_records(sound: Path) -> list[tuple[int, bytes]]:
    """Extreme values in every field of an ordinary row and of one without a mask."""
    assert SCENE_DTYPE.fields is not None
    size = sound.stat().st_size
    values = (0, 1, 2, 3, 7, 150, 151, 4096, 4097, -1, -2, -8, 1 << 15, 1 << 31, (1 << 31) - 1, 1 << 63, size, size - 8)
    without = int(np.flatnonzero(read_records(sound)["image_bytes"] == 0)[0])
    return [
        (TABLE_START + row * SCENE_DTYPE.itemsize + offset, number(value, dtype))
        for row in (7, without)
        for dtype, offset in SCENE_DTYPE.fields.values()
        for value in values
    ]


@pytest.mark.parametrize(
    ("is_sealed", "step"),
    [(True, 19), pytest.param(False, 1, marks=pytest.mark.slow), pytest.param(True, 1, marks=pytest.mark.slow)],
)
def test_extreme_numbers_are_refused_or_harmless(child: Child, sound: Path, is_sealed: bool, step: int) -> None:
    """By default every nineteenth, which is about one value for each field of either row."""
    for at, data in (nasty_headers() + nasty_records(sound))[::step]:
        check(child, sound, [Change(at, data, is_sealed=is_sealed)])


@pytest.mark.parametrize("is_sealed", [False, True])
def test_files_that_end_early_are_refused(child: Child, sound: Path, is_sealed: bool) -> None:
    records, size = read_records(sound), sound.stat().st_size
    table_end = TABLE_START + len(records) * SCENE_DTYPE.itemsize
    ends = [0, 1, HEADER_DTYPE.itemsize, TABLE_START, table_end - 1, table_end, table_end + 8]
    ends += [int(records["image_ptr"][7]) + 10, int(records["key_ptr"].max()), size - 1]
    for length in ends if is_sealed else ends[::3]:
        check(child, sound, [Change(length=length, is_sealed=is_sealed)])


SIDECARS = [
    b"", b"{", b"[]", b"null", b"5", b'"x"', b"\xff\xfe", b"[" * 100_000, b"{}" * 3, b"0" * 5000, b" " * (2 << 20),
    b'{"format": "backdrop-scenes"}', b'{"format": "backdrop-scenes", "format_version": 2}',
    b'{"format": {}, "format_version": []}', b'{"format": 1e999, "format_version": NaN}',
]  # fmt: skip


def test_sidecars_of_anything_are_refused(child: Child) -> None:
    path = sidecar_path(child.beton)
    content = path.read_text()
    try:
        for data in SIDECARS:
            path.write_bytes(data)
            assert child.read("host").startswith("refused "), data[:60]
        for name, value in (("num_bytes", "8"), ("num_bytes", 1.5), ("num_rows", None), ("table_checksum", 7),
                            ("store_id", None), ("settings", []), ("format_version", 9)):  # fmt: skip
            seal(child.beton, **{name: value})
            assert child.read("host").startswith("refused "), (name, value)
        for name in json.loads(content):
            path.write_text(json.dumps({key: value for key, value in json.loads(content).items() if key != name}))
            assert child.read("host").startswith("refused "), name
    finally:
        path.write_text(content)
    assert child.read("host") == child.sound["host"]


# --- by chance -------------------------------------------------------------------------------------------------------


def regions(sound: Path) -> dict[str, tuple[int, int]]:
    """Where what lies in the file, as half-open bytes."""
    records, size = read_records(sound), sound.stat().st_size
    header = np.fromfile(sound, HEADER_DTYPE, count=1)[0]
    found = {
        "header": (0, HEADER_DTYPE.itemsize),
        "field": (HEADER_DTYPE.itemsize, TABLE_START),
        "records": (TABLE_START, TABLE_START + len(records) * SCENE_DTYPE.itemsize),
        "allocations": (int(header["alloc_table_ptr"]), size),
    }
    for name in BLOBS:
        row = int(np.flatnonzero(records[f"{name}_bytes"])[3])
        start = int(records[f"{name}_ptr"][row])
        found[name] = start, start + int(records[f"{name}_bytes"][row])
    return found


def run_by_chance(child: Child, sound: Path, num: int) -> None:
    where, size = regions(sound), sound.stat().st_size

    @settings(deadline=None, max_examples=num, database=None, derandomize=True)
    @given(
        places=st.lists(
            st.tuples(
                st.sampled_from(sorted(where)), st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=9)
            ), min_size=1, max_size=3,
        ),
        is_sealed=st.booleans(),
    )  # fmt: skip
    def damage(places: list[tuple[str, float, bytes]], is_sealed: bool) -> None:
        changes = []
        for name, place, data in places:
            start, end = where[name]
            at = start + int(place * (end - start))
            changes.append(Change(at, data[: size - at], is_sealed=is_sealed))
        check(child, sound, changes)

    damage()


def test_damage_by_chance_is_noticed_or_harmless(child: Child, sound: Path) -> None:
    run_by_chance(child, sound, 25)


@pytest.mark.slow
def test_much_damage_by_chance_is_noticed_or_harmless(child: Child, sound: Path) -> None:
    run_by_chance(child, sound, 2500)


@pytest.mark.parametrize("num", [15, pytest.param(400, marks=pytest.mark.slow)])
def test_damaged_sidecars_are_refused_or_harmless(child: Child, num: int) -> None:
    path = sidecar_path(child.beton)
    content, rng = path.read_bytes(), np.random.default_rng(4)
    try:
        for _ in range(num):
            data = bytearray(content)
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
            path.write_bytes(data[: rng.integers(len(data))] if rng.random() < 0.1 else data)
            assert_answers_well(child, may_differ=False, geometries=("host",))
    finally:
        path.write_bytes(content)
