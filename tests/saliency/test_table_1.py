"""Table 1's one command: split lists, masks beside images, several seeds averaged, nothing made twice."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from backdrop import cli
from backdrop.errors import UserError
from backdrop.saliency.scoring import table_1


def picture(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three sets laid out as they are published; every true mask is the left half."""
    truth = np.zeros((20, 24), np.uint8)
    truth[:, :12] = 255
    for number in range(3):
        image = np.full((20, 24, 3), 40 + number, np.uint8)
        picture(tmp_path / "msra-b" / f"{number}.jpg", image)
        picture(tmp_path / "msra-b" / f"{number}.png", truth)
        picture(tmp_path / "ecssd" / "images" / f"{number}.jpg", image)
        picture(tmp_path / "ecssd" / "ground_truth_mask" / f"{number}.png", truth)
        picture(tmp_path / "dut-omron" / "DUT-OMRON-image" / f"{number}.jpg", image)
        picture(tmp_path / "dut-omron" / "pixelwiseGT-new-PNG" / f"{number}.png", truth)
    (tmp_path / "msra-b" / "train_names.txt").write_text("0.jpg\n")
    (tmp_path / "msra-b" / "test_names.txt").write_text("1.jpg\n2.jpg\n")
    monkeypatch.setenv("BACKDROP_DATA", str(tmp_path))
    return tmp_path


def test_seeds_are_averaged_and_nothing_is_scored_twice(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed 0 finds the true mask, seed 1 nothing: F 100 and 0, MAE 0 and 50."""

    def train(seed: int) -> Path:
        for name in "012":
            found = np.zeros((20, 24), np.uint8)
            found[:, :12] = 255 if seed == 0 else 0
            picture(tmp_path / f"maps-{seed}" / f"{name}.png", found)
        return tmp_path / f"maps-{seed}"

    opened = table_1.open_detector
    monkeypatch.setattr(table_1, "open_detector", lambda run: opened(f"masks:{run}"))
    sets = table_1.test_sets()
    assert [(one.name, len(one.index)) for one in sets] == [("MSRA-B", 2), ("ECSSD", 3), ("DUT-OMRON", 3)]
    result = table_1.table_1(sets, tmp_path / "out", range(2), train)
    assert result["sets"].keys() == {"MSRA-B", "ECSSD", "DUT-OMRON"}
    for scores in result["sets"].values():
        assert scores["f_beta"]["values"] == pytest.approx([100, 0], abs=2)
        assert scores["f_beta"]["sem"] == pytest.approx(50, abs=2)
        assert scores["mae"]["mean"] == pytest.approx(25, abs=2)
    assert "MSRA-B" in table_1.table(result)
    monkeypatch.setattr(table_1, "scored_images", None)
    assert table_1.table_1(sets, tmp_path / "out", range(2), train) == result


def test_a_set_that_is_missing_is_named_before_anything_is_trained(data: Path) -> None:
    (data / "ecssd" / "ground_truth_mask").rename(data / "ecssd" / "truths")
    with pytest.raises(UserError, match="ecssd has no folder of images"):
        table_1.test_sets()
    result = CliRunner().invoke(cli.main, ["saliency", "table1", "--preset", "tiny"])
    assert result.exit_code == 2
    assert "ground_truth_mask" in result.output


@pytest.mark.slow
def test_the_command_trains_scores_and_resumes(data: Path, tmp_path: Path) -> None:
    words = ["saliency", "table1", "--preset", "tiny", "--seeds", "1", "--out", str(tmp_path / "out"), "--json"]
    first = CliRunner().invoke(cli.main, [*words, "--quiet"])
    assert first.exit_code == 0, first.output
    again = CliRunner().invoke(cli.main, [*words, "--quiet"])
    assert json.loads(again.stdout) == json.loads(first.stdout)
