"""The page about detectors: its ranking and curves against maps made for the purpose, its words on bad input."""

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from backdrop import cli
from backdrop.errors import UserError
from backdrop.saliency import report_page
from backdrop.saliency.deepusps2.training_log import read_training_log, run_of
from backdrop.saliency.scoring.metrics import evaluate_folder
from backdrop.stores.datasets import open_index
from tests.material.page_material import Checker
from tests.material.scored_detectors import NUM_IMAGES, draw_set, write_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_set(tmp_path_factory.mktemp("set") / "<set>")


def test_ranking_scores_and_curve(data: Path) -> None:
    index = open_index("folder", root=data / "images")
    measured = report_page.measure(index, data / "masks", f"masks:{data / 'maps'}")
    assert [extreme.key for extreme in measured.worst] == [f"<{number}>.jpg" for number in range(6)]
    assert [extreme.key for extreme in measured.best] == [f"<{number}>.jpg" for number in range(7, 1, -1)]
    assert measured.worst[0].scores.iou == pytest.approx(1 / 16)
    # A map of value 200 finds (1 + 2n) of 16 columns of image n at every cut up to 200, and nothing above.
    found = np.mean([(1 + 2 * number) / 16 for number in range(NUM_IMAGES)])
    np.testing.assert_allclose(measured.recall_T[1:201], found)
    np.testing.assert_allclose(measured.precision_T[1:201], 1.0)
    np.testing.assert_allclose(measured.precision_T[201:], 0.0)
    expected = evaluate_folder(data / "images", data / "masks", f"masks:{data / 'maps'}")
    assert measured.summary == {name: expected[name] for name in measured.summary}


def test_the_page(data: Path, tmp_path: Path) -> None:
    run, page = write_run(tmp_path / "<run>"), tmp_path / "new" / "page.html"
    words = ["saliency", "report", "--images", str(data / "images"), "--masks", str(data / "masks"), "--run", str(run)]
    words += ["--detector", f"masks:{data / 'maps'}", "--detector", f"masks:{data / 'masks'}", "--out", str(page)]
    result = CliRunner().invoke(cli.main, words)
    assert result.exit_code == 0, result.output
    html = page.read_text()
    checked = Checker(html)
    assert checked.seen.count("img") == 2 * 2 * 6 * 4
    assert not re.search(r"<(\d|run|set)>", html), "names of files are escaped"
    assert "&lt;0&gt;.jpg: IoU 0.062" in html
    assert "after every round" in html
    assert "stage 1 rbd round 2" in html


def test_the_course_of_a_training(tmp_path: Path) -> None:
    progress = read_training_log(write_run(tmp_path / "run"))
    lines = report_page._score_lines(progress, "f_fixed")
    assert [(line.label, line.x_N.tolist()) for line in lines] == [("rbd", [1, 2]), ("hs", [1, 2]), ("stage 2", [3])]
    np.testing.assert_allclose(np.concatenate([line.y_N for line in lines]), [0.5, 0.6, 0.7, 0.8, 0.9])
    assert run_of(f"{tmp_path / 'run'}:crf") == tmp_path / "run"
    assert run_of("rbd") is None


def test_an_unscored_training_says_how(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "validation.jsonl").unlink()
    page = report_page.write_report(tmp_path / "p.html", images=None, masks=None, detectors=("rbd",), runs=[run])
    assert "--validation" in page.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--images and --masks"),
        (("--images", "somewhere"), "both --images and --masks"),
        (("--run", "nowhere"), "training.jsonl"),
    ],
)
def test_mistakes_are_named(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.main, ["saliency", "report", *words, "--out", str(tmp_path / "page.html")])
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "page.html").exists()


def test_a_damaged_log_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "validation.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"validation\.jsonl"):
        read_training_log(run)
