"""Starts programs in several processes, such as tests/material/distributed_program.py."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def launch(folder: Path, plan: list[dict[str, Any]], num_processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run a plan (see there) and wait; its files are in the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan))
    return torchrun("-m", "tests.material.distributed_program", folder / "plan.json", num_processes=num_processes)


def torchrun(*words: str | Path, num_processes: int) -> subprocess.CompletedProcess[str]:
    """Have torchrun run a program and wait. Args: words: of the program."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)]
    return subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
