"""The evaluator: hand-computed values, and the known figures of published maps."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from backdrop import cli
from backdrop.errors import UserError
from backdrop.saliency.detector import MaskError
from backdrop.saliency.inference import encode_png
from backdrop.saliency.scoring import metrics
from tests.golden import make_saliency_metrics
from tests.reference import saliency_protocols

KNOWN = [
    ("ecssd-dev", "hs", 0.2352, 0.7305),
    ("sed2", "rbd", 0.1259, 0.8318),
    ("sed2", "gs", 0.1454, 0.7807),
    ("sed2", "sf", 0.1645, 0.7860),
    ("sed2", "mr", 0.2315, 0.7219),
    ("pascal-s-dev", "rbd", 0.2010, 0.6278),
]


@pytest.mark.parametrize(("dataset", "maps", "mae", "f_max"), KNOWN, ids=lambda value: str(value))
def test_published_maps_score_as_known(shared_data: Path, dataset: str, maps: str, mae: float, f_max: float) -> None:
    folder = shared_data / dataset
    detector = f"masks:{folder / 'reference-maps' / maps}"
    scores = metrics.evaluate_folder(folder / "images", folder / "masks", detector)
    assert scores["mae"] == pytest.approx(mae, abs=5e-5)
    assert scores["f_max"] == pytest.approx(f_max, abs=5e-5)


def test_scores_are_those_of_pysodmetrics() -> None:
    golden = json.loads(make_saliency_metrics.FILE.read_text())
    summary = metrics.summarise([metrics.score_image(*case) for case in make_saliency_metrics.inputs()])
    assert {name: summary[name] for name in golden} == pytest.approx(golden, abs=1e-12)
    assert min(golden.values()) > 0.05  # a set on which every score has something to say


def test_every_protocol_on_the_golden_maps(shared_data: Path) -> None:
    with np.load(shared_data / "feature-goldens.npz") as goldens:
        golden = {name.removeprefix("metrics/"): goldens[name] for name in goldens if name.startswith("metrics/")}
    maps, truths = golden.pop("maps"), golden.pop("truths")
    summary = metrics.summarise([metrics.score_image(*case) for case in zip(maps, truths, strict=True)])
    named = {"iou": "native_iou"}
    assert len(golden) == 11
    for names in (named, {}):
        found = {name: summary[names.get(name, name)] for name in golden}
        assert found == pytest.approx({name: float(value) for name, value in golden.items()}, abs=1e-12)


def test_protocols_against_loops() -> None:
    """Also where nothing is found, where all is, and on maps that do not reach 0 or 255."""
    rng = np.random.default_rng(0)
    truth_HW = rng.random((7, 9)) < 0.3
    maps = [rng.integers(40, 200, (7, 9)), np.where(truth_HW, 130, 90), np.full((7, 9), 9), np.full((7, 9), 255)]
    maps[2][0, 0], maps[3][0, 0] = 0, 254
    cases = [(map_HW.astype(np.uint8), truth_HW) for map_HW in maps]
    summary = metrics.summarise([metrics.score_image(*case) for case in cases])
    plain = [(map_HW.tolist(), truth_HW.tolist()) for map_HW, _ in cases]
    a2s_f, a2s_mae = saliency_protocols.a2s(plain)
    expected = {
        "tokencut_max_f": saliency_protocols.tokencut_max_f(plain),
        "found_max_f": saliency_protocols.found_max_f(plain),
        "found_max_f_one_threshold": saliency_protocols.tokencut_max_f(plain, beta_squared=0.09),
        "native_iou": saliency_protocols.iou(plain),
        "accuracy": saliency_protocols.accuracy(plain),
        "mae_of_binary": 1 - saliency_protocols.accuracy(plain),
        "a2s_f": a2s_f,
        "a2s_mae": a2s_mae,
    }
    assert {name: summary[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert len({round(value, 6) for value in expected.values()}) == len(expected), "a set that tells them apart"


def test_a_map_of_one_value_is_not_stretched() -> None:
    flat_HW = np.full((2, 3), 51, np.uint8)
    assert metrics.stretched(flat_HW).tolist() == [[51.0] * 3] * 2
    assert metrics.stretched(np.array([[3, 7, 5]], np.uint8)).tolist() == [[0.0, 255.0, 127.5]]


def test_scores_of_four_pixels_by_hand() -> None:
    map_HW = np.array([[255, 153], [51, 0]], np.uint8)  # 1, .6, .2, 0
    truth_HW = np.array([[True, False], [True, False]])
    assert metrics.mean_absolute_error(map_HW, truth_HW) == pytest.approx((0 + 0.6 + 0.8 + 0) / 4)
    assert metrics.fixed_precision_recall(map_HW, truth_HW) == (0.5, 0.5)
    # twice the mean is .9: only the first pixel
    assert metrics.adaptive_precision_recall(map_HW, truth_HW) == (1.0, 0.5)
    precision, recall = metrics.precision_recall_curve(map_HW, truth_HW)
    assert (precision[0], recall[0]) == (0.5, 1.0)
    assert (precision[51], recall[51]) == (2 / 3, 1.0)
    assert (precision[52], recall[52]) == (0.5, 0.5)
    assert (precision[255], recall[255]) == (1.0, 0.5)
    assert metrics.intersection_over_union(map_HW > 127, truth_HW) == pytest.approx(1 / 3)
    summary = metrics.summarise([metrics.score_image(map_HW, truth_HW)])
    assert summary["f_fixed"] == pytest.approx(0.5)
    assert summary["f_adaptive"] == pytest.approx(1.3 * 0.5 / (0.3 + 0.5))
    assert summary["f_max"] == pytest.approx(max(1.3 * 0.5 / 0.8, 1.3 * (2 / 3) / (0.2 + 1)))


def test_precision_and_recall_are_averaged_before_or_after() -> None:
    truth_HW = np.array([[True, True, False, False]])
    half_HW, all_HW = np.array([[255, 0, 0, 0]], np.uint8), np.array([[255, 255, 255, 255]], np.uint8)
    summary = metrics.summarise([metrics.score_image(map_HW, truth_HW) for map_HW in (half_HW, all_HW)])
    f_half, f_all = 1.3 * 0.5 / (0.3 + 0.5), 1.3 * 0.5 / (0.15 + 1)
    assert summary["f_adaptive"] == pytest.approx((f_half + f_all) / 2)
    assert summary["f_adaptive_of_means"] == pytest.approx(float(metrics.f_beta(0.75, 0.75)))


def test_conventions_of_empty_predictions_and_masks() -> None:
    truth_HW = np.array([[True, False]])
    nothing_HW = np.zeros((1, 2), np.uint8)
    assert metrics.fixed_precision_recall(nothing_HW, truth_HW) == (1.0, 0.0)
    assert metrics.adaptive_precision_recall(nothing_HW, truth_HW) == (0.5, 1.0)
    assert metrics.f_beta(0.0, 0.0) == 0
    empty = metrics.score_image(np.full((1, 2), 51, np.uint8), np.zeros((1, 2), bool))
    full = metrics.score_image(np.array([[255, 0]], np.uint8), truth_HW)
    summary = metrics.summarise([empty, full])
    assert summary["num_empty_masks"] == 1
    assert summary["mae"] == pytest.approx(0.1)
    assert summary["f_max"] == summary["f_fixed"] == summary["iou"] == 1
    nothing = metrics.summarise([empty])
    assert nothing["f_max"] is nothing["found_max_f"] is nothing["native_iou"] is None
    assert (nothing["accuracy"], nothing["a2s_mae"]) == (1, pytest.approx(0.2))


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    """Two images with masks, as folders `images` and `masks`."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        mask_HW = np.zeros((6, 8), np.uint8)
        mask_HW[2:4, 2:6] = 255
        (tmp_path / "images" / f"{name}.png").write_bytes(encode_png(mask_HW))
        (tmp_path / "masks" / f"{name}.png").write_bytes(encode_png(mask_HW))
    return tmp_path


def test_perfect_maps_have_perfect_scores(small_set: Path) -> None:
    scores = metrics.evaluate_folder(small_set / "images", small_set / "masks", f"masks:{small_set / 'masks'}")
    assert (scores["mae"], scores["f_max"], scores["iou"], scores["num_images"]) == (0, 1, 1, 2)
    assert scores["detector"]["name"] == "masks"


def test_a_missing_or_misfit_truth_is_named(small_set: Path) -> None:
    (small_set / "masks" / "b.png").write_bytes(encode_png(np.zeros((3, 3), np.uint8)))
    with pytest.raises(MaskError, match=r"b\.png"):
        metrics.evaluate_folder(small_set / "images", small_set / "masks", "rbd")
    (small_set / "masks" / "b.png").unlink()
    with pytest.raises(MaskError, match=r"b\.png"):
        metrics.evaluate_folder(small_set / "images", small_set / "masks", "rbd")


def test_an_unreadable_image_is_named(small_set: Path) -> None:
    (small_set / "images" / "b.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"b\.png"):
        metrics.evaluate_folder(small_set / "images", small_set / "masks", "rbd")


def test_scores_at_the_papers_size(small_set: Path) -> None:
    folders = (small_set / "images", small_set / "masks", f"masks:{small_set / 'masks'}")
    scores = metrics.evaluate_folder(*folders, size_px=432)
    assert scores["size_px"] == 432
    assert 0.95 < scores["iou"] < 1
    # a bilinearly grown map has soft borders where the mask's are hard
    assert 0 < scores["mae"] < 0.1
    native = metrics.evaluate_folder(*folders)
    for name in metrics.NATIVE_COLUMNS.values():
        assert scores[name] == native[name], "those of detectors on features stay at the image's own size"
    assert native["native_iou"] == native["iou"] == 1


def test_the_table_has_a_row_per_detector(small_set: Path) -> None:
    scores = metrics.evaluate_folder(small_set / "images", small_set / "masks", f"masks:{small_set / 'masks'}")
    lines = metrics.table({"mine": scores, "another": {**scores, "f_max": None}}).splitlines()
    assert lines[0].split()[:3] == ["detector", "MAE", "F(.5)"]
    assert lines[1].split() == ["mine", "0.0000", *["1.0000"] * 5]
    assert lines[2].split()[-2:] == ["-", "1.0000"]
    assert len({len(line) for line in lines}) == 1


def test_both_kinds_of_protocols_are_printed_by_name(small_set: Path) -> None:
    words = ["saliency", "evaluate", "--images", str(small_set / "images"), "--masks", str(small_set / "masks")]
    words += ["--detector", f"masks:{small_set / 'masks'}", "--detector", "rbd", "--size", "16"]
    result = CliRunner().invoke(cli.main, words)
    assert result.exit_code == 0, result.output
    ours, features = result.stderr.split("protocols of detectors on features")
    assert "protocol of DeepUSPS and Ryali et al." in ours
    assert "here at squares of 16 px" in ours
    heads = [next(line for line in part.splitlines() if line.split()[:1] == ["detector"]) for part in (ours, features)]
    for name in ("F(.5)", "F(adaptive)"):
        assert name in heads[0]
    for name in ("max F (TokenCut)", "max F (SelfMask, FOUND)", "IoU", "accuracy", "F (A2S)"):
        assert name in heads[1]
    printed = json.loads(result.stdout)
    assert printed[f"masks:{small_set / 'masks'}"]["tokencut_max_f"] == 1


def test_a_bright_map_that_predicts_nothing_counts_as_zero() -> None:
    """All 200 of 255: twice the mean is beyond 1, and no pixel is 255."""
    truth_HW = np.zeros((4, 5), dtype=bool)
    truth_HW[1, 2] = True
    nothing = metrics.score_image(np.full((4, 5), 200, np.uint8), truth_HW)
    assert nothing.adaptive == (0.0, 0.0)
    perfect = metrics.score_image(truth_HW.astype(np.uint8) * 255, truth_HW)
    assert metrics.summarise([nothing, perfect])["f_adaptive_of_means"] == pytest.approx(
        0.5
    )  # precision and recall 1/2 each
