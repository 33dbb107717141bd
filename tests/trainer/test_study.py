"""The study's page: its table and charts are of the rows that are kept."""

from pathlib import Path

import pytest

from tests.study import charts, table

FOLDER = Path(table.__file__).parent


def test_the_page_has_the_table_of_the_rows() -> None:
    page = (FOLDER / "STUDY.md").read_text()
    assert table.markdown(table.read_cells()) in page, "python -m tests.study prints it"
    assert table.papers_tables() in page


def test_the_pages_charts_are_of_the_rows() -> None:
    page = (FOLDER / "STUDY.md").read_text()
    for name, svg in charts.charts(table.read_cells()).items():
        assert (FOLDER / name).read_text() == svg, "python -m tests.study draws them"
        assert f"]({name})" in page


def test_a_cells_line_is_the_mean_and_standard_error_of_its_seeds() -> None:
    kept = [{"seed": str(seed), "linear_val": value} for seed, value in enumerate(("70.0", "72.0", "77.0"))]
    sample = table.sample_of(kept, "linear_val")
    assert sample is not None
    assert (sample.mean, sample.sem) == pytest.approx((73.0, (13.0 / 3.0) ** 0.5))
    assert table.sample_of([{"seed": "0", "linear_val": ""}], "linear_val") is None


def test_speeds_of_different_hardware_are_not_averaged() -> None:
    cells = table.read_cells()
    speeds = table.sample_of(cells["sample", "moco none", "true"], table.SPEED)
    assert speeds is not None
    assert len(speeds.by_seed) == 2, "the third seed ran on a GPU"
