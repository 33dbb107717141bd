"""Starts tests/material/distributed_program.py in several processes."""

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
    words = ["-m", "tests.material.distributed_program", str(folder / "plan.json")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)]
    return subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
