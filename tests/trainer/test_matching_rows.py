"""A paper's row is a run's where every setting, the images and the masks are the row's, and nowhere else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backdrop.settings import leaves
from backdrop.trainer.paper_tables.counting_settings import NOT_COUNTING, counting
from backdrop.trainer.paper_tables.matching import TrainedRun, compared, differences, nearest, read_run, rows_of
from backdrop.trainer.paper_tables.records import Training
from backdrop.trainer.paper_tables.tables import papers, table, tables, trainings
from backdrop.trainer.run import run_folder
from backdrop.trainer.run.loop import resolve_settings
from backdrop.trainer.settings import RunSettings, apply_overrides
from tests.material.paper_runs import finish, run_of, store_of


def all_trainings() -> list[tuple[str, Training]]:
    return [(paper, training) for paper in papers() for training in trainings(tables(paper))]


def test_a_run_with_a_rows_settings_is_that_row_and_those_of_the_same_training() -> None:
    for paper in papers():
        for training in trainings(tables(paper)):
            found = rows_of(paper, run_of(training))
            assert {row.training for _, row in found} == {training}
            wanted = [row for one in tables(paper) for row in one.rows if row.training == training]
            assert [row for _, row in found] == wanted


def changed(value: Any) -> Any:
    """A value that no row has."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1 / 64 if isinstance(value, float) else value + 3
    if isinstance(value, str):
        return value + "x"
    return None


def with_one_changed(settings: RunSettings) -> list[tuple[str, RunSettings]]:
    """The settings with each of their counting values changed, one at a time."""
    paths = [leaf for leaf in leaves(settings) if leaf.path in counting(settings)]
    return [(leaf.path, _with(settings, leaf.path.split("."), changed(leaf.value))) for leaf in paths]


def _with(record: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    if isinstance(record, tuple):
        index = int(name)
        return (*record[:index], _with(record[index], rest, value), *record[index + 1 :])
    return replace(record, **{name: _with(getattr(record, name), rest, value) if rest else value})


@pytest.fixture(scope="module")
def counted() -> set[tuple[str, ...]]:
    """The counting settings of every row."""
    return {tuple(map(repr, training.counting().items())) for _, training in all_trainings()}


# Of each method, background and recipe one row: settings of one kind differ by values alone.
KINDS = {(training.recipe, training.background, paper): training for paper, training in all_trainings()}
_QUICK = [("moco_v2_220", "swaps", "ryali"), ("cast_coco", "none", "cast")]


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind in _QUICK else pytest.mark.slow) for kind in KINDS],
    ids=lambda kind: "-".join(kind),
)
def test_a_run_with_any_one_setting_changed_is_no_row_and_says_which(
    kind: tuple[str, str, str], counted: set[tuple[str, ...]]
) -> None:
    """Values that do nothing in the run are excepted: a probability of no background."""
    training = KINDS[kind]
    num_changed = 0
    for path, settings in with_one_changed(training.resolved()):
        if path in ("method", "background.name", "cast"):
            continue  # members of sets, and what is not there: see `test_a_run_of_another_kind_is_no_row`
        found = counting(settings)
        if found == training.counting():
            assert path.startswith(("background.", "crop_fallback", "pair_constraint", "cast.")), path
            continue
        num_changed += 1
        assert tuple(map(repr, found.items())) not in counted, path
        said = differences(run_of(training, settings), training)
        assert any(line.startswith(f"{path} is ") for line in said), (path, said)
    assert num_changed > 15


@pytest.mark.parametrize(
    "paper_and_tables",
    [
        ("ryali", ("3", "4", "A7", "SC.3")),
        ("cast", ("1", "2a", "2b", "2c", "2d")),
        pytest.param(("ryali", None), marks=pytest.mark.slow),
    ],
)
def test_every_row_states_what_makes_it_that_row(paper_and_tables: tuple[str, tuple[str, ...] | None]) -> None:
    """Each setting that a row names, changed: it is no longer that row, and it is told which one."""
    paper, numbers = paper_and_tables
    of = tables(paper) if numbers is None else [table(paper, number) for number in numbers]
    for training in trainings(of):
        for setting in training.settings:
            path = setting.partition("=")[0]
            resolved = training.resolved()
            leaf = next((one for one in leaves(resolved) if one.path == path), None)
            if leaf is None:
                continue  # views.min_foreground: of every view
            value = changed(leaf.value)
            if value is None:
                continue
            said = differences(run_of(training, _with(resolved, path.split("."), value)), training)
            assert any(line.startswith(f"{path} is {value}") for line in said), (path, said)


def test_what_is_of_speed_or_records_makes_no_other_row() -> None:
    training = table("ryali", "4").rows[3].training
    assert training is not None
    settings = apply_overrides(
        training.resolved(),
        ["seed=7", "log_steps=3", "precision=bf16", "accumulation_steps=2", "loader_threads=3", "probe.every_epochs=1"],
    )
    assert differences(run_of(training, settings), training) == []
    assert {path for path in NOT_COUNTING if "." not in path} <= {leaf.path for leaf in leaves(settings)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": "folder"}, "trained on folder, the row's is imagenet"),
        ({"num_rows": 9_469}, "9,469 images, imagenet has 1,281,167"),
        ({"max_side_px": 256}, "up to 256 px, the row's up to 512"),
        ({"threshold": 0.5}, "cut at 0.5, the row's at 0.9"),
        ({"detector": "rbd"}, "masks of rbd, the row's are u2net's"),
        ({"detector": "deepusps"}, "masks of deepusps, the row's are u2net's"),
        ({"detector": None}, "not known"),
    ],
)
def test_another_store_is_another_row(changes: dict[str, Any], words: str) -> None:
    training = table("ryali", "4").rows[3].training
    assert training is not None
    run = run_of(training)
    assert run.store is not None
    (said,) = differences(replace(run, store=replace(run.store, **changes)), training)
    assert words in said
    assert rows_of("ryali", replace(run, store=replace(run.store, **changes))) == []


def test_masks_of_a_folder_are_those_that_someone_says() -> None:
    training = table("ryali", "4").rows[3].training
    assert training is not None
    run = run_of(training)
    assert "nobody said" in differences(replace(run, masks=""), training)[0]
    assert "masks of deepusps2, the row's are u2net's" in differences(replace(run, masks="deepusps2"), training)[0]
    assert differences(replace(run, store=None), training) != []
    assert differences(replace(run, is_finished=False), training) == ["it has not come to its end"]
    assert differences(replace(run, start_weights="dino.pth"), training) == ["it starts from the weights of dino.pth"]


def test_a_baseline_does_not_ask_for_masks() -> None:
    training = table("ryali", "4").rows[0].training
    assert training is not None
    run = run_of(training)
    assert run.store is not None
    assert differences(replace(run, store=replace(run.store, detector="mbd", threshold=0.1)), training) == []


def test_a_network_of_another_start_is_another_row() -> None:
    tuned = [row.training for row in table("ryali", "7").rows if row.training and row.training.start_from]
    run = run_of(tuned[0])
    assert len(rows_of("ryali", run)) == 1
    other = replace(run, start_from=run_of(tuned[1].start_from))
    assert any(
        line.startswith("the run it starts from: background.probability") for line in differences(other, tuned[0])
    )
    assert differences(replace(run, start_from=None), tuned[0]) == ["it starts from random weights"]


@pytest.mark.parametrize(
    ("recipe", "method", "background", "with_cast", "overrides"),
    [
        ("moco_v2_200", "moco", "none", False, []),
        ("moco_v2_200", "moco", "rm", False, []),
        ("smoke", "cast", "none", True, []),
        ("smoke", "moco", "rm", False, []),
        ("cast_coco", "cast", "none", True, ["cast.variant=released"]),
        ("cast_coco", "cast", "none", True, ["cast.key_pass=shared"]),
    ],
)
def test_a_run_of_another_kind_is_no_row(
    recipe: str, method: str, background: str, with_cast: bool, overrides: list[str]
) -> None:
    """moco_v2_200 is MoCo-v2 as others published it, and no MoCo-COCO."""
    settings = resolve_settings(recipe, method, background, with_cast, overrides)
    for store in {store_of(training) for _, training in all_trainings()}:
        run = TrainedRun(settings=settings, store=store, masks="u2net")
        assert [rows_of(paper, run) for paper in papers()] == [[], []]


def test_the_same_run_by_another_command_is_the_same_row() -> None:
    """MoCo-COCO by CAST's command at lambda 0 and phi 0, and CAST as an addition to MoCo."""
    training = table("cast", "1").rows[3].training
    assert training is not None
    by_cast = resolve_settings("cast_coco", "cast", "none", True, ["cast.weight=0", "views.min_foreground=0"])
    assert differences(run_of(training, by_cast), training) == []


def test_the_nearest_row_is_the_one_with_the_least_that_differs() -> None:
    training = table("ryali", "4").rows[3].training
    assert training is not None
    settings = apply_overrides(training.resolved(), ["background.probability=0.15"])
    found = compared("ryali", run_of(training, settings))
    assert nearest(found, trainings([table("ryali", "4")])) == training
    assert found[training] == ["background.probability is 0.15, the row's 0.1"]
    assert nearest(found, []) is None


def test_a_runs_folder_says_what_it_is(tmp_path: Path) -> None:
    training = table("ryali", "4").rows[3].training
    assert training is not None
    origin = run_folder.Origin(recipe="moco_v2_220", store=store_of(training))
    run_folder.open_folder(tmp_path / "run", training.resolved(), origin=origin, store_id="s", resume=False)
    assert "it has not come to its end" in differences(read_run(tmp_path / "run", masks="u2net"), training)
    finish(tmp_path / "run", 220)
    assert differences(read_run(tmp_path / "run", masks="u2net"), training) == []
    # Of a shorter run that was made longer and goes on.
    finish(tmp_path / "run", 200)
    assert differences(read_run(tmp_path / "run", masks="u2net"), training) == ["it has not come to its end"]
