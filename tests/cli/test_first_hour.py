"""What a newcomer meets in the first hour: Ctrl-C, going on, paths with spaces, commands as they were called."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from backdrop import cli
from backdrop.errors import UserError, program
from backdrop.stores.datasets import built_default_store

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("called", ["/usr/local/bin/backdrop", "cli.py", "/anywhere/cli.py", "notebook", "-c"])
def test_messages_say_the_program_that_was_called(called: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", [called, "pretrain"])
    monkeypatch.chdir(tmp_path)
    expected = "backdrop" if called.endswith("backdrop") else "python cli.py"
    assert program() == expected
    with pytest.raises(UserError, match=f"first: {expected} build-store --dataset imagenet"):
        built_default_store("imagenet", "train")


def test_a_wheel_has_no_cli_py_to_speak_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["notebook"])
    monkeypatch.setattr("backdrop.errors.__file__", str(tmp_path / "site-packages/backdrop/errors.py"))
    assert program() == "backdrop"


@pytest.mark.parametrize(
    ("words", "goes_on"),
    [(["demo", "--out", "my results"], True), (["store", "pull"], True), (["store", "info"], False)],
)
def test_ctrl_c_says_how_to_go_on(words: list[str], goes_on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: click.Command, ctx: click.Context) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["backdrop", *words])
    command = cli.main
    for word in words[:2]:
        if isinstance(command, click.Group):
            command = command.get_command(click.Context(command), word)
    monkeypatch.setattr(command, "invoke", lambda ctx: interrupted(command, ctx))
    monkeypatch.setattr(command, "params", [click.Option(["--out"])])
    result = CliRunner().invoke(cli.main, words)
    assert result.exit_code == 1
    assert "Aborted" not in result.stderr
    assert result.stderr.startswith("\nInterrupted.")
    assert ("the same command goes on:\n  backdrop " in result.stderr) == goes_on
    assert ("'my results'" in result.stderr) == (words[0] == "demo")


def test_the_demo_takes_a_path_with_spaces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(cli, "run_command", given.append)
    out = tmp_path / "my results"
    result = CliRunner().invoke(cli.main, ["demo", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert [words[0] for words in given] == ["saliency", "build-store", "store", "pretrain", "evaluate", "report"]
    assert given[-1] == ["report", str(out / "moco-random")]
    assert f"$ python cli.py report '{out}/moco-random'" in result.stderr, "as it can be typed"


@pytest.mark.parametrize("extra", [[], ["--resume"]])
def test_pretrain_goes_on_without_being_told_to(
    extra: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = {}
    monkeypatch.setattr("backdrop.trainer.run.loop.pretrain", lambda request, source, **how: given.update(how))
    words = ["pretrain", "--method", "moco", "--recipe", "smoke", "--store", "a.zarr", "--out", str(tmp_path), *extra]
    result = CliRunner().invoke(cli.main, words)
    assert result.exit_code == 0, result.output
    assert given == {"out": tmp_path, "resume": True}


@pytest.mark.parametrize(
    ("python", "said"), [("/no/such/python", "PYTHON=/no/such/python: there is no such program"), ("python3", "")]
)
def test_make_names_the_python_that_is_not_there(python: str, said: str) -> None:
    """The check alone; the command lines after it build an environment."""
    makefile = (ROOT / "Makefile").read_text()
    check = makefile.partition("define CHECK_PYTHON\n")[2].partition("endef")[0].replace("$(PYTHON)", python)
    done = subprocess.run(["bash", "-eu", "-c", check], capture_output=True, text=True)
    assert done.returncode == (1 if said else 0), done.stderr
    assert said in done.stderr
    assert "Python is missing" not in done.stderr
