"""What the terminal shows: results alone on standard output, bars and notes beside it, silence on request."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path

import click
import numpy as np
import pytest
from click.shell_completion import BashComplete, ShellComplete
from click.testing import CliRunner
from PIL import Image

from backdrop import cli
from backdrop.progress import QUIET_VARIABLE, is_quiet, note, stage_bar, warn
from backdrop.stores.format.writer import finish
from tests.material.command_tree import commands_of
from tests.material.small_store import write_parts

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "toy.zarr"
    write_parts(path)
    finish(path)
    return path


def leaves(group: click.Group) -> list[click.Command]:
    below = [
        leaves(command) if isinstance(command, click.Group) else [command] for command in commands_of(group).values()
    ]
    return [command for commands in below for command in commands]


def options(command: click.Command) -> set[str]:
    return {word for param in command.params for word in param.opts}


def test_every_command_takes_quiet_and_all_with_a_result_json() -> None:
    groups = [cli.main, *(command for command in commands_of(cli.main).values() if isinstance(command, click.Group))]
    assert len(groups) == 3
    for command in [*groups, *leaves(cli.main)]:
        assert "--quiet" in options(command), command.name
    assert [command.name for command in leaves(cli.main) if "--json" not in options(command)] == ["demo"]


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["store", "info", "{}"], "store_id"),
        (["store", "status", "{}"], "complete"),
        (["store", "verify", "{}"], "sound"),
        (["store", "diff", "{}", "{}"], "equal"),
        (["store", "gc", "{}"], "freed_bytes"),
        (["store", "card", "{}"], "card"),
        (["store", "export", "{}", "--format", "png"], "path"),
        (["store", "merge", "{}", "--out", "{}-2"], "store_id"),
        (["store", "publish", "{}", "file://{}-published"], "url"),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else None,
)
def test_json_is_all_there_is_on_standard_output(words: list[str], key: str, store: Path) -> None:
    words = [word.format(store) for word in words]
    file = store.parent / "result.json"
    for extra in (["--json"], ["--json", str(file)], ["--quiet", "--json"]):
        result = CliRunner().invoke(cli.main, [*words, *extra])
        assert result.exit_code == 0, result.output
        if extra[-1] == "--json":
            assert key in json.loads(result.stdout)
        else:
            assert key in json.loads(file.read_text())
    assert result.stderr == "", "quiet"


def test_a_result_may_be_lines_for_people_unless_json_is_asked_for(store: Path) -> None:
    assert CliRunner().invoke(cli.main, ["store", "verify", str(store)]).stdout == f"{store}: sound\n"


def test_a_folder_in_place_of_the_json_file_is_refused_before_any_work(store: Path) -> None:
    result = CliRunner().invoke(cli.main, ["store", "verify", "--json", str(store)])
    assert result.exit_code == 2
    assert "'--json'" in result.stderr
    assert "is a directory" in result.stderr


def test_quiet_leaves_results_and_errors(store: Path, tmp_path: Path) -> None:
    for words in (["--quiet", "store", "verify"], ["store", "--quiet", "verify"], ["store", "verify", "--quiet"]):
        result = CliRunner().invoke(cli.main, [*words, str(store)])
        assert (result.stdout, result.stderr) == (f"{store}: sound\n", "")
        assert not is_quiet(), "it ends with its command"
    assert f"verify {store.name}" in CliRunner().invoke(cli.main, ["store", "verify", str(store)]).stderr
    result = CliRunner().invoke(cli.main, ["store", "info", str(tmp_path / "missing"), "--quiet"])
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")


def test_a_bar_has_stage_count_unit_rate_and_time_left(capsys: pytest.CaptureFixture) -> None:
    with stage_bar(total=8, initial=2, stage="build coco.zarr", unit="row") as bar:
        bar.update(2)
        bar.refresh()
    drawn = capsys.readouterr().err
    assert "build coco.zarr:  50%" in drawn
    assert "4/8 [" in drawn
    assert "<" in drawn, "time left"
    assert "row/s" in drawn or "s/row" in drawn


def test_quiet_silences_bars_and_notes_but_no_warning(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(QUIET_VARIABLE, "1")
    assert list(stage_bar(range(3), stage="stage", unit="img")) == [0, 1, 2]
    note("a default")
    warn("warning: a row is missing")
    assert capsys.readouterr() == ("", "warning: a row is missing\n")


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )


def test_version_names_what_matters_and_imports_none_of_it() -> None:
    done = python(
        "import sys, cli\n"
        "cli.main(['--version'], standalone_mode=False)\n"
        "print('imported', [name for name in ('torch', 'numpy', 'numba', 'zarr', 'ffcv') if name in sys.modules])"
    )
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    torch_spec = find_spec("torch")
    assert torch_spec is not None
    torch = run_path(str(Path(str(torch_spec.origin)).with_name("version.py")))
    assert lines["imported"] == "[]"
    assert torch["__version__"].startswith(lines["torch"])
    assert {"backdrop", "python", "torchvision", "ffcv", "zarr", "numba", "cuda"} <= lines.keys()
    assert ("torch built for " + torch["cuda"] if torch["cuda"] else "torch built without") in lines["cuda"]
    assert "store schema   2.0" in done.stdout
    assert "beton format   2" in done.stdout
    assert "commit " in lines["backdrop"]


def test_the_shell_gets_a_script_of_completions() -> None:
    """As `_BACKDROP_COMPLETE=bash_source backdrop` of the README."""
    code = "import sys, cli; sys.argv[:] = ['backdrop']; cli.main()"
    done = python(code, _BACKDROP_COMPLETE="bash_source")
    assert done.returncode == 0, done.stderr
    assert "_BACKDROP_COMPLETE=bash_complete" in done.stdout
    assert "complete -o nosort -F _backdrop_completion backdrop" in done.stdout
    done = python(code, _BACKDROP_COMPLETE="bash_complete", COMP_WORDS="backdrop pretrain --method s", COMP_CWORD="3")
    assert done.stdout.split() == ["plain,supervised", "plain,swav"]


@pytest.mark.parametrize(
    ("words", "incomplete", "offered"),
    [
        (["store"], "ver", {"verify"}),
        (["evaluate"], "k", {"knn"}),
        (["pretrain", "--bg"], "sw", {"swaps"}),
        (["pretrain", "--backbone"], "alex", {"alexnet", "alexnet_bn"}),
        (["build-store", "--detector"], "m", {"mc", "mean"}),
        (["saliency", "predict", "--detector"], "artifacts/det", {"artifacts/det"}),  # a path: the shell's own
        (["pretrain"], "--qu", {"--quiet"}),
        (["pretrain", "--recipe"], "byol_", {"byol_300", "byol_300_node", "byol_1000"}),
    ],
)
def test_completions(words: list[str], incomplete: str, offered: set[str]) -> None:
    shell: ShellComplete = BashComplete(cli.main, {}, "backdrop", "_BACKDROP_COMPLETE")
    assert {item.value for item in shell.get_completions(words, incomplete)} == offered


def test_names_beyond_ascii_are_read_in_every_locale(tmp_path: Path) -> None:
    names = ["gr\u00fcn", os.fsdecode(b"b\xff")]
    for folder, suffix in (("bilder-\u00e4", ".jpg"), ("masken-\u00e4", ".png")):
        (tmp_path / folder).mkdir()
        for name in names:
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / folder / f"{name}{suffix}")
    words = ["--images", "bilder-\u00e4", "--detector", "masks:masken-\u00e4", "--out", "maps-\u00e4", "--quiet"]
    # PATH alone of the environment: no locale, and neither of Python's two ways out of it.
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    process = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "saliency", "predict", *words],
        cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["problems"] == {}
    assert sorted(path.stem for path in (tmp_path / "maps-\u00e4").glob("*.png")) == sorted(names)
