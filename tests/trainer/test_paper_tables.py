"""Every number of both papers as data: the lines of the reference facts, and what each row resolves to."""

import pytest

from backdrop.errors import UserError
from backdrop.trainer.paper_tables.scales import PAPER, at_scale, scale, scales
from backdrop.trainer.paper_tables.tables import numbers, papers, table, tables, trainings
from tests.material import table_rows


def test_every_number_of_the_papers_has_its_cell() -> None:
    cells = [cell for paper in papers() for one in tables(paper) for row in one.rows for cell in row.cells]
    assert len(cells) == len(numbers()) == 1851
    assert {(cell.paper, cell.table, cell.row, cell.value) for cell in cells} == {
        (line["paper"], line["table"], line["row"], line["value"]) for line in numbers()
    }


def test_the_numbers_are_those_of_the_reference_facts() -> None:
    if not table_rows.TABLES.is_file():
        pytest.skip("the papers' tables (../shared/reference/tables.csv) are not there")
    assert numbers() == table_rows.all_lines()


def test_rows_that_are_one_run_share_it() -> None:
    """The pairs that the papers' tables repeat, e.g. 3 (d) = A6 rm 0.1 = C.5 after."""

    def training(paper: str, number: str, name: str, **named: str) -> object:
        (found,) = {
            row.training
            for row in table(paper, number).rows
            if row.name == name and all(getattr(row, key) == value for key, value in named.items())
        }
        return found

    assert training("ryali", "3", "(d) BG_RM") == training("ryali", "SC.5", "MoCo-v2 + BG_RM, after")
    assert training("ryali", "3", "(c) BG_Random") == training("ryali", "4", "(b)")
    assert training("ryali", "4", "(a) baseline") == training("ryali", "2", "MoCo-v2 (repro.)", epochs="220")
    assert training("cast", "2b", "lambda=0.0") == training("cast", "1", "MoCo-COCO + Constrained Crop")


def test_equal_trainings_have_equal_digests_and_others_have_others() -> None:
    for paper in papers():
        found = trainings(tables(paper))
        assert len({each.digest() for each in found}) == len(found)


def test_an_unknown_table_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"ryali has no table '99'.*A29"):
        table("ryali", "99")
    with pytest.raises(UserError, match="no paper 'dino'"):
        tables("dino")
    with pytest.raises(UserError, match="no scale 'huge'; there are paper, demo, small"):
        scale("huge")


@pytest.mark.parametrize("name", scales())
def test_a_row_keeps_its_own_settings_at_every_scale(name: str) -> None:
    one = scale(name)
    for training in trainings(tables("cast")) + trainings([table("ryali", number) for number in ("3", "4", "A7")]):
        scaled = at_scale(training, one).resolved()
        for path in ("name", "probability", "negative_probability", "applies_to"):
            if training.background != "none":
                assert getattr(scaled.background, path) == getattr(training.resolved().background, path)
        assert [view.min_foreground for view in scaled.views] == [
            view.min_foreground for view in training.resolved().views
        ]
        assert name != PAPER or at_scale(training, one) is training
