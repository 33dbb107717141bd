"""The commands that RYALI.md and CAST.md give for a table train rows of that table: compared setting by setting."""

import re
from pathlib import Path

import pytest

from backdrop import cli
from backdrop.trainer.methods import METHODS
from backdrop.trainer.run.loop import resolve_settings
from backdrop.trainer.settings import RunSettings
from tests.material import table_rows
from tests.material.command_tree import commands_of

PAGES = Path(__file__).resolve().parents[2] / "trainer" / "recipes"
# Sections whose prose has numbers that no table prints.
_SECTIONS = {"C.2": "SC.2", "C.3": "SC.3", "C.4": "SC.4", "C.5": "SC.5", "4.6": "S4.6"}
# Tables of which every row that is trained has its command; of the others, sweeps for the most part, some have.
_WHOLE = {"ryali": ("3", "4", "SC.2", "SC.3", "SC.4", "SC.5"), "cast": ("1", "2a", "2b", "2c", "2d")}
# (page, table, command) where a command is not of a row of the table that its line names.
NOT_A_ROW = {
    # Its lines on the page are about parts of a table's row, or about what the table does not number.
    ("ryali", "F4", "pretrain --method swav --bg random --recipe swav_100_wide --set background.warmup_epochs=10"),
    # The paper scores a published network there.
    ("ryali", "20", "pretrain --method swav --recipe swav_400_two_crops"),
}


def commands(paper: str) -> list[tuple[str, str]]:
    """(table as tables.csv names it, command of pretrain) of a page; a line without a place is of the one before."""
    found, tables = [], []
    for line in (PAGES / f"{paper.upper()}.md").read_text().splitlines():
        if not line.startswith("| ") or line.startswith("| Where"):
            tables = [] if not line.startswith("|") else tables
            continue
        place = line.split("|")[1].strip()
        tables = _tables(place) if place else tables
        spans = [span for span in re.findall(r"`([^`]+)`", line) if span.startswith("pretrain ")]
        found += [(table, span) for span in spans for table in tables]
    return sorted(set(found))


def _tables(place: str) -> list[str]:
    """ "Table 2, row 4" -> ["2"]; "Tables A1 to A5, B.1" -> A1 .. A5; "Figure 4" -> F4; "C.4" -> SC.4."""
    if several := re.match(r"Tables A(\d+) to A(\d+)", place):
        return [f"A{number}" for number in range(int(several[1]), int(several[2]) + 1)]
    if one := re.match(r"Tables? (\w+)", place):
        return [one[1]]
    if figure := re.match(r"Figure (\d)", place):
        return [f"F{figure[1]}"]
    return [table for section, table in _SECTIONS.items() if place.startswith(section)]


def settings_of(command: str) -> RunSettings:
    chosen = commands_of(cli.main)["pretrain"]
    given = chosen.make_context("pretrain", command.split()[1:]).params
    recipe = given["recipe"] or METHODS.load(given["method"]).DEFAULT_RECIPE
    return resolve_settings(recipe, given["method"], given["bg"] or "none", given["with_cast"], given["overrides"])


@pytest.fixture(scope="module", autouse=True)
def _reference() -> None:
    if not table_rows.TABLES.is_file():
        pytest.skip("the papers' tables (../shared/reference/tables.csv) are not there")


@pytest.mark.parametrize("paper", ["ryali", "cast"])
def test_every_command_for_a_table_is_one_of_its_rows(paper: str) -> None:
    wrong, num_compared = [], 0
    for table, command in commands(paper):
        stated = [table_rows.stated(row) for row in table_rows.rows(paper, table)]
        if not stated or (paper, table, command) in NOT_A_ROW:
            continue
        num_compared += 1
        found = table_rows.of_run(paper, settings_of(command))
        if found not in stated:
            nearest = min(stated, key=lambda each: sum(each[name] != found[name] for name in each))
            differing = {name: (found[name], nearest[name]) for name in nearest if nearest[name] != found[name]}
            wrong.append(f"{table}: {command}: {differing}")
    assert not wrong, "\n".join(wrong)
    assert num_compared > {"ryali": 25, "cast": 10}[paper]


@pytest.mark.parametrize(("paper", "table"), [(paper, table) for paper, tables in _WHOLE.items() for table in tables])
def test_every_row_of_an_ablation_has_its_command(paper: str, table: str) -> None:
    given = [table_rows.of_run(paper, settings_of(command)) for name, command in commands(paper) if name == table]
    wanted = [row for row in table_rows.rows(paper, table) if table_rows.stated(row) not in given]
    # The baseline without a background is Table 2's.
    missing = sorted({row["row"] for row in wanted if paper == "cast" or row["background"] != "none"})
    assert not missing, f"no command for {missing}"


def test_what_a_line_states_is_read_whole() -> None:
    """No item of a trained row is passed over: an unknown one fails within."""
    papers = {
        "ryali": ("2", "3", "4", "5", "7", "8", "9", "A1", "A2", "A3", "A4", "A5", "A6", "A9", "A11", "F4", "S4.6")
    }
    for paper, tables in papers.items():
        for table in tables:
            assert all(table_rows.stated(row) for row in table_rows.rows(paper, table)), table
