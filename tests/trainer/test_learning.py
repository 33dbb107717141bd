"""Recipe `smoke` learns: on the sample set, kNN at least 10 points above the untrained backbone, for every method.

Minutes a method on two CPU cores; 200 images are scored, so that a point or two are noise.
"""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import backdrop.trainer.methods
from backdrop.cli import main

POINTS = 10.0
# Not reached, and what was measured with seed 0. What tells quarter turns apart is not what tells kinds apart: three of
# the ten look the same after one, and backgrounds are turned at random.
NOT_REACHED = {
    "rotnet": "+3.0 in 40 epochs at 32 px and rate 0.24, with 42 % of the turns told; +3.5 in 16 at 48 px and 0.06, "
    "+1.5 in 10 at 48 px and 0.4; AlexNet with its own head at 64 px, 76 untrained, 72.5 in 10 epochs",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "sample-train.zarr"
    call("build-store", "--dataset", "sample", "--detector", "rbd", "--out", path)
    return path


def call(*words: object) -> None:
    result = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=pytest.mark.xfail(raises=AssertionError, strict=False, reason=NOT_REACHED[name]))
        if name in NOT_REACHED
        else name
        for name in backdrop.trainer.methods.NAMES
    ],
)
def test_smoke_learns(method: str, store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    call("pretrain", "--method", method, "--bg", "random", "--store", store, "--recipe", "smoke", "--out", run)
    call("evaluate", "knn", "--run", run, "--data", "sample", "--json", tmp_path / "knn.json")
    scores = json.loads((tmp_path / "knn.json").read_text())
    gain = scores["scores"]["top1"] - scores["untrained"]["top1"]
    assert gain >= POINTS, f"{method}: {gain:+.1f} points"
