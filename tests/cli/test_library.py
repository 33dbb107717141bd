"""`import backdrop` is fast and typed; every snippet of the page about it runs, in a folder of a user's own."""

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import backdrop
from tests.material.small_scenes import photograph, write_image

ROOT = Path(__file__).resolve().parents[2]
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "backdrop/LIBRARY.md").read_text(), flags=re.DOTALL)
NOTEBOOKS = [(ROOT / "notebooks" / name).read_text() for name in ("masks_of_your_images.py", "your_own_training.py")]
MAX_SNIPPET_LINES = 15
# What a snippet is about without being a part of this project; with it, it is for the slow tests.
OTHERS = ("lightly", "lightning", "timm")


def packages_of(snippet: str) -> list[str]:
    return [name for name in OTHERS if re.search(rf"^(?:import|from) {name}\b", snippet, flags=re.MULTILINE)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs of two classes, and a method in a file."""
    folder = tmp_path_factory.mktemp("mine")
    for number in range(8):
        path = folder / "photos" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, photograph(48, 56, number), number)
    shutil.copy(ROOT / "tests/material/plugins/simsiam.py", folder)
    return folder


def test_names_are_imported_when_they_are_asked_for() -> None:
    names = [name for name in dir(backdrop) if name[0] != "_" and hasattr(backdrop, name)]
    assert {"open_store", "MaskedImages", "ViewLoader", "build_store", "open_detector"} <= set(names)
    with pytest.raises(AttributeError, match="no attribute 'opne_store'"):
        backdrop.opne_store  # noqa: B018  # type: ignore[attr-defined]
    star: dict[str, object] = {}
    exec("from backdrop import *", star)
    assert star["ViewPlan"] is backdrop.ViewPlan


def test_the_import_itself_brings_next_to_nothing() -> None:
    program = "import sys; before = set(sys.modules); import backdrop; print(*(set(sys.modules) - before))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["backdrop"]


def test_a_detector_takes_an_image_alone() -> None:
    image_HWC = photograph(24, 32, 0)
    assert backdrop.open_detector("mean")(image_HWC).shape == (24, 32)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippets_are_short(snippet: str) -> None:
    assert len([line for line in snippet.splitlines() if line]) < MAX_SNIPPET_LINES
    ast.parse(snippet)


def test_snippets_run_one_after_the_other(folder: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """Those that need this project alone, but for training, which takes seconds."""
    monkeypatch.chdir(folder)
    for snippet in SNIPPETS:
        if not packages_of(snippet) and "pretrain" not in snippet:
            exec(compile(snippet, "backdrop/LIBRARY.md", "exec"), {})


def test_notebooks_are_cells_that_say_what_they_do() -> None:
    for notebook in NOTEBOOKS:
        ast.parse(notebook)
        kinds = re.findall(r"^# %%( \[markdown\])?$", notebook, flags=re.MULTILINE)
        assert len(kinds) > 4
        assert 0 < kinds.count(" [markdown]") < len(kinds)


@pytest.mark.slow
def test_notebooks_run_one_after_the_other(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shutil.copytree(folder / "photos", folder / "notebooks" / "photos")
    for notebook in NOTEBOOKS:
        words = [sys.executable, "-c", notebook]
        done = subprocess.run(words, cwd=folder / "notebooks", env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert {"row-0.png", "views.png"} <= {path.name for path in (folder / "notebooks").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_every_snippet_is_a_program(snippet: str, folder: Path) -> None:
    missing = [name for name in packages_of(snippet) if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    programs = [SNIPPETS[0]] if snippet != SNIPPETS[0] and not (folder / "photos.beton").exists() else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    for program in (*programs, snippet):
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
