"""What a finished training measured of itself: the figures, what keeps and replaces them, and what they decide."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backdrop.errors import UserError
from backdrop.saliency.binarise import binarise
from backdrop.saliency.default_detector import chosen_detector, default_detector
from backdrop.saliency.detectors import open_detector
from backdrop.saliency.networks.drn import DrnSegmenter
from backdrop.saliency.scoring.metrics import evaluate_folder, intersection_over_union, to_8_bit
from backdrop.saliency.scoring.sanity_check import measure
from backdrop.saliency.trained_detector.drn_detector import PAPERS_THRESHOLD, DetectorDescription, save_detector
from backdrop.saliency.trained_detector.sanity_score import DetectorScore, SanityScore, read_score, write_score
from backdrop.stores.images.image_codec import decode_grey, decode_rgb
from tests.material.scored_detectors import NUM_IMAGES, draw_set

DESCRIPTION = DetectorDescription(
    architecture="drn_d_tiny", working_size_px=32, mean_RGB=(0.5, 0.5, 0.5), std_RGB=(0.2, 0.2, 0.2), crf_size_px=32
)


def write_detector(run: Path, seed: int = 0) -> Path:
    """A network of random weights, as a training leaves one."""
    run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    save_detector(run, DrnSegmenter("drn_d_tiny"), DESCRIPTION)
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_detector(tmp_path / "artifacts" / "detector")


def test_the_scores_are_those_of_the_images_that_chose_nothing(run: Path, tmp_path: Path) -> None:
    data = draw_set(tmp_path / "set")
    score = measure(run, validation=data, kept=None)
    detector = open_detector(str(run))
    ious = []
    for number in range(NUM_IMAGES):
        image, mask = data / "images" / f"<{number}>.jpg", data / "masks" / f"<{number}>.png"
        if number % 2 == 0:  # these chose the threshold
            image.unlink()
            continue
        map_HW = to_8_bit(detector(decode_rgb(image.read_bytes()), "key")) / 255
        mask_HW = binarise(map_HW, score.own.threshold)[0] > 0
        ious.append(intersection_over_union(mask_HW, decode_grey(mask.read_bytes()) > 127))
    assert score.own.iou == pytest.approx(np.mean(ious))
    for scored, name in ((score.own, str(run)), (score.classical, "rbd")):
        expected = evaluate_folder(data / "images", data / "masks", name)
        found = {"mae": scored.mae, "f_fixed": scored.f_fixed, "f_max": scored.f_max}
        assert found == pytest.approx({name: expected[name] for name in found})
    assert (score.num_images, score.set_name) == (4, f"4 images of {data}")


def test_a_threshold_changes_no_identity(run: Path) -> None:
    before = open_detector(str(run))
    assert before.threshold == PAPERS_THRESHOLD
    score = measure(run, validation=None, kept=None)
    after = open_detector(str(run))
    assert after.identity == before.identity
    assert after.threshold.value == score.own.threshold == score.best_threshold
    assert after.threshold.source == "best IoU on 30 other drawn pictures"


def test_the_papers_threshold_is_kept(run: Path) -> None:
    score = measure(run, validation=None, kept=PAPERS_THRESHOLD)
    assert open_detector(str(run)).threshold == PAPERS_THRESHOLD
    assert score.best_threshold_iou >= score.own.iou - 0.02, "the other is told beside it"


def test_what_was_measured_stays_and_photographs_count_more(run: Path, tmp_path: Path) -> None:
    drawn = measure(run, validation=None, kept=None)
    first = (run / "sanity.json").stat().st_mtime_ns
    assert measure(run, validation=None, kept=None) == drawn
    assert (run / "sanity.json").stat().st_mtime_ns == first
    data = draw_set(tmp_path / "set")
    of_photographs = measure(run, validation=data, kept=None)
    assert (drawn.is_on_photographs, of_photographs.is_on_photographs) == (False, True)
    assert measure(run, validation=None, kept=None) == measure(run, validation=data, kept=None) == of_photographs
    write_detector(run, seed=1)
    assert read_score(run) is None, "of other weights"


def test_a_damaged_file_is_named(run: Path) -> None:
    for content in ("{", "{}", "[]"):
        (run / "sanity.json").write_text(content)
        with pytest.raises(UserError, match=r"remove sanity\.json"):
            open_detector(str(run))


def test_a_set_without_foreground_is_refused(run: Path, tmp_path: Path) -> None:
    data = draw_set(tmp_path / "set")
    for number in range(1, NUM_IMAGES):
        (data / "images" / f"<{number}>.jpg").unlink()
    with pytest.raises(UserError, match="too few with a foreground"):
        measure(run, validation=data, kept=None)


# ---------------------------------------------------------------------------------------------- what the scores decide


def scored(run: Path, *, iou: float, digest: str = "") -> SanityScore:
    """Leave a detector's figures, made up."""
    own = DetectorScore(mae=0.13, f_fixed=0.7, f_max=0.75, iou=iou, threshold=0.5)
    score = SanityScore(
        set_name="a set",
        set_digest=digest,
        num_images=30,
        weights_sha256=json.loads((run / "detector.json").read_text())["weights_sha256"],
        own=own,
        classical=replace(own, iou=0.5),
        classical_name="rbd",
        threshold_source="here",
        best_threshold=0.5,
        best_threshold_iou=iou,
    )
    write_score(run, score)
    return score


def test_a_build_says_what_the_detector_scored(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    scored(run, iou=0.6)
    said = "detector: artifacts/detector (MAE 0.130, F 0.700, IoU 0.600 on a set, threshold 0.5; rbd there:"
    for name in (None, "artifacts/detector", "artifacts/detector:no-crf"):
        assert chosen_detector(name) == (name or "artifacts/detector")
        printed = capsys.readouterr().err
        assert said.replace("artifacts/detector", name or "artifacts/detector") in printed
        assert "warning" not in printed
    assert chosen_detector("rbd") == "rbd"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("digest", ["", "of photographs"])
def test_a_detector_worse_than_a_classical_one_is_not_taken_silently(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], digest: str
) -> None:
    monkeypatch.chdir(tmp_path)
    scored(run, iou=0.4, digest=digest)
    said = "worse masks than rbd on a set (IoU 0.400 against 0.500): take --detector rbd"
    if digest:
        with pytest.raises(UserError) as refused:
            default_detector()
        assert said in str(refused.value)
        assert str(refused.value).endswith("name it: --detector artifacts/detector")
    else:
        assert default_detector() == "artifacts/detector"
        printed = capsys.readouterr().err
        assert f"warning: artifacts/detector finds {said}" in printed
        assert "--validation" in printed, "how to know better than by drawn pictures"
    assert chosen_detector("artifacts/detector") == "artifacts/detector", "who names it gets it"
    assert "warning: artifacts/detector finds" in capsys.readouterr().err
