"""The page about a run whose store or weights are not as they should be: what can be shown is, the rest is said."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from backdrop.pipeline.beton.beton_of_store import StoreSource
from backdrop.pipeline.beton.reader import read_records
from backdrop.stores.format.schema import Status
from backdrop.trainer.parts import checkpoint_files
from backdrop.trainer.report import page
from backdrop.trainer.report.loaded_run import load
from backdrop.trainer.report.shown import look_at
from backdrop.trainer.report.views_page import write_views_page
from backdrop.trainer.run.loop import RunRequest, pretrain
from tests.material.broken_betons import copy_of, damaged, set_blob

TINY = [
    "batch_size=8", "epochs=1", "algorithm.queue_size=32", "algorithm.shuffle_bn_group=4", "views.size_px=48",
    "background.probability=0.9", "bad_rows=skip", "backbone=resnet18",
]  # fmt: skip
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:tensorboard"),
    pytest.mark.usefixtures("one_thread"),
]
REQUEST = RunRequest(method="moco", background="random", recipe="smoke", overrides=TINY)


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps."""
    out = tmp_path_factory.mktemp("odd") / "run"
    pretrain(REQUEST, StoreSource(store=scenes), out=out)
    return out


def test_of_a_network_that_broke_the_page_says_so(run: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(run, tmp_path / "run")
    path = checkpoint_files.latest(broken)
    with safe_open(path, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    tensors["method.backbone.conv1.weight"][0] = float("nan")
    save_file(tensors, path, metadata)
    shown = look_at(load(broken))
    assert shown.examples
    assert "not finite: the run has diverged" in shown.why["attention"]
    assert "not finite: the run has diverged" in shown.why["spectra"]


def test_names_that_are_not_utf8_are_on_the_page(
    run: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a file system may hold them; of every row, so that they are on the report and on the page of views."""
    beton = copy_of(scenes.with_suffix(".beton"), tmp_path)
    for row in np.flatnonzero(read_records(beton)["status"] == Status.OK).tolist():
        set_blob(beton, row, "key", b"caf\xe9/%d.jpg" % row)
    monkeypatch.setattr(page, "load_all", lambda folders: [replace(load(run), beton=beton)])
    assert "caf?/0.jpg" in page.write_report([run], tmp_path / "report.html").read_text("utf-8")
    views = write_views_page(tmp_path / "views.html", REQUEST, StoreSource(store=beton), epoch=0)
    assert re.search(r"caf\?/\d+\.jpg", views.read_text("utf-8"))


def test_damaged_rows_are_left_out_where_the_run_left_them_out(
    run: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    beton = scenes.with_suffix(".beton")
    ok = np.flatnonzero(read_records(beton)["status"] == Status.OK)
    bad_image, bad_background = int(ok[0]), int(ok[-1])
    hurt = damaged(beton, tmp_path_factory.mktemp("image"), bad_image, "image", hides=False)
    hurt = damaged(hurt, tmp_path_factory.mktemp("background"), bad_background, "background", hides=False)
    shown = look_at(replace(load(run), beton=hurt), num_examples=100)
    assert shown.why == {}
    rows = [example.row for example in shown.examples]
    assert len(set(rows)) == len(rows) >= len(ok) // 2
    assert bad_image not in rows
    assert {example.row for example in shown.examples if example.background_HWC is None} == {bad_background}
    keys = [row.key for row in shown.attention]
    assert len(set(keys)) == len(keys) >= 3
    assert any((row.view_HWC != row.masked_key_HWC).any() for row in shown.attention)
    assert any((row.key_map_HW != row.map_HW).any() for row in shown.attention)
    assert shown.spectra["features"].shape == (len(ok),)
