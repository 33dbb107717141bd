"""A cached kernel must not outlive the code it calls in another file."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CALLEE = "from numba import njit\n\n@njit(cache=True)\ndef number():\n    return {value}\n"
CALLER = """
from numba import njit
import callee
from backdrop.pipeline.views.kernel_cache import follow_sources

@njit(cache=True)
def doubled():
    return 2 * callee.number()

follow_sources(__name__, callee)
"""


def run(folder: Path) -> str:
    program = "import caller; print(caller.doubled(), sum(caller.doubled.stats.cache_hits.values()))"
    environment = {"PYTHONPATH": f"{folder}:{ROOT}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_change_in_the_called_file_is_seen(tmp_path: Path) -> None:
    (tmp_path / "caller.py").write_text(CALLER)
    (tmp_path / "callee.py").write_text(CALLEE.format(value=21))
    assert run(tmp_path) == "42 0"
    assert run(tmp_path) == "42 1"
    (tmp_path / "callee.py").write_text(CALLEE.format(value=100))
    assert run(tmp_path) == "200 0"
