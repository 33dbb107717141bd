"""Tables from one command: what is planned, that runs are shared and resumed, and what the result says."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from backdrop.cli import main
from backdrop.errors import UserError
from backdrop.stores.drawn_sample.sample_dataset import SampleSettings, draw_if_absent
from backdrop.trainer.evaluation import EVALUATIONS
from backdrop.trainer.evaluation.harness.evaluate import as_kept, chosen_options
from backdrop.trainer.paper_tables.scales import at_scale, scale
from backdrop.trainer.paper_tables.tables import table
from backdrop.trainer.reproduction import comparison, contents, execution, jobs, result_folder
from backdrop.trainer.reproduction.comparison import Sample
from backdrop.trainer.reproduction.jobs import Wanted
from backdrop.trainer.reproduction.reproduce import report
from backdrop.trainer.run import run_folder
from tests.material.paper_runs import finish, run_of

ROOT = Path(__file__).parents[2]


def reproduce(*words: str) -> str:
    result = CliRunner().invoke(main, ["reproduce", *words])
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    return result.output


def test_rows_of_one_training_are_one_run() -> None:
    found = jobs.jobs(Wanted(paper="ryali", tables=("3", "4"), seeds=2))
    assert len(found) == 7 * 2, "Tables 3 and 4 share the baseline, random on q and random on both"
    assert [job.seed for job in found] == [0] * 7 + [1] * 7, "every comparison is there early"


def test_a_classifier_comes_before_what_scores_it() -> None:
    (job,) = jobs.jobs(Wanted(paper="ryali", tables=("13",), rows=("Med. moco none",)))
    assert [one.task for one in job.evaluations] == ["linear", "objectnet"]


def test_a_network_comes_before_those_that_start_from_it() -> None:
    stages = jobs.stages(jobs.jobs(Wanted(paper="ryali", tables=("7",))))
    assert [bool(job.training.start_from) for stage in stages for job in stage[:1]] == [False, True]


def test_cast_at_small_scale_has_a_true_baseline() -> None:
    """Row 4 of CAST's Table 1 trains the same steps as CAST with neither its loss nor its crops."""
    small = scale("small")
    rows = {row.name: row.training for row in table("cast", "1").rows if row.training}
    baseline, crops = (at_scale(rows[name], small) for name in ("MoCo-COCO", "MoCo-COCO + Constrained Crop"))
    differing = {path for path in baseline.counting() if baseline.counting()[path] != crops.counting()[path]}
    assert differing == {"views.0.min_foreground", "views.1.min_foreground"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("rylai",), "Did you mean ryali?"),
        (("ryali", "--table", "A66"), "Did you mean A6?"),
        (("ryali", "--table", "4", "--scale", "smal"), "Did you mean small?"),
        (("ryali", "--table", "4", "--rows", "(e) BG_Swap5 moco"), "Did you mean (e) BG_Swaps moco swaps?"),
        ((), "reproduce ryali or reproduce cast"),
        (("--report", "nowhere"), "nowhere holds no result of reproduce"),
    ],
)
def test_mistakes_are_answered_with_what_there_is(words: tuple[str, ...], message: str) -> None:
    assert message in reproduce(*words)


def test_a_plan_says_what_is_missing_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKDROP_DATA", str(tmp_path))
    text = reproduce("ryali", "--table", "4", "--seeds", "3", "--plan", "--json")
    assert "5 trainings" not in text, "as JSON"
    text = reproduce("ryali", "--table", "4", "--seeds", "3", "--plan")
    assert "5 trainings, 15 runs (0 are there)" in text
    assert "V100-hours" in text
    assert "artifacts/imagenet-train-u2net.zarr" in text
    assert "--threshold 0.9" in text
    assert f"there is no folder {tmp_path}/imagenet" in text
    assert not list(tmp_path.iterdir()), "a plan writes nothing"


def test_seeds_tell_a_difference_or_leave_it_open() -> None:
    baseline = Sample(by_seed={0: 50.0, 1: 52.0, 2: 51.0})
    found = comparison.paired(Sample(by_seed={0: 53.0, 1: 55.1, 2: 53.9}), baseline)
    assert found is not None
    assert found.sample.mean == pytest.approx(3.0)
    assert found.sample.sem == pytest.approx(0.1 / 3**0.5)
    # Student's t of 2 degrees of freedom at 97.5 %: 4.3027.
    assert found.sample.interval == pytest.approx((3 - 4.3027 * 0.1 / 3**0.5, 3 + 4.3027 * 0.1 / 3**0.5), abs=1e-4)
    assert found.direction == "up"
    noisy = comparison.paired(Sample(by_seed={0: 53.0, 1: 51.0, 2: 52.0}), baseline)
    assert noisy is not None
    assert noisy.direction == "tie"
    assert comparison.verdict("up", "up") == "agrees"
    assert comparison.verdict("tie", "up") == "not told apart"
    assert comparison.verdict("down", "up") == "opposite"
    assert comparison.paired(baseline, Sample(by_seed={5: 1.0})) is None


def test_a_rows_baseline_is_of_its_method() -> None:
    def baseline(paper: str, number: str, name: str, method: str) -> str:
        rows = table(paper, number).rows
        row = next(row for row in rows if row.name == name and row.method == method)
        found = contents.baseline_of(row, rows)
        return "" if found is None else f"{found.name} {found.method}"

    assert baseline("ryali", "4", "(e) BG_Swaps", "moco") == "(a) baseline moco"
    assert baseline("ryali", "4", "(a) baseline", "moco") == ""
    assert baseline("cast", "1", "MoCo-COCO + CAST", "cast") == "MoCo-COCO moco"


def test_random_weights_are_scored_on_a_run_of_the_table(tmp_path: Path) -> None:
    """CAST's row 1: the network of row 4 with weights drawn anew, in files of its own beside the trained one's."""
    wanted = Wanted(paper="cast", tables=("1",), seeds=1)
    (job,) = (job for job in jobs.jobs(wanted) if any(one.is_untrained for one in job.evaluations))
    rows = {row.name: row for row in table("cast", "1").rows}
    assert job.training == rows["MoCo-COCO"].training
    untrained = [one for one in job.evaluations if one.is_untrained]
    assert {one.task for one in untrained} == {"voc-detection", "coco-segmentation"}
    for one in untrained:
        trained = replace(one, is_untrained=False)
        assert trained in job.evaluations
        assert jobs.evaluation_name(trained) != jobs.evaluation_name(one)
    cell = rows["Random Init"].cells[0]
    assert cell.evaluation is not None
    file = execution.scores_file(tmp_path, job.name, cell.evaluation)
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"scores": {cell.score: 21.5}}))
    filled = {row.row.name: row for row in contents.fill(wanted, tmp_path)[0].rows}
    assert [one.ours.by_seed for one in filled["Random Init"].cells if one.ours] == [{0: 21.5}]
    assert not any(one.ours for one in filled["MoCo-COCO"].cells)
    assert filled["Random Init"].runs == ()


TABLE_4 = ("ryali", "--table", "4", "--scale", "demo", "--out", "out", "--workers", "0", "--rows", "(a)")
DEMO = (*TABLE_4, "--rows", "(d)")


def test_a_row_of_table_4_is_trained_scored_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain at its shortest; with a kill in the middle, below."""
    monkeypatch.chdir(tmp_path)
    draw_if_absent(Path("artifacts/sample"), SampleSettings(num_train=32, num_val=8, side_px=32))
    assert "page: out/index.html" in reproduce(*TABLE_4)
    (trained,) = Path("out").glob("trainings/*/reproduction/trained.json")
    mtime = trained.stat().st_mtime_ns
    assert "page: out/index.html" in reproduce(*TABLE_4)
    assert trained.stat().st_mtime_ns == mtime


@pytest.mark.slow
def test_table_4_is_filled_in_killed_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw_if_absent(Path("artifacts/sample"), SampleSettings(num_train=64, num_val=20, side_px=48))
    program = [sys.executable, str(ROOT / "cli.py"), "--quiet", "reproduce", *DEMO]
    first = subprocess.Popen(program, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    while first.poll() is None and not list(Path("out").glob("trainings/*/reproduction/trained.json")):
        time.sleep(0.05)
    assert first.poll() is None, "it was to be killed at work"
    first.send_signal(signal.SIGKILL)
    first.wait()
    trained = {path: path.stat().st_mtime_ns for path in Path("out").glob("trainings/*/reproduction/trained.json")}
    assert len(trained) == 1
    assert "page: out/index.html" in reproduce(*DEMO)
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in trained.items()), "what was there was kept"
    _check_result(Path("out"))


def _check_result(out: Path) -> None:
    with (out / result_folder.CSV).open(newline="") as file:
        lines = {line["row"]: line for line in csv.DictReader(file)}
    assert set(lines) == {"(a) baseline", "(d) BG_Random"}
    assert all(0 <= float(line["ours"]) <= 100 and line["seeds"] == "1" for line in lines.values())
    assert lines["(d) BG_Random"]["paper_direction"] == "up"
    assert not any(line["value"] for line in lines.values()), "the paper's numbers are not set beside the demo's"
    page, markdown = (out / result_folder.PAGE).read_text(), (out / result_folder.MARKDOWN).read_text()
    for departure in scale("demo").departures:
        assert page.count(departure.replace("'", "&#x27;")) == 1
        assert markdown.count(departure) == 1
    assert page.count("report.html") == 2
    assert "| row | linear top1 |" in markdown
    assert "<svg" in page
    assert "69.1" not in page
    (out / result_folder.PAGE).unlink()
    assert report(out).page.read_text() == page


def test_one_rows_failure_is_said_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the papers' scale without any data: nothing can be trained, and every row says what it lacks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKDROP_DATA", str(tmp_path))
    from backdrop.trainer.reproduction.execution import Spec, run_job
    from backdrop.trainer.reproduction.stores import Stores

    found = jobs.jobs(Wanted(paper="ryali", tables=("4",)))
    place = Stores(given=tmp_path / "artifacts", own=tmp_path / "out/stores")
    spec = Spec(jobs=found, out=tmp_path / "out", stores=place, loader_threads=0)
    receipt = run_job(spec, 1, lambda steps: None)
    assert "imagenet-train-u2net.zarr" in receipt["failed"]["training"]
    result_folder.keep(Wanted(paper="ryali", tables=("4",)), tmp_path / "out")
    assert "imagenet-train-u2net.zarr" in report(tmp_path / "out").page.read_text()


def test_a_changed_setting_is_named_instead_of_the_papers_number(tmp_path: Path) -> None:
    wanted = Wanted(paper="ryali", tables=("4",), settings=("algorithm.temperature=0.1",))
    (filled,) = contents.fill(wanted, tmp_path)
    assert all("algorithm.temperature is 0.1, the row's 0.2" in row.differs for row in filled.rows)
    assert not any(one.paper for row in filled.rows for one in row.cells)
    (filled,) = contents.fill(Wanted(paper="ryali", tables=("4",), settings=("is_compiled=true",)), tmp_path)
    assert [one.paper for row in filled.rows for one in row.cells] == ["67.7", "68.3", "68.2", "69.1", "69.7"]


def test_a_run_on_another_store_or_odd_data_is_no_row_of_the_paper(tmp_path: Path) -> None:
    """What differs is read of the run as it is, and not of what was asked for."""
    (training,) = {row.training for row in table("ryali", "4").rows if row.name == "(d) BG_Random"}
    assert training is not None
    wanted = Wanted(paper="ryali", tables=("4",), rows=("(d)",))
    folder = execution.run_folder_of(tmp_path, jobs.run_name(training, 0))
    run = run_of(training)
    assert run.store is not None
    origin = run_folder.Origin(recipe="moco_v2_220", store=replace(run.store, num_rows=9_469))
    run_folder.open_folder(folder, training.resolved(), origin=origin, store_id="s", resume=False)
    finish(folder, 220)
    (folder / execution.SCORES).mkdir()
    (folder / execution.SCORES / "trained.json").write_text("{}")
    (folder / execution.SCORES / "linear.json").write_text(
        json.dumps({"scores": {"top1": 60.0}, "problems": ["val images: 3 where the official data set has 50000"]})
    )
    (filled,) = contents.fill(wanted, tmp_path)
    assert [line.partition(":")[0] for line in filled.rows[0].differs] == [
        "it was trained on 9,469 images, imagenet has 1,281,167", "linear"
    ]  # fmt: skip
    assert filled.rows[0].cells[0].paper == ""


def test_a_classifier_of_another_fit_is_fitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Table A12 leaves one with BatchNorm frozen; what is scored afterwards is of Table 2's."""
    scored = []
    monkeypatch.setattr(execution, "evaluate_run", lambda task, *_, overrides, **__: scored.append((task, overrides)))
    monkeypatch.setattr(execution, "missing_data", lambda evaluation: "")
    (real,) = {
        cell.evaluation for row in table("ryali", "2").rows for cell in row.cells if cell.score == "real_top1"
    } - {cell.evaluation for cell in table("ryali", "2").rows[0].cells}
    assert real is not None
    for bn_mode, tasks in (("", ["real"]), ("eval", ["linear", "real"])):
        scored.clear()
        options = as_kept(asdict(chosen_options(EVALUATIONS.load("linear"), (f"bn_mode={bn_mode}",))))
        (tmp_path / "linear.json").write_text(json.dumps({"options": options, "facts": {}}))
        execution._score(tmp_path, real, tmp_path / "real.json")
        assert [task for task, _ in scored] == tasks


def test_a_folder_that_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no result of reproduce"):
        result_folder.read(tmp_path)
