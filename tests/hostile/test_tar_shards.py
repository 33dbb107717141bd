"""Tar shards from elsewhere: nothing leaves their folder, no size is believed, every oddity is a sentence or a row."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.material.hostile_cells import Allowed, cells, done, refused, run_cell


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((24, 32, 3), 90, np.uint8)).save(out, "JPEG")
    return out.getvalue()


def member(tar: tarfile.TarFile, name: str, data: bytes = b"", **header: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in header.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(data) if data else None)


def shard(*members: tuple[str, bytes, dict]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data, header in members:
            member(tar, name, data, **header)
        for number in range(30):
            member(tar, f"sound/{number}.jpg", jpeg())
    return out.getvalue()


def says_it_is_larger(num_bytes: int) -> bytes:
    """The last image says that it has more bytes than there are in the file."""
    out = bytearray(shard())
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        last = tar.getmembers()[-1]
    header = last.offset
    out[header + 124 : header + 136] = b"%011o\0" % num_bytes if num_bytes < 8**11 else b"\x80" + num_bytes.to_bytes(11)
    sum_of = sum(out[header : header + 148]) + 8 * 32 + sum(out[header + 156 : header + 512])
    out[header + 148 : header + 156] = b"%06o\0 " % sum_of
    return bytes(out)


PAX = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x.jpg", "GNU.sparse.realsize": str(2**62)}
SHARDS: dict[str, tuple[Callable[[], bytes], Allowed]] = {
    "name that leads out": (lambda: shard(("../../x.jpg", jpeg(), {})), done("31 decode|31")),
    "absolute name": (lambda: shard(("/etc/passwd.jpg", jpeg(), {})), done()),
    "link to a file outside": (
        lambda: shard(("x.jpg", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"})),
        done('"num_rows": 30'),
    ),
    "hard link outside": (
        lambda: shard(("x.jpg", b"", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"})),
        done('"num_rows": 30'),
    ),
    "device": (lambda: shard(("x.jpg", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5})), done(": 30")),
    "pipe": (lambda: shard(("x.jpg", b"", {"type": tarfile.FIFOTYPE})), done('"num_rows": 30')),
    "folder named so": (lambda: shard(("x.jpg", b"", {"type": tarfile.DIRTYPE})), done('"num_rows": 30')),
    "name twice": (lambda: shard(("x.jpg", jpeg(), {}), ("x.jpg", jpeg(), {})), refused("holds x.jpg twice")),
    "empty image": (lambda: shard(("x.jpg", b"", {})), done('"decode-error": 1')),
    "no image": (lambda: shard(("x.jpg", b"<html>", {})), done('"decode-error": 1')),
    "sparse": (lambda: shard(("x.jpg", b"0\n" + bytes(510), {"pax_headers": PAX})), refused(r"0\.tar")),
    "terabytes in the last": (lambda: says_it_is_larger(2**42), refused(r"0\.tar")),
    "more than there is": (lambda: says_it_is_larger(10**6), refused(r"0\.tar")),
    "cut": (lambda: shard()[:-12_000], refused(r"0\.tar")),
    "class of many digits": (
        lambda: shard(("x.jpg", jpeg(), {}), ("x.cls", b"9" * 10_000, {})), refused(r"x\.cls says '9+"),
    ),
    "negative class": (lambda: shard(("x.jpg", jpeg(), {}), ("x.cls", b"-1", {})), refused(r"x\.cls says '-1'")),
    "class of other digits": (
        lambda: shard(("x.jpg", jpeg(), {}), ("x.cls", "٣".encode(), {})), refused(r"x\.cls says"),
    ),
    "control characters": (lambda: shard(("\x1b[2J.jpg", b"no image", {})), done('"decode-error": 1')),
    "zero byte in the name": (lambda: shard(("x\0y.jpg", jpeg(), {})), done()),
    "undecodable name": (lambda: shard(("x\udcff.jpg", jpeg(), {})), done()),
    "long name": (lambda: shard(("x" * 5000 + ".jpg", jpeg(), {})), done()),
    "compressed": (lambda: __import__("gzip").compress(shard()), refused(r"0\.tar .*not compressed")),
    "empty": (lambda: b"", refused("no image found|cannot be read")),
    "zeros": (lambda: bytes(10_240), refused("no image found|cannot be read")),
    "text": (lambda: b"version https://git-lfs.github.com/spec/v1\n", refused(r"0\.tar cannot be read")),
}  # fmt: skip

COMMANDS = {
    "build": ["--json", "--detector", "masks:MASKS", "--no-beton", "--workers", "1"],
    "plan": ["--detector", "masks:MASKS", "--plan"],
    "export": ["--json", "--detector", "masks:MASKS", "--workers", "1"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A mask for every image, under each of the names that they have here."""
    (tmp_path / "tar" / "train").mkdir(parents=True)
    return tmp_path


@cells(SHARDS, COMMANDS, {("class of many digits", "build"), ("terabytes in the last", "build"), ("sparse", "plan")})
def test_a_shard_is_read_where_it_is_or_refused(given: str, command: str, folder: Path) -> None:
    make, allowed = SHARDS[given]
    (folder / "tar" / "train" / "0.tar").write_bytes(make())
    mask_HW = np.zeros((24, 32), np.uint8)
    mask_HW[5:15, 10:20] = 255
    for number in range(30):
        place = folder / "masks" / "0.tar" / "sound" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask_HW).save(place)
    before = sorted(path for path in folder.parent.rglob("*") if path.is_file())
    words = [word.replace("MASKS", str(folder / "masks")) for word in COMMANDS[command]]
    if command == "plan" and allowed.exit_code == 0:
        allowed = done()
    run_cell(
        ["build-store", "--dataset", "tar", "--root", folder / "tar", "--out", folder / "out" / "s.zarr", *words,
         "--json"],
        allowed, folder,
    )  # fmt: skip
    after = sorted(path for path in folder.parent.rglob("*") if path.is_file() and folder / "out" not in path.parents)
    assert after == before
