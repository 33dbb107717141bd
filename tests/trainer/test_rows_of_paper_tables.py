"""Every line of the reference facts resolves to what it states, item by item, or says why nothing is trained for it."""

from collections import Counter

import pytest

from backdrop.trainer.evaluation import EVALUATIONS
from backdrop.trainer.evaluation.harness.evaluate import chosen_options
from backdrop.trainer.paper_tables.records import SUBJECTS, Row, Training
from backdrop.trainer.paper_tables.tables import papers, tables, trainings
from tests.material import table_rows

# What stands for a length that a line does not state (Tables 19 and A27; supervised columns).
_FULL = {"moco": 800, "byol": 1000, "swav": 800, "supervised": 90}
# Section 2 of the reference facts; its "not stated" for CAST is what the release has.
_THRESHOLDS = {"ryali": 0.9, "cast": 0.5}


def all_rows() -> list[tuple[str, str, Row]]:
    return [(paper, one.number, row) for paper in papers() for one in tables(paper) for row in one.rows]


@pytest.fixture(scope="module", autouse=True)
def _reference() -> None:
    if not table_rows.TABLES.is_file():
        pytest.skip("the papers' tables (../shared/reference/tables.csv) are not there")


def differing(line: dict[str, str], training: Training) -> dict[str, tuple[object, object]]:
    """Items in which a training is not what a line states."""
    stated, network = table_rows.stated(line), training.start_from or training
    found = table_rows.of_run(line["paper"], network.resolved())
    if line["paper"] == "ryali" and not line["epochs"]:
        stated["epochs"] = float(_FULL[line["method"]])
    if line["method"] == "supervised" and line["paper"] == "ryali":
        stated["FG_min"] = found["FG_min"]  # not stated
    if line["paper"] == "ryali" and line["method"] == "supervised" and line["background"] == "none":
        stated["p_pos"] = found["p_pos"]
    if line["background"] == "none":
        stated["p_pos"] = stated["p_neg"] = 0.0
        found |= {"p_pos": 0.0, "p_neg": 0.0}
    stated |= {"data": line["pretrain_data"], "masks": line["masks"]}
    stated["threshold"] = _THRESHOLDS[line["paper"]] if line["masks"] else None
    found |= {"data": network.data, "masks": network.masks, "threshold": network.threshold}
    return {name: (found[name], stated[name]) for name in stated if found[name] != stated[name]}


def test_every_line_resolves_to_what_it_states_or_says_why_not() -> None:
    row_of = {
        (
            paper,
            number,
            row.name,
            cell.setting,
            row.method,
            row.background,
            row.epochs,
            row.masks,
            row.pretrain_data,
        ): row
        for paper, number, row in all_rows()
        for cell in row.cells
    }
    accounted, wrong = Counter[str](), []
    names = ("paper", "table", "row", "setting", "method", "background", "epochs", "masks", "pretrain_data")
    for line in table_rows.all_lines():
        row = row_of[tuple(line[name] for name in names)]
        accounted[row.subject] += 1
        if row.training is None:
            assert row.note or row.subject in ("detector", "untrained"), line
        elif found := differing(line, row.training):
            wrong.append((line["paper"], line["table"], line["row"], found))
    assert not wrong
    assert sum(accounted.values()) == 1851
    assert set(accounted) == set(SUBJECTS)


def test_only_what_others_published_is_left_out() -> None:
    for paper, number, row in all_rows():
        is_published = "published" in row.stated
        if row.subject == "published":
            assert is_published, (paper, number, row.name)
        if is_published:
            assert row.subject in ("published", "torchvision"), (paper, number, row.name)


def test_there_are_as_many_trainings_as_the_reference_facts_count() -> None:
    """Section 6: 203 for Ryali et al., for CAST 8 and one of the two supervised ones."""
    of_ryali = Counter(training.method for training in trainings(tables("ryali")))
    assert of_ryali == {"moco": 81, "byol": 38, "swav": 48, "supervised": 27, "rotnet": 9}
    assert len(trainings(tables("cast"))) == 9
    seeds = Counter(training.seeds for training in trainings(tables("ryali")))
    assert seeds == {3: 12, 1: 203 - 12}


def test_what_follows_a_supervised_network_is_what_a_4_states() -> None:
    """A.4: a classifier alone, 40 epochs at 0.01, or the whole network, 20 epochs at 0.0005; no backgrounds."""
    followed = [training for training in trainings(tables("ryali")) if training.start_from]
    assert len(followed) == 16
    found = Counter()
    for training in followed:
        settings = training.resolved()
        assert (settings.background.name, training.masks) == ("none", "")
        assert training.start_from is not None
        assert training.start_from.method == "supervised"
        found[settings.algorithm.trained, settings.epochs, settings.optimiser.lr] += 1
    assert found == {("classifier", 40, 0.01): 8, ("all", 20, 0.0005): 8}


def test_what_is_assumed_of_a_row_is_said_with_it() -> None:
    """CAST's paper states no length at all; its rows have the release's."""
    for paper, _, row in all_rows():
        if row.training is not None and not row.epochs and paper == "ryali":
            assert "not stated" in row.note, row


def test_every_evaluation_of_a_cell_can_be_asked_for() -> None:
    found = {cell.evaluation for _, _, row in all_rows() for cell in row.cells if cell.evaluation}
    for evaluation in found | {each.after for each in found if each.after}:
        chosen_options(EVALUATIONS.load(evaluation.task), evaluation.options)
    for _, _, row in all_rows():
        assert all(bool(cell.evaluation) == bool(cell.score) != bool(cell.why_not) for cell in row.cells)
