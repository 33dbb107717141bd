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
from backdrop.trainer.evaluation.harness.paper_numbers import paper_numbers, tasks_of
from backdrop.trainer.run.loop import resolve_settings
from tests.material import small_scenes


@pytest.mark.parametrize(
    ("method", "background", "recipe", "table", "metric", "value"),
    [
        ("moco", "none", "moco_v2_220", "2", ("linear", "top1"), 67.7),
        ("moco", "swaps", "moco_v2_220", "10", ("imagenet-9", "mixed_next"), 82.2),
        ("moco", "rm", "moco_v2_800", "2", ("real", "real_top1"), 78.9),
        ("byol", "random", "byol_300", "11", ("imagenet-9", "bg_gap"), 4.6),
        ("byol", "rm", "byol_1000", "17", ("cifar100", "top1"), 66.5),
        ("swav", "random", "swav_800", "20", ("shape-bias", "shape_bias"), 19.4),
        ("swav", "none", "swav_100", "A22", ("imagenet-a", "only_fg_top1"), 2.7),
    ],
)
def test_a_run_finds_its_column_of_ryali(
    method: str, background: str, recipe: str, table: str, metric: tuple[str, str], value: float
) -> None:
    settings = resolve_settings(recipe, method, background, False, [])
    assert paper_numbers("ryali", settings)[metric] == (table, value)


@pytest.mark.parametrize(
    ("overrides", "value"),
    [([], 74.0), (["cast.weight=0"], 71.1), (["cast.weight=0", "views.min_foreground=0"], 67.5)],
)
def test_a_run_finds_its_column_of_cast(overrides: list[str], value: float) -> None:
    """Rows 6, 5 and 4 of Table 1, by the commands that trainer/recipes/CAST.md gives for them."""
    settings = resolve_settings("cast_coco", "cast", "none", True, overrides)
    assert paper_numbers("cast", settings)["voc07-svm", "voc07_map"] == ("1", value)
    without = replace(settings, cast=None)  # of MoCo, which knows no such weight
    assert paper_numbers("cast", without)["voc07-svm", "voc07_map"] == ("1", min(value, 71.1))


def test_a_run_of_another_kind_has_no_number_beside_it() -> None:
    assert paper_numbers("ryali", None) == {}
    assert paper_numbers("cast", resolve_settings("moco_v2_220", "moco", "rm", False, [])) == {}
    assert paper_numbers("ryali", resolve_settings("cast_coco", "cast", "none", True, [])) == {}


@pytest.mark.parametrize("change", [{"epochs": -1}, {"backbone": "resnet18"}, {"cifar_stem": True}])
@pytest.mark.parametrize(
    ("paper", "recipe", "method"),
    [
        ("ryali", "moco_v2_220", "moco"),
        ("ryali", "byol_300", "byol"),
        ("ryali", "swav_100", "swav"),
        ("cast", "cast_coco", "cast"),
    ],
)
def test_a_shorter_run_or_another_network_has_no_number_beside_it(
    paper: str, recipe: str, method: str, change: dict[str, Any]
) -> None:
    settings = resolve_settings(recipe, method, "none", method == "cast", [])
    assert paper_numbers(paper, settings)
    changed = change | ({"epochs": settings.epochs + change["epochs"]} if "epochs" in change else {})
    assert paper_numbers(paper, replace(settings, **changed)) == {}


def test_the_smoke_recipe_and_cast_without_its_crops_are_of_no_table() -> None:
    assert paper_numbers("ryali", resolve_settings("smoke", "moco", "rm", False, [])) == {}
    assert paper_numbers("cast", resolve_settings("smoke", "cast", "none", True, [])) == {}
    assert paper_numbers("cast", resolve_settings("cast_coco", "cast", "none", True, ["views.min_foreground=0"])) == {}


@pytest.mark.parametrize("recipe", ["ryali", "cast"])
def test_every_evaluation_of_the_tables_exists(recipe: str) -> None:
    assert set(tasks_of(recipe)) <= set(evaluation.NAMES)


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
    run.mkdir()
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
    run.mkdir()
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
    monkeypatch.setattr(_all, "_kept_scores", lambda *_: {"top1": 1.0})
    _all.evaluate_all(weights, "ryali", Choice())
    assert len(num_read) == 2  # for the plan, and once more
