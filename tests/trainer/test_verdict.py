"""What a run's page leads with: a sentence about its features, and bars of what backgrounds are worth."""

import json
from pathlib import Path

from backdrop.stores.pages.bars import Bar, bars
from backdrop.trainer.report.verdict import VARIANTS, verdict

KNN = {
    "scores": {"top1": 83.0, "original_top1": 83.0, "mixed_same_top1": 82.0, "mixed_rand_top1": 40.0, "bg_gap": 42.0},
    "untrained": {"top1": 20.4, "mixed_same_top1": 25.0, "bg_gap": 5.2},
}


def kept(run: Path, task: str, summary: dict) -> Path:
    (run / f"{task}.json").write_text(json.dumps(summary))
    return run


def test_it_says_accuracy_and_gap_beside_the_untrained_network(tmp_path: Path) -> None:
    page = verdict(kept(tmp_path, "knn", KNN))
    assert "its nearest neighbours name <b>83 %</b> (untrained 20 %)" in page
    assert "worth <b>42 points</b> (untrained 5) to it" in page
    assert page.count("<li>") == 3
    assert VARIANTS["mixed_rand"][1] in page
    assert page.count("<i ") == 1, "a tick where the untrained network was scored"


def test_linear_comes_before_neighbours_and_the_gap_of_imagenet_9_before_theirs(tmp_path: Path) -> None:
    kept(tmp_path, "knn", KNN)
    kept(tmp_path, "linear", {"scores": {"top1": 67.7}, "untrained": {}})
    kept(tmp_path, "imagenet-9", {"scores": {"mixed_same": 90.0, "bg_gap": 8.8}, "untrained": {}})
    page = verdict(tmp_path)
    assert "a linear classifier on its features names <b>68 %</b>; a right background is worth <b>9 points</b>" in page
    assert page.count("<li>") == 1


def test_a_run_that_was_not_scored_says_how(tmp_path: Path) -> None:
    assert f"evaluate knn --run {tmp_path}" in verdict(tmp_path)


def test_a_bar_stays_in_its_box_and_its_words_are_escaped() -> None:
    drawn = bars("<score>", [Bar(label="a & b", words="<i>", value=120.0, before=-3.0)])
    assert "width: 100.0%" in drawn
    assert "left: 0.0%" in drawn
    assert 'aria-label="&lt;score&gt;"' in drawn
    assert "a &amp; b" in drawn
    assert "<small>&lt;i&gt;</small>" in drawn
