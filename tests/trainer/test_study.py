"""The study: its cells are runs that can be run, its rows are kept and resumed, its numbers are means over seeds."""

import csv
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backdrop.errors import UserError
from backdrop.stores.datasets import open_index
from backdrop.stores.drawn_sample import background_variants
from backdrop.stores.images.image_codec import encode_jpeg
from backdrop.trainer.run.loop import resolve_settings
from tests.study import __main__ as study
from tests.study import table
from tests.study.cells import CAST_SIZE_PX, CELLS, PHI, RECIPE, Cell
from tests.study.data import NAMES, build_if_absent, prepared
from tests.study.trial import run_trial


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.data}-{cell.name}-{cell.masks}")
def test_cell_is_a_possible_run(cell: Cell) -> None:
    settings = resolve_settings(RECIPE, cell.method, cell.background, False, cell.settings)
    assert {view.min_foreground for view in settings.views if view.is_global} == {cell.min_foreground}
    assert {view.size_px for view in settings.views if view.is_global} == {cell.size_px}
    assert {view.min_foreground for view in settings.views if not view.is_global} <= {0.0}
    assert settings.background.mask.is_box == (cell.masks == "boxes")
    assert (settings.background.mask.max_rotation_degrees > 0) == (cell.masks == "rotated")


def test_every_cell_has_a_row_of_its_own() -> None:
    assert len({study._key(cell) for cell in CELLS}) == len(CELLS)
    assert len(study._key(CELLS[0])) == len(table.KEY)
    assert {cell.data for cell in CELLS} == set(NAMES)


def test_cells_of_larger_views_differ_in_what_they_are_named_for() -> None:
    cells = {cell.name: cell for cell in CELLS if cell.data == "sample" and cell.size_px == CAST_SIZE_PX}
    assert list(cells) == ["moco none", "moco crop", "moco crop + attention"]
    settings = [resolve_settings(RECIPE, cell.method, "none", False, cell.settings) for cell in cells.values()]
    (none, crop, attention), phi = settings, [replace(view, min_foreground=PHI) for view in settings[0].views]
    assert crop == replace(none, views=tuple(phi))
    assert attention.cast.weight > 0
    assert attention == replace(crop, cast=attention.cast)
    assert crop.cast == replace(attention.cast, weight=0.0)


@pytest.mark.parametrize(
    ("values", "mean", "error"),
    [([70.0, 72.0, 77.0], 73.0, math.sqrt(13.0 / 3.0)), ([5.0, 5.0], 5.0, 0.0)],
)
def test_mean_and_standard_error(values: list[float], mean: float, error: float) -> None:
    assert table.mean_and_error(values) == pytest.approx((mean, error))


def test_one_seed_has_no_error() -> None:
    mean, error = table.mean_and_error([4.5])
    assert mean == 4.5
    assert math.isnan(error)


def row(training: str, seed: int, value: float) -> dict[str, object]:
    of_cell = {"data": "sample", "training": training, "px": 32, "masks": "true", "seed": seed}
    return of_cell | {"linear_val": value, "hardware": "2 CPU cores"}


def test_rows_are_kept_sorted_whatever_order_they_came_in(tmp_path: Path) -> None:
    rows = [row("moco rm", 0, 60.0), row("moco none", 10, 51.0), row("moco none", 9, 53.0)]
    for name, order in (("one.csv", rows), ("other.csv", rows[::-1])):
        for kept in order:
            table.add_row(tmp_path / name, kept)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "other.csv").read_bytes()
    assert [kept["seed"] for kept in table.read_rows(tmp_path / "one.csv")] == ["9", "10", "0"]


def test_table_has_a_line_per_cell(tmp_path: Path) -> None:
    for kept in (row("moco none", 0, 51.0), row("moco none", 1, 53.0), row("moco rm", 0, 60.04)):
        table.add_row(tmp_path / "study.csv", kept)
    lines = table.markdown(table.read_rows(tmp_path / "study.csv")).splitlines()
    assert lines[2].startswith("| sample | moco none | 32 | true | 2 |  | 52.0 ± 1.0 |")
    assert lines[3].startswith("| sample | moco rm | 32 | true | 1 |  | 60.0 |")


def test_speeds_of_different_hardware_are_not_averaged(tmp_path: Path) -> None:
    for kept in (
        row("moco none", 0, 51.0) | {"steps_per_s": 4.0},
        row("moco none", 1, 53.0) | {"steps_per_s": 6.0},
        row("moco none", 2, 55.0) | {"steps_per_s": 90.0, "hardware": "a GPU"},
        row("moco rm", 2, 55.0) | {"steps_per_s": 80.0, "hardware": "a GPU"},
    ):
        table.add_row(tmp_path / "study.csv", kept)
    lines = table.markdown(table.read_rows(tmp_path / "study.csv")).splitlines()
    assert lines[2].startswith("| sample | moco none | 32 | true | 3 |  | 53.0 ± 1.2 |")
    assert lines[2].endswith("| 5.0 ± 1.0 |")
    assert lines[3].endswith("|  |")


def test_table_of_no_rows_is_its_head() -> None:
    assert len(table.markdown([]).splitlines()) == 2


def test_workers_end_with_a_killed_study(tmp_path: Path) -> None:
    script = tmp_path / "study.py"
    script.write_text(
        "import os, time\n"
        "from tests.study.workers import worker_pool\n"
        "if __name__ == '__main__':\n"
        "    pool = worker_pool(1)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    pool.submit(time.sleep, 600).result()\n"
    )
    own = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=own) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        process.kill()
        try:
            process.communicate(timeout=30)  # its end comes when nobody is left who could write
        except subprocess.TimeoutExpired:
            os.kill(worker, signal.SIGKILL)
            pytest.fail("the worker goes on")


def test_only_missing_runs_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "ROWS", tmp_path / "study.csv")
    cells = [cell for cell in CELLS if cell.data == "scenes"]
    assert [cell for cell, _ in study._missing([0, 1], cells)] == cells * 2
    table.add_row(tmp_path / "study.csv", row("byol rm", 1, 0.0) | {"data": "scenes"})
    missing = study._missing([0, 1], cells)
    assert len(missing) == 2 * len(cells) - 1
    assert (Cell(data="scenes", method="byol", background="rm", min_foreground=0.05), 1) not in missing


def test_the_page_has_the_table_of_the_rows() -> None:
    page = Path(study.__file__).with_name("STUDY.md").read_text()
    assert table.markdown(table.read_rows(study.ROWS)) in page, "python -m tests.study --plan prints it"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Eleven made-up scenes of two classes, in the layout of the photographs with masks; one foreground fills all."""
    folder = tmp_path / "photographs"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rng = np.random.default_rng(0)
    lines = [("image", "wnid", "imagenet_index", "in9_class")]
    for number in range(11):
        image_HWC = rng.integers(0, 256, (40 + number, 60, 3), dtype=np.uint8)
        mask_HW = np.zeros(image_HWC.shape[:2], np.uint8)
        mask_HW[slice(None) if number == 0 else slice(10, 25), slice(None) if number == 0 else slice(20, 40)] = 255
        (folder / "images" / f"{number:02d}.jpg").write_bytes(encode_jpeg(image_HWC, 90))
        Image.fromarray(mask_HW).save(folder / "masks" / f"{number:02d}.png")
        lines.append((f"{number:02d}", "n00000000", "0", "bird" if number < 6 else "dog"))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return folder


def test_scenes_take_the_samples_layout(photographs: Path, tmp_path: Path) -> None:
    root = prepared("scenes", tmp_path, photographs)
    train, val = (open_index("folder", root=root / split) for split in ("train", "val"))
    assert val.keys == ("bird/00.jpg", "bird/05.jpg", "dog/06.jpg")
    assert len(train) == 8
    assert not set(train.keys) & set(val.keys)
    for name in background_variants.NAMES:  # without the one that has no background
        assert open_index("folder", root=root / "variants" / name).keys == ("bird/05.jpg", "dog/06.jpg")
    assert prepared("scenes", tmp_path, None) == root  # it is there already


def test_missing_photographs_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--scenes"):
        prepared("scenes", tmp_path, tmp_path / "nowhere")


@pytest.mark.slow
def test_one_trial_gives_a_whole_row(tmp_path: Path) -> None:
    cell = Cell(data="sample", method="moco", background="swaps", size_px=48, min_foreground=0.1)
    root = prepared("sample", tmp_path, None)
    for split in ("train", "val"):
        build_if_absent(root, "true", split)
    found = run_trial(cell, 0, root, tmp_path)
    assert {"linear_mixed_rand", "knn_val", "grounding_iou", "steps_per_s", "store_id"} <= set(found)
    assert found["linear_bg_gap"] == pytest.approx(found["linear_mixed_same"] - found["linear_mixed_rand"], abs=0.002)
    assert 50.0 < found["linear_val"] <= 100.0  # ten classes
