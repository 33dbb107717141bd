"""Rows that somebody marked as bad are in no epoch of a run, and its settings say so."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from backdrop import cli
from backdrop.errors import UserError
from backdrop.pipeline.beton.beton_of_store import StoreSource
from backdrop.stores.format.reader import open_store
from backdrop.stores.format.schema import Status
from backdrop.stores.pages import document
from backdrop.trainer.paper_tables.counting_settings import counting
from backdrop.trainer.run import loop
from backdrop.trainer.run.left_out_rows import left_out_by_name
from tests.material.tiny_runs import tiny

WORDS = ["pretrain", "--method", "moco", "--bg", "rm", "--recipe", "smoke"]
SMALL = ["batch_size=8", "algorithm.queue_size=32", "algorithm.shuffle_bn_group=4", "views.size_px=32"]


def test_marked_rows_are_in_no_epoch(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(scenes)
    (marks := tmp_path / "bad.txt").write_text("\n".join(store.key(row) for row in (9, 2, 3)))
    found: dict[str, Any] = {}

    def keep_rows(settings, loader, out, *, origin, **arguments) -> None:
        visited = {row for batch in loader.epoch(0) for row in batch.row_B.tolist()}
        found.update(rows=set(loader.rows.tolist()), visited=visited, settings=settings, command=origin.command)

    monkeypatch.setattr(loop, "train", keep_rows)
    words = [*WORDS, "--store", str(scenes), "--out", str(tmp_path / "run"), "--without", f"@{marks}"]
    result = CliRunner().invoke(cli.main, [*words, *(word for one in SMALL for word in ("--set", one))])
    assert result.exit_code == 0, result.output
    with_mask = {row for row in range(store.num_rows) if Status(int(store.status[row])).has_mask}
    assert found["rows"] == with_mask - {2, 3, 9} < with_mask
    assert found["visited"] <= found["rows"]
    assert found["settings"].without == "2-3,9"
    assert "--set=without=2-3,9" in found["command"], "who repeats the run needs the store, and no file"


def test_what_names_no_row_is_told(scenes: Path, tmp_path: Path) -> None:
    (marks := tmp_path / "bad.txt").write_text("nowhere.jpg\n")
    with pytest.raises(UserError, match=r"--without @.*1 of its 1 keys are no row"):
        left_out_by_name(f"@{marks}", StoreSource(store=scenes))
    assert left_out_by_name("4,1-2", StoreSource(store=scenes)) == "1-2,4"


def test_a_page_shows_how_a_long_list_begins() -> None:
    shown = document.value_html("1,3," * 5000)
    assert shown.startswith("1,3,1,3,")
    assert shown.endswith("... (20,000 characters, all of them in the run&#x27;s settings.json)")
    assert len(shown) < 400


def test_a_run_that_leaves_rows_out_is_no_row_of_a_paper_and_every_other_run_is_what_it_was() -> None:
    assert "without" not in counting(tiny("moco"))
    assert counting(tiny("moco", without="3"))["without"] == "3"
