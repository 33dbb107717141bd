"""The command line as a newcomer meets it: fast help, clear mistakes, no traceback."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from PIL import Image

from backdrop import cli
from backdrop.errors import UserError
from backdrop.pipeline.build.tiled_background import FILLS
from backdrop.pipeline.export_store import BETON
from backdrop.stores.command_options import dataset_type
from backdrop.stores.exports import MASK_FORMATS
from backdrop.trainer.evaluation.harness.paper_cells import RECIPES
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


def command_at(path: tuple[str, ...]) -> click.Command:
    command: click.Command = cli.main
    for word in path:
        assert isinstance(command, click.Group)
        command = commands_of(command)[word]
    return command


@pytest.mark.parametrize("words", commands(cli.main), ids=" ".join)
def test_help_of_every_command(words: tuple[str, ...], tmp_path: Path) -> None:
    result = run(*words, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "Usage:" in result.stdout
    fastest = min(cpu_seconds(lambda: run(*words, "--help", cwd=tmp_path)) for _ in range(2))
    assert fastest < 0.4, f"--help took {fastest:.2f} s: a heavy import has left its command"


@pytest.mark.parametrize(
    ("words", "parameter", "allowed"),
    [
        (("build-store",), "fill", FILLS),
        (("evaluate",), "recipe", RECIPES),
        (("store", "export"), "format_name", (BETON, *MASK_FORMATS)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_what_help_offers_is_what_is_allowed(words: tuple[str, ...], parameter: str, allowed: Collection[str]) -> None:
    """They are said twice, because what is allowed stands in files that take long to import."""
    (found,) = (item for item in command_at(words).params if item.name == parameter)
    assert isinstance(found.type, click.Choice)
    assert set(found.type.choices) == set(allowed)


def test_every_command_that_takes_a_data_set_takes_the_same_ones() -> None:
    found = {
        path: param.type for path in commands(cli.main) for param in command_at(path).params if param.name == "dataset"
    }
    assert set(found) == {("saliency", "train"), ("build-store",), ("pretrain",)}
    assert {id(kind) for kind in found.values()} == {id(dataset_type)}
    assert dataset_type.convert("list:FILE", None, None) == "list:FILE"
    with pytest.raises(UserError, match="Did you mean imagenet"):
        dataset_type.convert("imagenette", None, None)


def test_a_group_imports_a_command_when_it_is_asked_for() -> None:
    code = (
        "import sys, cli; from click.testing import CliRunner\n"
        "seen = lambda: {m for m in sys.modules if m.startswith('backdrop.') and m.endswith('.commands')}\n"
        "before = seen(); CliRunner().invoke(cli.main, ['store', 'info', '--help'])\n"
        "print(sorted(before), sorted(seen()))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[] ['backdrop.stores.commands']"


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
        (("pretrain", "--method", "mocco"), ("'mocco'", "Did you mean moco?", "--plugin")),
        (("saliency", "train", "--dataset", "coca"), ("'coca'", "Did you mean coco?", "--plugin")),
        (("evaluate", "knn", "--data", "sample"), ("--run", "--weights")),
        (("evaluate", "al", "--weights", "file"), ("'al'", "all")),
        (("evaluate", "knn", "--weights", "file", "--plan"), ("--plan", "evaluate all")),
        (("store", "recompute", "missing.zarr", "--out", "new.zarr"), ("missing.zarr",)),
        (("store", "export", "file:///published", "--format", "png"), ("--out",)),
        (("loader-bench", "--store", "a.beton", "--method", "moco", "--root", "images"), ("--root",)),
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
        "MOVES_FOREGROUND = False\n"
        "def replacement(donor_BCHW, level_BCHW):\n    return donor_BCHW\n"
    )
    words = ["pretrain", "--method", "moco", "--bg", "colour", "--store", str(tmp_path / "none.zarr"), "--out", "run"]
    with_it = CliRunner().invoke(cli.main, [*words, "--plugin", str(plugin)])
    assert with_it.exit_code == 2
    assert "none.zarr" in with_it.output  # the background is no matter
    without = CliRunner().invoke(cli.main, words)
    assert without.exit_code == 2
    assert "unknown background 'colour'" in without.output
    bad = CliRunner().invoke(cli.main, [*words, "--plugin", str(tmp_path / "absent.py")])
    assert bad.exit_code == 2
    assert "absent.py cannot be read" in bad.output
