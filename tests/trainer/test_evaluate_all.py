"""The papers' tables beside ours: which numbers belong to which run, and what is said of data that are not there."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from backdrop.errors import UserError
from backdrop.stores.format.reader import open_store
from backdrop.trainer import evaluation
from backdrop.trainer.backbones import build_backbone
from backdrop.trainer.evaluation import EVALUATIONS, cifar10, grounding
from backdrop.trainer.evaluation.harness import evaluate_all as _all
from backdrop.trainer.evaluation.harness.evaluate import as_kept, chosen_options
from backdrop.trainer.evaluation.harness.evaluate_all import Choice
from backdrop.trainer.evaluation.harness.paper_cells import Printed, Scored, options_of, printed, tasks_of
from backdrop.trainer.evaluation.harness.subject import FITTED
from backdrop.trainer.paper_tables.matching import TrainedRun, compared
from backdrop.trainer.paper_tables.tables import table
from backdrop.trainer.run import run_folder
from backdrop.trainer.run.loop import resolve_settings
from backdrop.trainer.settings import to_json
from tests.material import small_scenes
from tests.material.paper_runs import run_of


def scored(run: TrainedRun | None, paper: str, task: str, **summary: Any) -> Scored:
    """A score with the defaults of the paper's evaluation, of a classifier that `linear` fitted."""
    options = as_kept(asdict(chosen_options(EVALUATIONS.load(task), options_of(paper, task))))
    made = {"options": options, "facts": {}, "problems": [], "classifier": FITTED} | summary
    found = {} if run is None else compared(paper, run)
    return Scored(run=run, compared=found, folder=Path("run"), is_untrained=False, task=task, summary=made)


def run_by(recipe: str, method: str, background: str, *overrides: str) -> TrainedRun:
    """A run of a recipe on the store of its paper."""
    settings = resolve_settings(recipe, method, background, method == "cast", overrides)
    paper, number, name = ("cast", "1", "MoCo-COCO + CAST") if "coco" in recipe else ("ryali", "2", "MoCo-v2 + BG_RM")
    row = next(row for row in table(paper, number).rows if row.name == name)
    assert row.training is not None
    return run_of(row.training, settings)


@pytest.mark.parametrize(
    ("method", "background", "recipe", "tables", "metric", "value"),
    [
        ("moco", "none", "moco_v2_220", ["2", "3", "4", "5"], ("linear", "top1"), "67.7"),
        ("byol", "rm", "byol_1000", ["17"], ("cifar100", "top1"), "66.5"),
        ("moco", "swaps", "moco_v2_800", ["19"], ("voc-detection", "ap"), "57.5"),
    ],
)
def test_a_run_finds_its_row_of_ryali(
    method: str, background: str, recipe: str, tables: list[str], metric: tuple[str, str], value: str
) -> None:
    found = printed("ryali", scored(run_by(recipe, method, background), "ryali", metric[0]), metric[1])
    assert [cell.table for cell in found.cells][: len(tables)] == tables
    assert {cell.value for cell in found.cells} == {value}
    assert found.differs == ""
    assert found.assumed == ("length is not stated; taken as full" if tables == ["19"] else "")


@pytest.mark.parametrize(
    ("overrides", "value"),
    [([], "74.0"), (["cast.weight=0"], "71.1"), (["cast.weight=0", "views.min_foreground=0"], "67.5")],
)
def test_a_run_finds_its_row_of_cast(overrides: list[str], value: str) -> None:
    """Rows 6, 5 and 4 of Table 1, by the commands that trainer/recipes/CAST.md gives for them."""
    run = run_by("cast_coco", "cast", "none", *overrides)
    assert printed("cast", scored(run, "cast", "voc07-svm"), "voc07_map").cells[0].value == value


@pytest.mark.parametrize(
    ("paper", "run", "words"),
    [
        ("cast", ("moco_v2_200", "moco", "none"), "trained on imagenet, the row's is coco"),
        ("ryali", ("moco_v2_220", "moco", "rm", "background.probability=0.25"), "background.probability is 0.25"),
        ("ryali", ("moco_v2_220", "moco", "none", "epochs=219"), "epochs is 219, the row's 220"),
        ("ryali", ("moco_v2_220", "moco", "none", "backbone=resnet18"), "backbone is resnet18, the row's resnet50"),
        ("ryali", ("smoke", "moco", "rm"), "more (nearest: Table"),
        ("cast", ("cast_coco", "cast", "none", "cast.variant=released"), "cast.variant is released"),
    ],
)
def test_beside_a_run_of_another_kind_stands_what_differs(paper: str, run: tuple[str, ...], words: str) -> None:
    found = printed(paper, scored(run_by(*run), paper, "linear"), "top1")
    assert found.cells == ()
    assert words in found.differs


def test_what_was_assumed_of_a_row_is_said_once_below_the_table() -> None:
    row = {"task": "voc-detection", "value": 57.0, "tables": ["19"], "paper": 57.5, "difference": -0.5, "differs": ""}
    rows = [row | {"metric": metric, "assumed": "length is not stated"} for metric in ("ap", "ap50")]
    lines = _all.table({"rows": rows, "missing": {}, "failed": {}}).splitlines()
    assert lines[3:] == ["assumed of the paper's voc-detection: length is not stated"]


def test_another_protocol_or_odd_data_have_no_number_beside_them() -> None:
    run = run_by("moco_v2_800", "moco", "none")

    def differs(task: str, metric: str, **summary: Any) -> str:
        found = printed("ryali", scored(run, "ryali", task, **summary), metric)
        assert found.cells == ()
        return found.differs

    options = as_kept(asdict(cifar10.Options()))
    assert differs("cifar10", "top1", options=options | {"epochs": 3}) == "cifar10.epochs is 3, the paper's 100"
    assert differs("cifar10", "top1", problems=["few images", "more"]) == "the data are odd: few images and 1 more"
    assert "trained with its own" in differs("real", "real_top1", classifier="trained with its own")
    assert "how its classifier was fitted is not known" in differs("real", "real_top1")
    assert printed("ryali", scored(run, "ryali", "cifar10", options=options | {"seed": 3}), "top1").cells
    assert printed("ryali", scored(None, "ryali", "cifar10"), "top1").differs.startswith("a file of weights")
    assert printed("ryali", scored(run, "ryali", "cifar10"), "best_top1") == Printed()


def test_the_classifier_of_the_papers_protocol_is_what_is_scored(tmp_path: Path) -> None:
    run = run_by("moco_v2_800", "moco", "none")
    options = as_kept(asdict(chosen_options(EVALUATIONS.load("linear"), ())))
    here = replace(scored(run, "ryali", "real"), folder=tmp_path)
    for changes, words in (({}, ""), ({"epochs": 2}, "linear.epochs is 2, the paper's None")):
        (tmp_path / "linear.json").write_text(json.dumps({"options": options | changes, "facts": {}}))
        assert printed("ryali", here, "real_top1").differs == words


def test_batch_norm_as_the_method_has_it_is_a12s_row() -> None:
    """Table 2's number of BYOL is A12's with adaptation; without, A12 has another one."""
    run = run_by("byol_1000", "byol", "none")
    linear = as_kept(asdict(chosen_options(EVALUATIONS.load("linear"), ())))
    adapted = printed("ryali", scored(run, "ryali", "linear", facts={"bn_mode": "adapt"}), "top1")
    assert {"2", "A12"} <= {cell.table for cell in adapted.cells}
    frozen = scored(run, "ryali", "linear", options=linear | {"bn_mode": "eval"}, facts={"bn_mode": "eval"})
    assert [cell.table for cell in printed("ryali", frozen, "top1").cells] == ["A12"]


def test_random_weights_are_a_row_of_cast() -> None:
    run = run_by("cast_coco", "cast", "none")
    untrained = replace(scored(run, "cast", "voc-detection"), is_untrained=True)
    assert printed("cast", untrained, "ap").cells[0].row == "Random Init"
    assert printed("cast", replace(untrained, run=run_by("smoke", "cast", "none")), "ap").differs
    assert printed("cast", replace(scored(run, "cast", "grounding"), is_untrained=True), "mean_iou").cells == ()


@pytest.mark.parametrize("recipe", ["ryali", "cast"])
def test_every_evaluation_of_the_tables_exists(recipe: str) -> None:
    assert set(tasks_of(recipe)) | set(tasks_of(recipe, "supervised")) <= set(evaluation.NAMES)
    assert "classification" not in tasks_of(recipe)
    assert ("classification" in tasks_of(recipe, "supervised")) == (recipe == "ryali")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of some data sets, and evaluations that answer at once."""
    root = tmp_path / "data"
    monkeypatch.setenv("BACKDROP_DATA", str(root))
    for name in ("imagenet", "cifar10", "coco"):
        (root / name).mkdir(parents=True)
    for name in ("real.json", "1percent.txt", "10percent.txt"):
        (root / "imagenet" / name).touch()
    return root


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    with torch.random.fork_rng():
        save_file(build_backbone("resnet18").state_dict(), path)
    return path


def settings_in(run: Path) -> None:
    """A run's folder with no more than its settings."""
    run.mkdir()
    run_folder.write_json(run / "settings.json", to_json(resolve_settings("smoke", "moco", "none", False, [])))


def answering(done: list[str]) -> Callable[..., dict]:
    def evaluate(task: str, *_: object, **__: object) -> dict:
        if task == "real":
            raise UserError("no labels")
        done.append(task)
        return {"scores": {"top1": 70.0}}

    return evaluate


def test_missing_data_are_listed_and_failures_do_not_end_the_rest(
    data: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(_all, "evaluate_run", answering(done))
    summary = _all.evaluate_all(weights, "ryali", Choice())
    assert summary["failed"] == {"real": "no labels"}
    assert {row["task"] for row in summary["rows"]} >= {"linear", "cifar10"}
    assert done[-1] == "coco-segmentation"  # days, so after all others; in the table at its place
    assert [row["task"] for row in summary["rows"]] == [task for task in tasks_of("ryali") if task in done]
    assert "imagenet-r" in summary["missing"]
    assert "Expected: " in summary["missing"]["imagenet-r"]
    text = _all.table(summary)
    assert "not run: imagenet-r" in text
    assert "failed: real: no labels" in text
    assert json.dumps(summary)
    with pytest.raises(UserError, match="no paper 'dino'"):
        _all.evaluate_all(weights, "dino", Choice())


def test_some_evaluations_with_options_of_their_own(data: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(_all, "evaluate_run", answering(done))
    _all.evaluate_all(weights, "ryali", Choice(only=("cifar10", "linear"), skip=("linear",)))
    assert done == ["cifar10"]
    with pytest.raises(UserError, match=r"cifar11: not among .* cifar10"):
        _all.plan(weights, "ryali", Choice(skip=("cifar11",)))
    with pytest.raises(UserError, match=r"TASK\.NAME=VALUE"):
        _all.plan(weights, "ryali", Choice(overrides=("epochs=3",)))
    with pytest.raises(UserError, match="epoch"):
        _all.plan(weights, "ryali", Choice(overrides=("linear.epoch=3",)))
    store = data / "coco" / "a.b.zarr"
    chosen = Choice(only=("grounding",), overrides=(f"grounding.store={store}",))
    (step,) = _all.plan(weights, "cast", chosen)
    assert step.state == "missing"
    assert step.why.startswith(f"there is no {store}. Expected: ")
    store.mkdir()
    (step,) = _all.plan(weights, "cast", chosen)
    assert (step.state, step.overrides) == ("to do", (f"store={store}",))
    assert "Visual grounding" in _all.plan_table([step])


def test_cast_is_scored_as_its_paper_scored_it(data: Path, weights: Path) -> None:
    """An FPN and MoCo's linear schedule, whose defaults are Ryali's; what the user says comes last."""

    def options(recipe: str, task: str, *overrides: str) -> Any:
        (step,) = _all.plan(weights, recipe, Choice(only=(task,), overrides=overrides))
        return chosen_options(EVALUATIONS.load(task), step.overrides)

    assert (options("cast", "coco-segmentation").form, options("ryali", "coco-segmentation").form) == ("fpn", "c4")
    assert (options("cast", "linear").protocol, options("ryali", "linear").protocol) == ("cast", "")
    assert options("cast", "coco-segmentation", "coco-segmentation.form=c4").form == "c4"


def test_kept_scores_are_those_of_the_same_weights_data_and_options(
    data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    settings_in(run)
    digests = ["weights"]
    monkeypatch.setattr(_all, "_digests", lambda run, choice: set(digests))
    kept = {
        "weights_sha256": "weights", "options": as_kept(asdict(cifar10.Options())), "data": str(data / "cifar10"),
        "scores": {"top1": 61.0}, "facts": {}, "problems": [],
    }  # fmt: skip

    def state(changes: dict[str, Any] | None = None, **choice: object) -> str:
        (run / "cifar10.json").write_text(json.dumps(kept | (changes or {})))
        (step,) = _all.plan(run, "ryali", Choice(only=("cifar10",), **choice))
        return step.state

    assert state() == "kept"
    assert state(overrides=("cifar10.epochs=3",)) == "to do"
    assert state({"problems": ["train images: 3 where the official data set has 50000"]}) == "to do"
    # `linear` has adapted statistics since, which this evaluation does not use.
    assert state({"weights_sha256": "before linear", "facts": {"pretrained_sha256": "weights"}}) == "kept"
    assert state({"facts": {"pretrained_sha256": "others"}}) == "to do"
    monkeypatch.setenv("BACKDROP_DATA", str(tmp_path))
    (tmp_path / "cifar10").mkdir()
    assert state() == "to do"
    monkeypatch.setenv("BACKDROP_DATA", str(data))
    digests[0] = "others"
    assert state() == "to do"


def test_a_grounding_by_other_masks_is_not_kept(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that was built anew in the same place."""
    run, store = tmp_path / "run", small_scenes.build(tmp_path / "scenes")[0]
    settings_in(run)
    monkeypatch.setattr(_all, "_digests", lambda run, choice: {"weights"})
    options = replace(grounding.Options(), store=str(store))

    def state(store_id: str) -> str:
        kept = {
            "weights_sha256": "weights", "options": as_kept(asdict(options)), "data": str(data / "coco"),
            "scores": {"mean_iou": 0.3}, "facts": {"store_id": store_id}, "problems": [],
        }  # fmt: skip
        (run / "grounding.json").write_text(json.dumps(kept))
        (step,) = _all.plan(run, "cast", Choice(only=("grounding",), overrides=(f"grounding.store={store}",)))
        return step.state

    assert state(open_store(store).store_id) == "kept"
    assert state("another") == "to do"
    (store / "zarr.json").unlink()
    assert state("another") == "missing"


def test_weights_are_read_anew_only_after_something_was_computed(
    data: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`linear` leaves a classifier that the evaluations after it score; a kept score changes nothing."""
    num_read = []
    monkeypatch.setattr(_all, "_digests", lambda run, choice: num_read.append(1) or {"weights"})
    monkeypatch.setattr(_all, "_kept_summary", lambda *_: {"scores": {"top1": 1.0}})
    _all.evaluate_all(weights, "ryali", Choice())
    assert len(num_read) == 2  # for the plan, and once more
