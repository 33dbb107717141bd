"""The threshold of the best masks: against masks cut one by one, and on the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from backdrop import cli
from backdrop.errors import UserError
from backdrop.saliency.binarise import binarise
from backdrop.saliency.inference import encode_png
from backdrop.saliency.scoring.metrics import intersection_over_union
from backdrop.saliency.scoring.threshold_calibration import THRESHOLDS_T, calibrate, middle_of_best, table
from backdrop.stores.images.image_codec import encode_jpeg


@pytest.fixture
def three_images(tmp_path: Path) -> Path:
    """Two images whose foreground is brighter in their maps, and one without any."""
    for name in ("images", "masks", "maps"):
        (tmp_path / name).mkdir()
    rng = np.random.default_rng(0)
    for name, height in (("a", 20), ("b", 31), ("empty", 25)):
        truth_HW = np.zeros((height, 40), np.uint8)
        if name != "empty":
            truth_HW[5:15, 10:30] = 255
        map_HW = np.clip(rng.normal(60, 40, truth_HW.shape) + (truth_HW > 0) * 90, 0, 255).astype(np.uint8)
        (tmp_path / "images" / f"{name}.jpg").write_bytes(encode_jpeg(np.zeros((height, 40, 3), np.uint8)))
        (tmp_path / "masks" / f"{name}.png").write_bytes(encode_png(truth_HW))
        (tmp_path / "maps" / f"{name}.png").write_bytes(encode_png(map_HW))
    return tmp_path


def of(folder: Path) -> dict:
    return calibrate(folder / "images", folder / "masks", f"masks:{folder / 'maps'}")


def test_the_curve_is_that_of_masks_cut_one_by_one(three_images: Path) -> None:
    from backdrop.stores.images.image_codec import decode_grey

    result = of(three_images)
    assert [line["threshold"] for line in result["curve"]] == THRESHOLDS_T.tolist()
    for line in result["curve"]:
        ious, fractions = [], []
        for name in ("a", "b"):
            map_HW = decode_grey((three_images / "maps" / f"{name}.png").read_bytes()) / 255
            truth_HW = decode_grey((three_images / "masks" / f"{name}.png").read_bytes()) > 127
            mask_HW = binarise(map_HW, line["threshold"])[0] > 0
            ious.append(intersection_over_union(mask_HW, truth_HW))
            fractions.append(mask_HW.mean())
        assert line["iou"] == pytest.approx(np.mean(ious), abs=1e-12)
        assert line["foreground"] == pytest.approx(np.median(fractions), abs=1e-12)


def test_the_choice_is_the_best_of_the_curve(three_images: Path) -> None:
    result = of(three_images)
    ious = {line["threshold"]: line["iou"] for line in result["curve"]}
    assert result["best"]["iou"] == max(ious.values())
    assert 0.3 < result["best"]["threshold"] < 0.6
    good = [at for at, iou in ious.items() if iou >= max(ious.values()) - 0.01]
    assert result["good_from"] in good
    assert result["good_to"] in good
    assert result["good_from"] <= result["best"]["threshold"] <= result["good_to"]
    assert result["max_f"]["f"] == max(line["f"] for line in result["curve"])
    assert result["stated"]["threshold"] == 0.5
    assert result["stated"]["iou"] == ious[0.5]
    assert (result["num_images"], result["num_empty_masks"]) == (3, 1)


def test_the_middle_of_a_plateau_is_taken() -> None:
    assert middle_of_best(np.full(100, 0.7)) == 0.5, "of a binary map any threshold gives the same masks"
    of_peak = 0.6 - np.abs(THRESHOLDS_T - 0.32)
    assert middle_of_best(of_peak) == pytest.approx(0.3)
    assert middle_of_best(1.0 - THRESHOLDS_T) == pytest.approx(0.05), "0 would leave nothing out"
    of_peak[90] = 0.599  # another peak, not around the best
    assert middle_of_best(of_peak) == pytest.approx(0.3)


def test_people_see_the_curve_and_the_choice(three_images: Path) -> None:
    result = of(three_images)
    said = table(result).splitlines()
    (best,) = [line for line in said if line.endswith(" best")]
    assert best.split()[:2] == [f"{result['best']['threshold']:.2f}", f"{result['best']['iou']:.3f}"]
    assert f"best masks at {result['best']['threshold']:.2f}: IoU" in said[-2]
    assert said[-1].startswith("the detector's own is 0.50: IoU")


def test_without_a_foreground_there_is_no_choice(three_images: Path) -> None:
    for name in ("a", "b"):
        (three_images / "images" / f"{name}.jpg").unlink()
    with pytest.raises(UserError, match=r"every true mask of .* is empty"):
        of(three_images)


def test_the_command_prints_the_curve_or_its_json(three_images: Path) -> None:
    words = ["saliency", "calibrate", "--images", str(three_images / "images"), "--masks", str(three_images / "masks"),
             "--detector", f"masks:{three_images / 'maps'}"]  # fmt: skip
    assert CliRunner().invoke(cli.main, words).stdout.strip() == table(of(three_images))
    assert json.loads(CliRunner().invoke(cli.main, [*words, "--quiet", "--json"]).stdout) == of(three_images)
