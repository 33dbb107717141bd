"""A data set's tree is walked once: what is kept is taken where no folder changed, and walked anew where one did."""

import os
from pathlib import Path
from typing import Any

import pytest

from backdrop.stores.datasets import open_index
from backdrop.stores.indexes import kept_trees
from backdrop.stores.indexes.kept_trees import files_below, walked_anew
from backdrop.trainer.evaluation.data.images import class_folders, open_class_folders, strays_beside

CLASS_OF_FOLDER = {"cat": 3, "cat-tail": 1, "dog": 0}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree that changed long ago, of a size that is kept."""
    monkeypatch.setattr(kept_trees, "KEPT_FROM", 3)
    monkeypatch.setattr(kept_trees, "ARTIFACTS", tmp_path / "artifacts")
    root = tmp_path / "set"
    for name in ("cat/1.jpg", "cat/2.JPEG", "cat-tail/1.png", "dog/1.webp", "dog/notes.txt", "odd/1.jpg", "README"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * len(name))
    (root / "dog" / "nowhere.jpg").symlink_to(root / "absent.jpg")
    (root / "dog" / "deep").mkdir()
    settle(root)
    return root


def settle(root: Path) -> None:
    """Have all folders have changed an hour ago."""
    for folder, _, _ in os.walk(root):
        seconds = os.stat(folder).st_mtime - 3600
        os.utime(folder, (seconds, seconds))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Folders that are walked from here on."""
    walked: list[Any] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: walked.append(folder) or scandir(folder))
    return walked


def test_a_tree_that_did_not_change_is_not_walked_again(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = files_below(tree)
    assert dict(first.files())["cat/2.JPEG"] == len("cat/2.JPEG")
    assert dict(first.files())["dog/nowhere.jpg"] == -1
    assert first.folders == ("", "cat", "cat-tail", "dog", "dog/deep", "odd")
    walked = counted(monkeypatch)
    second = files_below(tree)
    assert not walked
    assert (list(second.files()), second.folders) == (list(first.files()), first.folders)
    with walked_anew():
        files_below(tree)
    assert len(walked) == 6


def test_all_that_lists_a_tree_lists_the_same_from_what_is_kept(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def listed() -> Any:
        images, index = class_folders(tree, CLASS_OF_FOLDER, ""), open_class_folders_of(tree)
        return (
            images.keys, images.label_N.tolist(), images.strays, images.identity,
            index.digest, index.keys, strays_beside(index),
        )  # fmt: skip

    fresh = listed()
    assert fresh[0] == ("cat/1.jpg", "cat/2.JPEG", "cat-tail/1.png", "dog/1.webp", "dog/nowhere.jpg")
    assert fresh[1] == [3, 3, 1, 0, 0]
    assert fresh[2] == ("odd", "dog/deep", "dog/notes.txt")
    walked = counted(monkeypatch)
    assert listed() == fresh
    assert not walked


def open_class_folders_of(tree: Path) -> Any:
    index = open_class_folders(tree)
    assert index.digest == open_index("folder", root=tree).digest
    return index


@pytest.mark.parametrize("change", ["added", "removed", "folder added", "folder renamed"])
def test_a_tree_that_changed_is_walked_anew(change: str, tree: Path) -> None:
    before = set(files_below(tree).names)
    match change:
        case "added":
            (tree / "cat" / "3.jpg").write_bytes(b"3")
        case "removed":
            (tree / "dog" / "1.webp").unlink()
        case "folder added":
            (tree / "cow").mkdir()
            (tree / "cow" / "1.jpg").write_bytes(b"1")
        case _:
            (tree / "cat").rename(tree / "lynx")
    after = set(files_below(tree).names)
    expected = {
        "added": before | {"cat/3.jpg"},
        "removed": before - {"dog/1.webp"},
        "folder added": before | {"cow/1.jpg"},
        "folder renamed": {name.replace("cat/", "lynx/") for name in before},
    }
    assert after == expected[change]


def test_a_tree_that_just_changed_or_is_small_is_not_kept(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "cat" / "3.jpg").write_bytes(b"3")  # and its folder's clock may not have ticked since
    files_below(tree)
    assert not (kept_trees.ARTIFACTS / "indexes").exists() or not list(kept_trees.ARTIFACTS.glob("indexes/*.npz"))
    settle(tree)
    monkeypatch.setattr(kept_trees, "KEPT_FROM", 100)
    files_below(tree)
    assert not list(kept_trees.ARTIFACTS.glob("indexes/*.npz"))


def test_a_damaged_file_of_what_is_kept_is_no_mistake(tree: Path) -> None:
    names = files_below(tree).names
    (kept,) = kept_trees.ARTIFACTS.glob("indexes/*.npz")
    kept.write_bytes(kept.read_bytes()[:-40])
    assert files_below(tree).names == names
