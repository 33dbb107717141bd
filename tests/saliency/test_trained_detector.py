"""What training without labels is worth: the preset for a CPU on real photographs, beside what it learned from."""

from pathlib import Path

import pytest

import backdrop.saliency.classical
from backdrop.saliency.deepusps2.deepusps import train
from backdrop.saliency.deepusps2.settings import choose_settings
from backdrop.saliency.scoring.metrics import evaluate_folder
from backdrop.stores.datasets import open_index


@pytest.mark.slow
@pytest.mark.timeout(2 * 3600)
def test_the_small_preset_beats_every_classical_detector(shared_data: Path, tmp_path: Path) -> None:
    train(open_index("folder", root=shared_data / "msra1000"), tmp_path / "run", choose_settings("small"))
    for name, margin in (("ecssd-dev", 0.05), ("sed2", 0.0), ("pascal-s-dev", 0.02)):
        folders = (shared_data / name / "images", shared_data / name / "masks")
        trained = evaluate_folder(*folders, str(tmp_path / "run"))
        classical = [evaluate_folder(*folders, each) for each in backdrop.saliency.classical.NAMES]
        assert trained["f_fixed"] >= max(scores["f_fixed"] for scores in classical) + margin, name
        assert trained["mae"] <= min(scores["mae"] for scores in classical) - margin, name
