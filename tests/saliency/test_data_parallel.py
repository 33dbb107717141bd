"""One training on two processes, as torchrun starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backdrop.ranks import Ranks
from backdrop.saliency.deepusps2 import pseudo_labels
from backdrop.saliency.detectors import open_detector
from tests.material.data_parallel_program import SHORT, gradient
from tests.material.tiny_detector import draw_images

ROOT = Path(__file__).resolve().parents[2]


@given(st.integers(0, 50), st.integers(1, 9))
def test_shares_are_a_fair_partition(num_images: int, size: int) -> None:
    shares = [range(num_images)[Ranks(device="cpu", rank=rank, size=size).share(num_images)] for rank in range(size)]
    assert [place for share in shares for place in share] == list(range(num_images))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.slow
def test_two_processes_train_one_detector(tmp_path: Path) -> None:
    index = draw_images(tmp_path / "images")
    words = ["-m", "tests.material.data_parallel_program", str(index.root), str(tmp_path / "run")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # on the CPU, also where there are GPUs
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    alone = gradient(Ranks(device="cpu"))
    together = json.loads((tmp_path / "run.json").read_text())
    assert together[0] == pytest.approx(alone[0], rel=1e-6)
    assert together[1] == pytest.approx(alone[1], rel=1e-6)
    assert open_detector(str(tmp_path / "run")).identity["architecture"] == SHORT.architecture
    with pseudo_labels.open_labels(tmp_path / "run" / pseudo_labels.FILE) as file:
        for method in SHORT.array_names:
            # every image's prediction found its way to the first process
            assert (file[f"refined/{method}"][:].reshape(len(index), -1).max(axis=1) > 0).all()
