"""A cached kernel must not outlive the code it calls in another file, and a cache that cannot be used stops nothing."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CALLEE = "from backdrop.kernels import kernel\n\n@kernel\ndef number():\n    return {value}\n"
CALLER = """
import callee
from backdrop.kernels import follow_sources, kernel

@kernel(says="compiling doubled")
def doubled():
    return 2 * callee.number()

follow_sources(__name__, callee)
"""
PROGRAM = "import caller; print(caller.doubled(), sum(caller.doubled.stats.cache_hits.values()))"
# Workers that compile too, as those of a store do.
POOL = """
import multiprocessing

def work(_):
    import caller
    return caller.doubled()

if __name__ == "__main__":
    import caller
    print(caller.doubled())
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        print(*pool.map(work, range(2)))
"""
NOT_KEPT = "compiled code is not kept"
# Root may write everywhere, unless it gives that right away.
ORDINARY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.getuid() == 0 else ()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "caller.py").write_text(CALLER)
    (tmp_path / "callee.py").write_text(CALLEE.format(value=21))
    (tmp_path / "pool.py").write_text(POOL)
    yield tmp_path
    tmp_path.chmod(0o755)


def run(folder: Path, *arguments: str, before: tuple[str, ...] = (), **more: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": f"{folder}:{ROOT}", "PATH": "/usr/bin:/bin"} | more
    return subprocess.run(
        [*before, sys.executable, *(arguments or ("-c", PROGRAM))],
        env=environment, cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip


def test_a_change_in_the_called_file_is_seen(folder: Path) -> None:
    assert run(folder).stdout == "42 0\n"
    assert run(folder).stdout == "42 1\n"
    (folder / "callee.py").write_text(CALLEE.format(value=100))
    assert run(folder).stdout == "200 0\n"


def test_a_kernel_is_called_by_another_and_by_python(folder: Path) -> None:
    """What another one calls is a part of that; what Python calls is whole, kept on disk, and the same."""
    done = run(folder, "-c", "import caller, callee; print(caller.doubled(), callee.number(), caller.doubled())")
    assert done.stdout == "42 21 42\n"
    assert sorted(path.name.split("-")[0] for path in (folder / "__pycache__").glob("*.nbc")) == [
        "callee.number", "caller.doubled",
    ]  # fmt: skip


def test_processes_that_start_together_compile_once(folder: Path) -> None:
    environment = {"PYTHONPATH": f"{folder}:{ROOT}", "PATH": "/usr/bin:/bin"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, cwd=folder, **pipes) for _ in range(2)]
    printed, said = zip(*(process.communicate() for process in both), strict=True)
    assert sorted(printed) == ["42 0\n", "42 1\n"]
    assert "".join(said).count("compiling doubled") == 1


def test_kernels_run_where_no_folder_can_be_written(folder: Path) -> None:
    """A shared installation, used by an account without a home; told once, by whichever process."""
    folder.chmod(0o555)
    done = run(folder, "pool.py", before=ORDINARY, HOME="/proc/nobody")
    assert done.stdout == "42\n42 42\n"
    assert done.stderr.count(NOT_KEPT) == 1
    assert "NUMBA_CACHE_DIR" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("suffix", "length"),
    [
        pytest.param("*.nbi", 0, marks=pytest.mark.slow),
        pytest.param("*.nbi", 40, marks=pytest.mark.slow),
        pytest.param("*.nbc", 0, marks=pytest.mark.slow),
        ("*.nbc", 40),
    ],
)
def test_a_cache_that_was_cut_off_is_compiled_again(folder: Path, suffix: str, length: int) -> None:
    """A full disk or a power cut."""
    run(folder)
    for path in (folder / "__pycache__").glob(suffix):
        path.write_bytes(path.read_bytes()[:length])
    done = run(folder)
    assert done.stdout == "42 0\n"
    assert done.stderr.count(NOT_KEPT) <= 1


def test_a_full_disk_does_not_stop_a_kernel(folder: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    cache = folder / "cache"
    cache.mkdir()
    program = (
        "import numba.core.caching as c\nc.open = lambda path, mode: open('/dev/full' if 'w' in mode else path, mode)\n"
    )
    program += PROGRAM
    done = run(folder, "-c", program, NUMBA_CACHE_DIR=str(cache))
    assert done.stdout == "42 0\n"
    assert done.stderr.count(NOT_KEPT) == 1
