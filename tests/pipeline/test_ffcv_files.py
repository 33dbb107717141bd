"""The .beton is FFCV's format: FFCV reads ours, we read FFCV's own files of images; most goes without FFCV."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ffcv.types import ALLOC_TABLE_TYPE, CURRENT_VERSION, FieldDescType, HeaderType

from backdrop.errors import CorruptStore, UserError
from backdrop.pipeline.beton import ffcv_layout
from backdrop.pipeline.beton.reader import open_beton, read_sidecar
from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.views.view_plan import Background, View, ViewPlan
from tests.material.small_scenes import photograph

ROOT = Path(__file__).resolve().parents[2]
WHOLE = View(size_px=48, scale=(1.0, 1.0), aspect_ratio=(1.0, 1.0), flip_probability=0.0)


def with_ffcv(name: str, *words: str | Path) -> list[str]:
    """What one of tests/material/ffcv_files.py prints."""
    program = [sys.executable, "-m", "tests.material.ffcv_files", name, *map(str, words)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module", params=[pytest.param(kind, marks=pytest.mark.slow) for kind in ("jpg", "raw")])
def stock(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stock") / f"{request.param}.beton"
    with_ffcv("write", path, request.param)
    return path


def test_the_layout_is_ffcvs() -> None:
    assert ffcv_layout.FFCV_VERSION == CURRENT_VERSION
    for ours, theirs in (
        (ffcv_layout.HEADER_DTYPE, HeaderType),
        (ffcv_layout.FIELD_DTYPE, FieldDescType),
        (ffcv_layout.ALLOCATION_DTYPE, ALLOC_TABLE_TYPE),
    ):
        assert ours.fields == theirs.fields
        assert ours.itemsize == theirs.itemsize


def test_our_loader_reads_a_file_of_ffcvs_own(stock: Path) -> None:
    plan = ViewPlan(views=(WHOLE,))
    with Loader(stock, plan, LoaderOptions(batch_size=2, seed=0, num_threads=1)) as loader:
        assert loader.num_rows == 6
        assert not loader.has_masks
        seen = {}
        for batch in loader.epoch(0):
            for at, row in enumerate(batch.row_B.tolist()):
                assert int(batch.label_B[at]) == 10 * row
                assert not batch.views[0].mask_BHP.any()
                box = [int(batch.views[0].record_B[at][name]) for name in ("top", "left", "height", "width")]
                seen[row] = (batch.views[0].image_BHWC[at].numpy().copy(), box)
    assert sorted(seen) == list(range(6))
    for row, (view, (top, left, height, width)) in seen.items():
        crop = photograph(70 + 9 * row, 120 - 7 * row, row)[top : top + height, left : left + width]
        for colour in range(3):  # smooth pictures: a view is as bright as what it shows
            assert abs(view[..., colour].mean() - crop[..., colour].mean()) < 2.5
        centre = crop[height // 2, width // 2].astype(int)
        assert np.abs(view[24, 24] - centre).max() < 40
    assert read_sidecar(stock)["store_id"] == read_sidecar(stock)["store_id"]


@pytest.mark.parametrize(
    "plan",
    [
        ViewPlan(views=(View(size_px=32),), background=Background(name="random")),
        ViewPlan(views=(View(size_px=32, min_foreground=0.1),)),
    ],
)
def test_what_wants_masks_is_refused(stock: Path, plan: ViewPlan) -> None:
    with pytest.raises(UserError, match="no masks"):
        Loader(stock, plan, LoaderOptions(batch_size=2, seed=0))


def test_a_file_of_ffcvs_own_that_ends_early_is_refused(stock: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.beton"
    short.write_bytes(stock.read_bytes()[:-30])
    with pytest.raises(CorruptStore, match="write it again"):
        open_beton(short)


@pytest.mark.slow
def test_ffcv_reads_ours(scenes: Path) -> None:
    ours = open_beton(scenes.with_suffix(".beton"))
    lines = [line.rsplit(maxsplit=3) for line in with_ffcv("read_ours", scenes.with_suffix(".beton"))]
    assert len(lines) == len(ours.records)
    for (_, label, image_bytes, allocated), record in zip(lines, ours.records, strict=True):
        assert (int(label), int(image_bytes)) == (record["label"], record["image_bytes"])
        sizes = [int(record[f"{blob}_bytes"]) for blob in ("image", "mask", "background", "key")]
        assert int(allocated) == sum(-(-size // 8) * 8 for size in sizes)


@pytest.mark.slow
def test_ffcvs_own_loader_reads_ours(scenes: Path) -> None:
    lines = with_ffcv("read_ours_with_its_loader", scenes.with_suffix(".beton"))
    num_rows = len(open_beton(scenes.with_suffix(".beton")).records)
    assert [int(row) for line in lines for row in line.split()] == list(range(num_rows))


WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'ffcv':
            raise ModuleNotFoundError("No module named 'ffcv'", name='ffcv')
sys.meta_path.insert(0, Missing())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == 'ffcv' else found(name, *rest)
from backdrop.cli import main
for words in sys.argv[1].split(';'):
    try:
        main(words.split(), standalone_mode=False)
        print('exit 0')
    except SystemExit as end:
        print('exit', end.code)
    except Exception as error:
        print('raised', type(error).__name__, error)
"""


@pytest.mark.slow
def test_everything_but_reading_with_ffcv_goes_without_it(scenes: Path, tmp_path: Path) -> None:
    beton = scenes.with_suffix(".beton")
    commands = [
        f"store info {scenes}",
        f"store export {scenes} --format png --out {tmp_path / 'masks'}",
        f"loader-bench --store {beton} --method moco --recipe smoke --batch-size 4 --threads 1 --seconds 0.1 --cold",
        f"store export {scenes} --root {scenes.parent / 'images'} --out {tmp_path / 'new.beton'}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-c", WITHOUT, ";".join(commands)]
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
    ends = [line for line in done.stdout.splitlines() if line.startswith(("exit ", "raised "))]
    assert ends == ["exit 0"] * len(commands), done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
