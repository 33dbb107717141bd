"""No process outlives the one that started it, and none writes a traceback when that one is ended."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MARK = "BACKDROP_TEST_MARK"
# Command: lines of its bar that say that its processes are at work.
COMMANDS = {"first_labels": b"first labels", "build": b"build store", "export": b"export out.beton"}
DEFAULT = [("first_labels", signal.SIGKILL), ("export", signal.SIGKILL)]
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


def marked(mark: str) -> list[int]:
    """Processes that were started with a mark in their environment, or by one that was."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def end(command: str, ending: signal.Signals, folder: Path, *, after_s: float = 0) -> str:
    """Run a command, end it at its work, and return what stands on the terminal once nothing of it is left."""
    mark = uuid.uuid4().hex
    terminal = folder / "terminal"
    with terminal.open("wb") as file:
        parent = subprocess.Popen(
            [sys.executable, "-m", "tests.material.parents_of_processes", command, str(folder)],
            cwd=ROOT, stderr=file, stdout=file, env={**os.environ, MARK: mark}, start_new_session=True,
            # Where the tests run in the background of a shell, Ctrl-C is ignored, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
    try:
        wait_for(lambda: at_work(terminal.read_bytes(), COMMANDS[command]) or parent.poll() is not None)
        time.sleep(after_s)
        assert parent.poll() is None, terminal.read_text()
        # Ctrl-C and the end of a terminal reach all processes of it.
        (os.killpg if ending in (signal.SIGINT, signal.SIGHUP) else os.kill)(parent.pid, ending)
        parent.wait(60)
        wait_for(lambda: not marked(mark), 20)
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
        parent.wait()
    return terminal.read_text()


def at_work(shown: bytes, stage: bytes) -> bool:
    """Whether a stage's bar has counted something."""
    return any(
        line.startswith(stage) and b"|" in line and b" 0/" not in line
        for line in shown.replace(b"\r", b"\n").split(b"\n")
    )


def wait_for(condition, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("command", "ending"),
    [
        # A pool of ours, and threads, by the signal that lets nobody clean up; eleven seconds each.
        *DEFAULT,
        *(
            pytest.param(command, ending, marks=pytest.mark.slow)
            for command in COMMANDS
            for ending in SIGNALS
            if (command, ending) not in DEFAULT
        ),
    ],
)
def test_nothing_is_left_of_a_command_that_was_ended(command: str, ending: signal.Signals, tmp_path: Path) -> None:
    shown = end(command, ending, tmp_path)
    # The command line says "interrupted"; here Python itself tells of the parent's KeyboardInterrupt.
    assert shown.count("Traceback") <= (ending == signal.SIGINT), shown
    assert "Broken pipe" not in shown


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_nothing_is_left_whenever_it_is_ended(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    ending = draw.choice(SIGNALS)
    shown = end(draw.choice(list(COMMANDS)), ending, tmp_path, after_s=draw.uniform(0, 1))
    assert shown.count("Traceback") <= (ending == signal.SIGINT), shown


def command_line(*words: str, before: tuple[str, ...] = (), **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "cli.py", *words], cwd=ROOT, capture_output=True, text=True, check=False, **options
    )


def test_a_limit_of_open_files_is_a_sentence(scenes: Path, tmp_path: Path) -> None:
    words = ("store", "export", str(scenes), "--format", "beton", "--root", str(scenes.parent / "images"))
    words += ("--out", str(tmp_path / "out.beton"), "--shard-rows", "4", "--workers", "6")
    done = command_line(*words, before=("bash", "-c", 'ulimit -n 20; exec "$@"', "bash"))
    assert done.returncode == 2, done.stderr
    assert "ulimit -n" in done.stderr
    assert "Traceback" not in done.stderr
