"""Digests of a folder's files are kept: what was not touched is not read again, what was is noticed."""

import hashlib
import os
from pathlib import Path

import pytest

from backdrop.errors import UserError
from backdrop.saliency import kept_digests
from backdrop.saliency.kept_digests import KeptDigests
from backdrop.saliency.mask_folder import MaskFolder
from tests.material import small_scenes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kept_digests, "ARTIFACTS", tmp_path / "artifacts")
    monkeypatch.setattr(kept_digests, "_CLOCK_NS", -(10**12))  # as if all were written long ago
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(5):
        small_scenes.Image.fromarray(small_scenes.mask_of(20 + number, 30, number)).save(masks / f"{number}.png")
    return masks


def digest_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def read_by(call: object, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that a call reads."""
    read: list[str] = []
    original = Path.read_bytes
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda path: (read.append(path.name), original(path))[1])
        call()  # type: ignore[operator]
    return sorted(read)


def test_a_file_is_read_once_and_again_when_it_was_touched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted(folder.iterdir())

    def look() -> None:
        found = KeptDigests(folder).of_files(files)
        assert [row.tobytes() for row in found] == [digest_of(path) for path in files]

    assert read_by(look, monkeypatch) == [path.name for path in files]
    assert read_by(look, monkeypatch) == []
    before = files[2].stat()
    files[2].write_bytes(files[2].read_bytes()[::-1])
    os.utime(files[2], ns=(before.st_atime_ns, before.st_mtime_ns))  # of the same size and time
    assert read_by(look, monkeypatch) == ["2.png"]
    files.pop().unlink()
    assert read_by(look, monkeypatch) == []


def test_a_file_written_a_moment_ago_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_digests, "_CLOCK_NS", 10**12)
    files = sorted(folder.iterdir())
    KeptDigests(folder).of_files(files)
    assert len(read_by(lambda: KeptDigests(folder).of_files(files), monkeypatch)) == 5


def test_a_damaged_table_is_made_anew(folder: Path, tmp_path: Path) -> None:
    files = sorted(folder.iterdir())
    expected = KeptDigests(folder).of_files(files)
    (table,) = (tmp_path / "artifacts").rglob("*.npy")
    table.write_bytes(table.read_bytes()[:90])
    assert (KeptDigests(folder).of_files(files) == expected).all()


def test_a_build_refuses_a_mask_that_was_changed_since_its_identity_was_computed(folder: Path) -> None:
    identity = MaskFolder(folder).identity
    assert MaskFolder(folder).identity == identity
    of_worker = MaskFolder(folder)
    of_worker.hold()
    assert of_worker.grey("1.jpg").shape == (21, 30)
    (folder / "1.png").write_bytes((folder / "2.png").read_bytes())
    assert MaskFolder(folder).grey("1.jpg").shape == (22, 30), "whoever does not build takes what there is"
    with pytest.raises(UserError, match=r"1\.png is another one than when the folder was read"):
        of_worker.grey("1.jpg")
    assert MaskFolder(folder).identity != identity
