"""The page of measured runs: the last of each section in numbers, all of them as a course."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import page, runs
from tests.bench.timing import row

RUN = runs.Clock("loader").ended({})


def run_of(section: str, ratio: float) -> runs.SectionRun:
    lines = {
        f"{section}.with_peer": row(2 * ratio, "images/s", peer=2.0, ratio=ratio, what="ours; peer: <theirs>"),
        f"{section}.alone": row(ratio, "s", what="no peer"),
    }
    return replace(RUN, section=section, lines=lines)


def test_runs_are_kept_in_their_order(tmp_path: Path) -> None:
    written = [run_of("loader", 1.5), run_of("stores", 3.0)]
    for each in written:
        runs.keep(each, tmp_path / "runs.jsonl")
    assert runs.kept(tmp_path / "runs.jsonl") == written
    assert runs.kept(tmp_path / "none.jsonl") == []


def test_the_page_shows_the_last_run_and_the_range_of_all() -> None:
    html = page.bench_page([run_of("loader", 1.25), run_of("stores", 9.0), run_of("loader", 1.75)])
    assert html.index('id="loader"') < html.index('id="stores"')
    loader, stores = html.split('<section id="stores">')
    assert ">1.75<" in loader
    assert '<td class="n">1.25</td><td class="n">1.75</td>' in loader
    assert "peer: &lt;theirs&gt;" in loader
    assert loader.count("<svg") == 2, "a course for each of its two lines"
    assert "<svg" not in stores, "one run has no course"


def test_a_line_without_peer_shows_its_values() -> None:
    html = page.bench_page([run_of("loader", 1.25)])
    assert "1.25 s" in html


@pytest.mark.parametrize("num", [page.NUM_RUNS - 1, page.NUM_RUNS + 5])
def test_older_runs_are_left_out(num: int) -> None:
    html = page.bench_page([run_of("loader", 1.0 + number) for number in range(num)])
    assert f"<p>{min(num, page.NUM_RUNS)} runs;" in html
