"""The papers' tables beside ours: which numbers belong to which run, and what is said of data that are not there."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stores.errors import UserError
from trainer import evaluation
from trainer.evaluation import _all
from trainer.evaluation._paper_numbers import paper_numbers, tasks_of
from trainer.run.loop import resolve_settings


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


@pytest.mark.parametrize(("with_cast", "phi", "value"), [(True, 0.2, 74.0), (False, 0.2, 71.1), (False, 0.0, 67.5)])
def test_a_run_finds_its_column_of_cast(with_cast: bool, phi: float, value: float) -> None:
    settings = resolve_settings("cast_coco", "cast", "none", True, [])
    views = tuple(replace(view, min_foreground=phi) for view in settings.views)
    settings = replace(settings, views=views, cast=settings.cast if with_cast else None)
    assert paper_numbers("cast", settings)["voc07-svm", "map"] == ("1", value)


def test_a_run_of_another_kind_has_no_number_beside_it() -> None:
    assert paper_numbers("ryali", None) == {}
    assert paper_numbers("cast", resolve_settings("moco_v2_220", "moco", "rm", False, [])) == {}
    assert paper_numbers("ryali", resolve_settings("cast_coco", "cast", "none", True, [])) == {}


@pytest.mark.parametrize("recipe", ["ryali", "cast"])
def test_every_evaluation_of_the_tables_exists(recipe: str) -> None:
    assert set(tasks_of(recipe)) <= set(evaluation.NAMES)


def test_missing_data_are_listed_and_failures_do_not_end_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKDROP_DATA", str(tmp_path))
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "cifar10").mkdir()

    def evaluate(task: str, *_: object, **__: object) -> dict:
        if task == "real":
            raise UserError("no labels")
        return {"scores": {"top1": 70.0}}

    monkeypatch.setattr(_all, "evaluate_run", evaluate)
    summary = _all.evaluate_all(tmp_path / "weights.safetensors", "ryali")
    assert summary["failed"] == {"real": "no labels"}
    assert {row["task"] for row in summary["rows"]} >= {"linear", "cifar10"}
    assert "imagenet-r" in summary["missing"]
    assert "Expected: " in summary["missing"]["imagenet-r"]
    text = _all.table(summary)
    assert "not run: imagenet-r" in text
    assert "failed: real: no labels" in text
    assert json.dumps(summary)
    with pytest.raises(UserError, match="no paper 'dino'"):
        _all.evaluate_all(tmp_path, "dino")
