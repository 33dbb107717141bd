"""The wheel holds the whole of Backdrop under one import name, beside a repository's own `trainer/` and `stores/`."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.material.small_scenes import photograph, write_image

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("stores", "saliency", "pipeline", "trainer")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"

PROGRAM = """
import multiprocessing

def names(queue=None):
    import stores, trainer
    import backdrop.stores.format
    import backdrop.trainer.methods
    found = (trainer.WHOSE, stores.WHOSE, backdrop.trainer.methods.__file__, backdrop.stores.format.__file__)
    if queue is not None:
        queue.put(found)
    return found

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=names, args=(queue,))
    worker.start()
    in_worker = queue.get(timeout=60)
    worker.join()
    assert in_worker == names(), in_worker
    print(*in_worker, sep="\\n")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unpacked wheel, built without a network from a copy of the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "tests", "artifacts")
    shutil.copytree(ROOT, folder / "tree", symlinks=True, ignore=ignored)
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=folder / "tree", check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A user's repository with packages of the names that Backdrop's floors have in a checkout."""
    for name in ("trainer", "stores"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f'WHOSE = "own {name}"\n')
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def run(words: list[str], repository: Path, installed: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, *words], cwd=repository, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_behind_the_links_is_in_the_wheel(installed: Path) -> None:
    expected = {
        path.relative_to(ROOT)
        for floor in FLOORS
        for path in (ROOT / floor).rglob("*")
        if path.suffix in (".py", ".html", ".css", ".js")
    }
    assert {path.suffix for path in expected} == {".py", ".html", ".css", ".js"}
    assert not [path for path in sorted(expected) if not (installed / "backdrop" / path).is_file()]
    assert all((installed / "backdrop" / name).is_file() for name in ("cli.py", "py.typed", "__init__.pyi"))
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"backdrop"}


def test_a_repository_keeps_its_own_trainer_and_stores(repository: Path, installed: Path) -> None:
    own_trainer, own_stores, *ours = run(["program.py"], repository, installed).splitlines()
    assert (own_trainer, own_stores) == ("own trainer", "own stores")
    assert len(ours) == 2
    assert all(Path(path).is_relative_to(installed / "backdrop") for path in ours)


def test_the_installed_command_line_runs_there(repository: Path, installed: Path) -> None:
    assert "backdrop" in run(["-m", "backdrop.cli", "--version"], repository, installed).lower()


def test_the_library_is_found_by_its_stub(repository: Path, installed: Path) -> None:
    program = "import backdrop; print(backdrop.View().size_px, 'open_store' in dir(backdrop), backdrop.__file__)"
    size_px, has_name, file = run(["-c", program], repository, installed).split()
    assert (size_px, has_name) == ("224", "True")
    assert Path(file).is_relative_to(installed)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # half a minute where the cores are not shared: kernels compile for this place
def test_the_snippets_of_the_library_run_from_the_wheel(repository: Path, installed: Path) -> None:
    """But for those that need other packages."""
    for number in range(8):
        path = repository / "photos" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, photograph(48, 56, number), number)
    shutil.copy(ROOT / "tests/material/plugins/simsiam.py", repository)
    text = (ROOT / "backdrop/LIBRARY.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    own = [snippet for snippet in snippets if not re.search("^(import|from) (lightly|lightning|timm)", snippet, re.M)]
    assert len(own) >= 6
    for snippet in own:
        run(["-c", snippet], repository, installed)
