"""The command line as a newcomer meets it: fast help, clear mistakes, no traceback."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from PIL import Image

from backdrop import cli
from tests.material.command_tree import commands_of

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *map(str, words)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path]
    for name, command in commands_of(group).items():
        found += commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


@pytest.mark.parametrize("words", commands(cli.main), ids=" ".join)
def test_help_of_every_command(words: tuple[str, ...], tmp_path: Path) -> None:
    result = run(*words, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "Usage:" in result.stdout


def test_help_is_quick(tmp_path: Path) -> None:
    run("pretrain", "--help", cwd=tmp_path)
    fastest = min(cpu_seconds(lambda: run("pretrain", "--help", cwd=tmp_path)) for _ in range(3))
    assert fastest < 0.3, f"--help took {fastest:.2f} s: a heavy import has left its command"


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, cli; print([m for m in ('torch', 'numba', 'zarr', 'numpy', 'cv2', 'tqdm') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def cpu_seconds(call) -> float:
    """Of the processes that a call starts and waits for: a busy machine makes them no more."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    call()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("build-store", "--dataset", "imagenet"), ("BACKDROP_DATA", "--root", "train")),
        (("build-store", "--dataset", "imagenet", "--root", "nowhere"), ("nowhere", "train")),
        (("build-store", "--dataset", "mnist"), ("mnist", "imagenet")),
        (("saliency", "train"), ("msra-b", "BACKDROP_DATA")),
        (("pretrain", "--method", "swav", "--bg", "random"), ("imagenet-train.zarr", "build-store --dataset imagenet")),
        (("pretrain", "--method", "simclr"), ("simclr", "moco")),
        (("pretrain", "--method", "moco", "--store", "missing.zarr"), ("missing.zarr",)),
        (("evaluate", "knn", "--data", "sample"), ("--run", "--weights")),
        (("report", "missing"), ("missing",)),
        (("store", "info", "missing.zarr"), ("missing.zarr",)),
        (("store", "verify", "missing.zarr"), ("missing.zarr",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_mistakes_get_one_clear_error(
    words: tuple[str, ...], said: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BACKDROP_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.main, words)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), "anything else would be printed as a traceback"
    for word in said:
        assert word in result.stderr, result.stderr


def test_a_mistake_ends_the_process_without_a_traceback(tmp_path: Path) -> None:
    result = run("store", "info", "missing.zarr", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr


def test_a_full_disk_and_a_place_that_is_no_folder_are_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "a.png")
    (tmp_path / "file").write_text("in the way")
    words = ["saliency", "predict", "--images", "images", "--out", "file/below"]
    result = CliRunner().invoke(cli.main, words)
    assert result.exit_code == 2, result.output
    assert "file/below" in result.stderr
    assert "can be written" in result.stderr

    def full(path: Path, content: bytes) -> None:
        if path.suffix == ".png":
            raise OSError(errno.ENOSPC, "No space left on device")
        path.write_bytes(content)

    monkeypatch.setattr("backdrop.saliency.inference.write_aside", full)
    result = CliRunner().invoke(cli.main, [*words[:-1], "out"])
    assert result.exit_code == 2, result.output
    assert "full" in result.stderr
    assert "same command" in result.stderr


def test_a_plug_in_file_is_known_to_its_command_alone(tmp_path: Path) -> None:
    plugin = tmp_path / "colour.py"
    plugin.write_text(
        'BACKDROP_SET = "backgrounds"\nNEEDS_DONOR, HAS_NEGATIVE, PROBABILITY = True, False, 0.2\n'
        "def replacement(donor_BCHW, level_BCHW):\n    return donor_BCHW\n"
    )
    words = ["pretrain", "--method", "moco", "--bg", "colour", "--store", str(tmp_path / "none.zarr"), "--out", "run"]
    with_it = CliRunner().invoke(cli.main, [*words, "--plugin", str(plugin)])
    assert with_it.exit_code == 2
    assert "none.zarr" in with_it.output  # the background is no matter
    without = CliRunner().invoke(cli.main, words)
    assert without.exit_code == 2
    assert "'colour' is not one of" in without.output
    bad = CliRunner().invoke(cli.main, [*words, "--plugin", str(tmp_path / "absent.py")])
    assert bad.exit_code == 2
    assert "absent.py cannot be read" in bad.output
