"""Lists of images that name what is not there, lead out of their folder, or have no end."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.material.hostile_cells import cells, put_no_plain_file, refused, run_cell

LISTS = {
    "empty": b"",
    "header alone": b"path,label\n",
    "binary": bytes(range(256)),
    "absolute": b"/etc/passwd\n",
    "leads out": b"../../etc/passwd\n",
    "leads out and back": b"../images/1.jpg\n",
    "a folder": b".\n",
    "zero byte": b"1\0.jpg\n",
    "not there": b"2.jpg\n",
    "name that no file can have": b"a" * 300 + b".jpg\n",
    "path that no file can have": b"a/" * 5000 + b"1.jpg\n",
    "field without end": b'"' + b"a" * 200_000,
    "field of many letters": b"a" * 200_000 + b"\n",
    "more columns": b"1.jpg,a,b,c\n",
    "another number of columns": b"1.jpg,a\n1.jpg\n",
    "twice": b"1.jpg\n./1.jpg\n",
    "label of many digits": b"1.jpg," + b"9" * 5000 + b"\n",
    "negative label": b"1.jpg,-5\n",
    "control characters": b"\x1b[2J.jpg\n",
}
COMMANDS = {"build": ["--no-beton"], "plan": ["--plan"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image that a list may name."""
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(tmp_path / "images" / "1.jpg")
    return tmp_path


def words_of(folder: Path, file: Path, more: list[str]) -> list[object]:
    words = ["build-store", "--dataset", f"list:{file}", "--root", folder / "images", "--out", folder / "s.zarr"]
    return [*words, "--detector", "rbd", *more]


@cells(LISTS, COMMANDS, {(given, "plan") for given in LISTS})
def test_a_list_is_refused_before_anything_is_built(given: str, command: str, folder: Path) -> None:
    file = folder / "list.csv"
    file.write_bytes(LISTS[given])
    run_cell(words_of(folder, file, COMMANDS[command]), refused(r"list\.csv"), folder)
    assert not (folder / "s.zarr").exists()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "endless", "folder"])
def test_a_list_that_is_no_plain_file_is_not_waited_for(kind: str, folder: Path) -> None:
    file = folder / "list.csv"
    put_no_plain_file(kind, file)
    run_cell(words_of(folder, file, []), refused(r"list\.csv"), folder)
