"""Members of open sets: the project's own, those of installed packages and those of plug-in files."""

import hashlib
import multiprocessing
import os
from pathlib import Path
from types import ModuleType

import pytest

from backdrop.errors import UserError
from backdrop.open_sets import PLUGINS_VARIABLE, OpenSet, plugins, use_plugin
from backdrop.pipeline.views.backgrounds import BACKGROUNDS
from backdrop.trainer.evaluation import EVALUATIONS

_GREY = (
    'BACKDROP_SET = "backgrounds"\nNEEDS_DONOR = False\nHAS_NEGATIVE = MOVES_FOREGROUND = False\nPROBABILITY = 0.5\n'
    "LEVEL = 0.25\n"
    "def replacement(donor_BCHW, level_BCHW):\n    return level_BCHW\n"
)
_TASK = """
from backdrop.trainer.evaluation.shape_bias import *
BACKDROP_SET = "evaluations"
"""


@pytest.fixture(autouse=True)
def _no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLUGINS_VARIABLE, "")


def _file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_projects_own_members_are_named_after_their_files() -> None:
    assert BACKGROUNDS.names() == ("none", "random", "recombine", "rm", "swaps")
    assert "imagenet-9" in EVALUATIONS.names()
    assert not [name for name in EVALUATIONS.names() if "_" in name]


def test_an_unknown_name_names_the_nearest_and_all() -> None:
    with pytest.raises(UserError, match=r"unknown background 'swap'\. Did you mean swaps\? Allowed: none, random, rec"):
        BACKGROUNDS.load("swap")


def test_a_name_like_no_other_has_no_suggestion() -> None:
    with pytest.raises(UserError, match=r"unknown background 'qqqq'\. Allowed: none"):
        BACKGROUNDS.load("qqqq")


def test_a_plugin_is_a_member_of_its_set_alone(tmp_path: Path) -> None:
    plugin = use_plugin(_file(tmp_path, "grey.py", _GREY))
    assert plugin.set_name == "backgrounds"
    assert plugin.sha256 == hashlib.sha256(_GREY.encode()).hexdigest()
    assert "grey" in BACKGROUNDS.names()
    assert "grey" not in BACKGROUNDS.built_in()
    assert "grey" not in EVALUATIONS.names()
    assert BACKGROUNDS.load("grey").LEVEL == 0.25
    assert BACKGROUNDS.load("grey") is BACKGROUNDS.load("grey")


def test_a_plugin_given_twice_is_one(tmp_path: Path) -> None:
    path = _file(tmp_path, "grey.py", _GREY)
    assert use_plugin(path) == use_plugin(path)
    assert [plugin.path for plugin in plugins()] == [path]


def test_a_relative_path_holds_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _file(tmp_path, "grey.py", _GREY)
    monkeypatch.chdir(tmp_path)
    use_plugin(Path("grey.py"))
    monkeypatch.chdir("/")
    assert "grey" in BACKGROUNDS.names()


def test_an_evaluation_of_ones_own_has_hyphens(tmp_path: Path) -> None:
    use_plugin(_file(tmp_path, "my_task.py", _TASK))
    assert "my-task" in EVALUATIONS.names()
    EVALUATIONS.load("my-task")


def test_a_plugin_cannot_take_a_built_in_name(tmp_path: Path) -> None:
    use_plugin(_file(tmp_path, "swaps.py", _GREY))
    with pytest.raises(UserError, match=r"have a 'swaps' already\. Rename the file"):
        BACKGROUNDS.names()


def test_two_plugins_cannot_have_one_name(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        use_plugin(_file(folder, "grey.py", _GREY))
    with pytest.raises(UserError, match="have the same name: rename one"):
        BACKGROUNDS.names()


def test_plugins_of_two_sets_may_have_one_name(tmp_path: Path) -> None:
    for folder, text in ((tmp_path / "a", _GREY), (tmp_path / "b", _TASK)):
        folder.mkdir()
        use_plugin(_file(folder, "grey.py", text))
    background, evaluation = BACKGROUNDS.load("grey"), EVALUATIONS.load("grey")
    assert background.LEVEL == 0.25
    assert evaluation.BACKDROP_SET == "evaluations"
    assert BACKGROUNDS.load("grey") is background


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("LEVEL = 1\n", "does not say what it is: write BACKDROP_SET"),
        ('BACKDROP_SET = "method"\n', "'method', which is no set. Did you mean methods?"),
        ("def (:\n", "is no Python file"),
    ],
)
def test_what_is_no_plugin_is_refused_and_not_kept(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "wrong.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        use_plugin(path)
    assert list(plugins()) == []


def test_a_file_that_raises_is_named_with_what_it_raised(tmp_path: Path) -> None:
    path = use_plugin(_file(tmp_path, "broken.py", _GREY + "1 / 0\n")).path
    with pytest.raises(UserError, match=f"{path} cannot be imported: ZeroDivisionError: division by zero"):
        BACKGROUNDS.load("broken")


def test_what_a_plugin_lacks_is_named(tmp_path: Path) -> None:
    path = use_plugin(_file(tmp_path, "grey.py", _GREY.replace("PROBABILITY", "SHARE"))).path
    with pytest.raises(UserError, match=rf"{path} lacks PROBABILITY\. Every one of the backgrounds provides N"):
        BACKGROUNDS.load("grey")


def test_a_plugin_is_read_once_a_process(tmp_path: Path) -> None:
    path = use_plugin(_file(tmp_path, "grey.py", _GREY)).path
    path.unlink()
    assert "grey" in BACKGROUNDS.names()


def _package(folder: Path, entry: str, module: str) -> None:
    _file(folder, f"{module}.py", _GREY)
    information = folder / f"{module}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[backdrop.backgrounds]\n{entry} = {module}\n")


def test_an_installed_package_brings_a_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path, "silver", "installed_silver")
    monkeypatch.syspath_prepend(tmp_path)
    assert "silver" in BACKGROUNDS.names()
    assert BACKGROUNDS.load("silver").LEVEL == 0.25


def test_an_installed_package_cannot_take_a_built_in_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path, "swaps", "installed_swaps")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="installed_swaps calls a plug-in 'swaps'"):
        BACKGROUNDS.names()


def test_an_installed_package_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path, "silver", "installed_broken")
    _file(tmp_path, "installed_broken.py", "import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="installed_broken cannot be imported: ModuleNotFoundError"):
        BACKGROUNDS.load("silver")


def _level(name: str) -> float:
    return BACKGROUNDS.load(name).LEVEL


def test_a_spawned_worker_has_the_plugin(tmp_path: Path) -> None:
    use_plugin(_file(tmp_path, "grey.py", _GREY))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_level, ("grey",)) == 0.25
    assert str(tmp_path) in os.environ[PLUGINS_VARIABLE]


def test_listing_imports_no_member(tmp_path: Path) -> None:
    (tmp_path / "members").mkdir()
    _file(tmp_path / "members", "broken.py", "1 / 0\n")
    _file(tmp_path / "members", "_private.py", "")
    members: OpenSet[ModuleType] = OpenSet("members", "members", [str(tmp_path / "members")], contract=type)
    assert members.names() == ("broken",)
