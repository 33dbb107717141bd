"""What a newcomer meets in the first hour: Ctrl-C, going on, paths with spaces, commands as they were called."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from backdrop import cli
from backdrop.demo import Stage, headings
from backdrop.errors import UserError, program
from backdrop.stores.datasets import built_default_store
from backdrop.trainer.evaluation.harness.evaluate import scores_text

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
    (out / "moco-random").mkdir(parents=True)
    scores = {"scores": {"top1": 71.2, "bg_gap": 30.1}, "untrained": {"top1": 20.4, "bg_gap": 5.0}}
    (out / "moco-random" / "knn.json").write_text(json.dumps(scores))
    result = CliRunner().invoke(cli.main, ["demo", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"Open this file: {out / 'moco-random/report.html'}"
    assert "name 71 % of 200 new ones by their nearest neighbours, 20 % before training" in result.stdout
    assert "stage 1 of 6, about 3 min on two cores" in result.stderr
    assert [words[0] for words in given] == ["saliency", "build-store", "store", "pretrain", "evaluate", "report"]
    assert given[-1] == ["report", str(out / "moco-random")]
    assert f"$ python cli.py report '{out}/moco-random'" in result.stderr, "as it can be typed"


def test_the_demos_time_left_follows_the_machine() -> None:
    of = [Stage(words=(), seconds=seconds) for seconds in (10.0, 20.0, 170.0)]
    said = list(headings(of, iter([0.0, 100.0, 120.0])))
    assert said[0] == "stage 1 of 3, about 3 min on two cores"
    assert said[1:] == ["stage 2 of 3, about 32 min left", "stage 3 of 3, about 11 min left"]


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


def test_pretrain_ends_with_a_sentence_and_json_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    summary = {"state": "finished", "steps": 400, "loss": 2.5, "images_per_s": 1200.0}
    monkeypatch.setattr("backdrop.trainer.run.loop.pretrain", lambda request, source, **how: summary)
    words = [
        "pretrain",
        "--method",
        "moco",
        "--recipe",
        "smoke",
        "--store",
        "a.zarr",
        "--out",
        str(tmp_path / "my run"),
    ]
    said = CliRunner().invoke(cli.main, words).stdout.splitlines()
    assert said[0].startswith("run: finished at step 400, loss 2.5000")
    assert said[1] == f"its page: python cli.py report '{tmp_path}/my run'"
    assert json.loads(CliRunner().invoke(cli.main, [*words, "--json"]).stdout) == summary


def test_scores_are_lines_with_the_untrained_networks_beside_them() -> None:
    summary = {"evaluation": "knn", "backbone": "run", "data": "sample", "problems": ["200 images, 50,000 expected"]}
    lines = scores_text(summary | {"scores": {"top1": 71.25, "bg_gap": 9.0}, "untrained": {"top1": 20.0}}).splitlines()
    assert lines[0] == "knn of run on sample:"
    assert [line.split() for line in lines[1:3]] == [["top1", "71.25", "untrained", "20.00"], ["bg_gap", "9.00"]]
    assert lines[3] == "odd: 200 images, 50,000 expected"


def made(*words: str) -> str:
    """What make would run, whatever is there."""
    # These tests may run under make themselves.
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", "-nB", *words], cwd=ROOT, capture_output=True, text=True, check=True, env=own).stdout


def test_the_demo_installs_nothing_of_the_tests_and_says_how_much() -> None:
    demo, test = made("demo"), made("test")
    assert demo.startswith("bash -eu -c")
    assert "once, some minutes, 6 GB" in demo
    assert "requirements-test.lock" not in demo
    assert "CHECK_COMPILER" not in demo, "nothing is compiled"
    assert "-r requirements-test.lock" in test


def test_torch_without_its_libraries_for_gpus_is_an_option() -> None:
    made_cpu = made("demo", "TORCH=cpu")
    assert "2 GB" in made_cpu
    assert "--torch-backend cpu -r .venv/requirements-cpu.txt" in made_cpu
    assert "-r requirements.lock" not in made_cpu


def test_the_locks_of_product_and_tests_have_nothing_in_common() -> None:
    product, tests = (
        {line.split("==")[0] for line in (ROOT / name).read_text().splitlines() if "==" in line}
        for name in ("requirements.lock", "requirements-test.lock")
    )
    assert {"torch", "zarr", "click"} <= product
    assert {"pytest", "hypothesis", "ray"} <= tests
    assert not product & tests
    assert "ffcv" in tests


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
