"""Cells of the hostile-input suite: one input, one command, the one thing that may come of it.

A cell is run in this process, as the command line would be. Whatever is allowed besides, in no cell is there a
traceback, a second error, a process left behind or half of a file.
"""

import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from backdrop import cli

# Of this process's own work: nothing here takes any. What waits is ended by the test's timeout.
LIMIT_S = 30.0
# A sentence with what was given, what is allowed, what to do next; with all names that are allowed it fills a screen.
MOST_CHARACTERS = 3000


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """What may come of a cell. exit_code: of the command. words: a regular expression of what is said."""

    exit_code: int
    words: str


def done(words: str = "") -> Allowed:
    """The input is taken."""
    return Allowed(exit_code=0, words=words)


def refused(words: str) -> Allowed:
    """The input is refused in a sentence."""
    return Allowed(exit_code=2, words=words)


def found_wrong(words: str) -> Allowed:
    """A check says what is wrong."""
    return Allowed(exit_code=1, words=words)


def run_cell(words: Iterable[object], allowed: Allowed, folder: Path) -> str:
    """Run a command line and hold it against what is allowed. Args: folder: that it may write to. Returns: all said."""
    before, began = children(), time.process_time()
    result = CliRunner().invoke(cli.main, [str(word) for word in words])
    said = result.stdout + result.stderr
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"a traceback, after: {said[-500:]}") from result.exception
    assert result.exit_code == allowed.exit_code, said
    assert re.search(allowed.words, said, re.DOTALL), said
    assert "Traceback" not in said
    if result.exit_code == 2:
        message = result.stderr[result.stderr.rindex("Error: ") :]
        assert result.stderr.count("Error: ") == 1, said
        assert len(message) < MOST_CHARACTERS, f"{len(message)} characters: {message[:500]}"
        assert not set(message) & CONTROL, repr(message)
    assert time.process_time() - began < LIMIT_S
    assert children() <= before, "a process is left"
    left = [path.name for path in folder.rglob("*") if path.name.endswith(".partial")]
    assert not left, left
    return said


# What a terminal obeys; nothing that was given may get through to it.
CONTROL = {chr(code) for code in (*range(9), *range(11, 32), 127)}


def children() -> set[str]:
    """The processes that this one has started and that are there, zombies too; not Python's own of all its pools."""
    tasks = Path("/proc/self/task")
    found = {child for task in tasks.iterdir() for child in (task / "children").read_text().split()}
    return {child for child in found if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()}


def cells(
    inputs: Mapping[str, Any], commands: Iterable[str], default: Collection[tuple[str, str]]
) -> Callable[[Callable[..., None]], Any]:
    """Parametrise a test over every input with every command, as `given` and `command`.

    Args: inputs: by name. commands: names. default: the pairs of names that are tested by default.
    """
    pairs = [(given, command) for given in inputs for command in commands]
    assert set(default) <= set(pairs), set(default) - set(pairs)
    return pytest.mark.parametrize(
        ("given", "command"),
        [
            pytest.param(given, command, id=f"{given}-{command}", marks=[] if (given, command) in default else SLOW)
            for given, command in pairs
        ],
    )


SLOW = (pytest.mark.slow,)


def put_no_plain_file(kind: str, file: Path) -> None:
    """Put at `file` what must not be read or waited for.

    Args: kind: "pipe", "folder", "endless", "link to itself" or "link to nowhere".
    """
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to({"endless": "/dev/zero", "link to itself": file, "link to nowhere": "nowhere"}[kind])
