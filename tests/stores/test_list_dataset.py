"""The data set `list`: what a list may say, what it may not, and what becomes of it."""

import csv
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backdrop.errors import UserError
from backdrop.stores.datasets import open_index
from backdrop.stores.indexes.dataset_index import DatasetIndex

NAME = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12).filter(
    lambda text: "/" not in text and text not in (".", "..") and text.lower() != "path"
)


def opened(folder: Path, text: str | bytes, name: str = "names.csv") -> DatasetIndex:
    """The images of the folder that a list in it names."""
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_index(f"list:{file}", root=folder / "data")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, key in enumerate(("b.jpg", "a/c.jpg", "a b.jpg")):
        (tmp_path / "data" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / key).write_bytes(b"x" * (number + 1))
    (tmp_path / "outside.jpg").write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text", "labels", "class_names"),
    [
        ("n.csv", "path,label\nb.jpg,dog\na/c.jpg,cat\n", [0, 1], ("cat", "dog")),
        ("n.csv", "Path,Label\r\n\r\nb.jpg,dog\r\n./a//c.jpg,cat", [0, 1], ("cat", "dog")),
        ("n.csv", "\ufeffb.jpg,7\na/c.jpg,3\n", [3, 7], ()),
        ("n.csv", "b.jpg,\na/c.jpg,3\n", [3, -1], ()),
        ("n.csv", "b.jpg,3\na/c.jpg,three\n", [1, 0], ("3", "three")),
        ("n.csv", 'path\nb.jpg\n"a/c.jpg"\n', [-1, -1], ()),
        ("n.txt", "b.jpg\na/c.jpg\n", [-1, -1], ()),
        ("n.txt", "b.jpg\tdog, big\na/c.jpg\tcat\n", [0, 1], ("cat", "dog, big")),
    ],
)
def test_what_a_list_may_say(folder: Path, name: str, text: str, labels: list[int], class_names: tuple) -> None:
    index = opened(folder, text, name)
    assert index.keys == ("a/c.jpg", "b.jpg")
    assert index.sizes_bytes.tolist() == [2, 1]
    assert (index.labels.tolist(), index.class_names) == (labels, class_names)
    assert index.read(1) == b"x"


def test_a_text_has_paths_with_blanks_and_commas(folder: Path) -> None:
    (folder / "data" / "d,e.jpg").write_bytes(b"x")
    assert opened(folder, "a b.jpg\nd,e.jpg\n", "n.txt").keys == ("a b.jpg", "d,e.jpg")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no image"),
        ("path,label\n\n", "names no image"),
        ("b.jpg\nb.jpg\n", "line 2 .* names b.jpg a second time"),
        ("b.jpg\n./b.jpg\n", "line 2 .* names b.jpg a second time"),
        ("../outside.jpg\n", "line 1 .*is no path below the folder"),
        ("a/../../outside.jpg\n", "is no path below the folder"),
        ("/etc/hosts\n", "is no path below the folder"),
        ("b.jpg,1\n,2\n", "line 2 .*'' is no path"),
        ("b.jpg,1\na/c.jpg\n", "line 2 .*has 1 columns, its first 2"),
        ("path\nb.jpg,1\n", "line 2 .*has 2 columns, its first 1"),
        ("b.jpg,1,2\n", "has 3 columns.*Expected: a path"),
        ("b.jpg,-1\n", "label -1; allowed: 0 to"),
        ("b.jpg,2147483648\n", "label 2147483648"),
        ("b.jpg," + "9" * 5000 + "\n", "allowed: 0 to"),
        ("missing.jpg\n", "missing.jpg does not exist, but the list .*--root"),
        ("a\n", "a is not a file"),
        ('"b.jpg\n', "is no text in UTF-8 of that form"),
        (b"b\xff.jpg\n", "is no text in UTF-8"),
        (b"b.jpg\0\n", "is no"),
    ],
)
def test_what_a_list_may_not_say(folder: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(UserError, match=words):
        opened(folder, text)


def test_a_list_that_cannot_be_read(folder: Path) -> None:
    for name, words in (("nowhere.csv", "cannot be read: No such file"), ("data", "is no plain file")):
        with pytest.raises(UserError, match=words):
            open_index(f"list:{folder / name}", root=folder / "data")


@given(rows=st.dictionaries(NAME, NAME, min_size=1, max_size=6), order=st.randoms(use_true_random=False))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
def test_the_order_of_the_lines_says_nothing(tmp_path_factory, rows: dict[str, str], order) -> None:
    folder = tmp_path_factory.mktemp("list")
    (folder / "data").mkdir()
    rows = {f"{key}.jpg": label for key, label in rows.items()}
    indexes = []
    for lines in (list(rows.items()), order.sample(list(rows.items()), len(rows))):
        for key in rows:
            (folder / "data" / key).write_bytes(b"x")
        with (folder / "names.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "label"), *lines])
        indexes.append(open_index(f"list:{folder / 'names.csv'}", root=folder / "data"))
    index = indexes[0]
    assert indexes[1].digest == index.digest
    assert list(index.keys) == sorted(rows)
    if index.class_names:
        assert [index.class_names[label] for label in index.labels] == [rows[key] for key in index.keys]
    else:
        assert index.labels.tolist() == [int(rows[key]) for key in index.keys]
