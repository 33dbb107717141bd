"""A store cut again at another threshold: the bytes a build with that threshold gives, and no detector."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from backdrop.errors import CorruptStore, UserError
from backdrop.pipeline.build.masks_and_backgrounds import BuildSettings, build_store
from backdrop.pipeline.build.rethreshold import rethreshold_store
from backdrop.saliency.binarise import dequantise, quantise
from backdrop.stores.format.reader import open_store
from backdrop.stores.format.schema import Status
from backdrop.stores.format.writer import missing_parts
from backdrop.stores.maintenance.verify import verify
from tests.material.part_arrays import flip_bit
from tests.material.small_images import (
    UNREADABLE,
    FormulaDetector,
    build,
    index_of,
    key_of,
    make_images,
    parts_of_few_rows,
    repair,
)
from tests.material.small_store import small_store, tree

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def small_parts():
    with parts_of_few_rows():
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def parent(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("parent") / "s.zarr"
    build(images, out)
    return out


def test_eight_bits_cut_as_their_map_does_at_the_papers_threshold() -> None:
    saliency = np.linspace(0, 1, 100_001, dtype=np.float32)
    soft = quantise(saliency)
    np.testing.assert_array_equal(quantise(dequantise(np.arange(256, dtype=np.uint8))), np.arange(256))
    unlike = (dequantise(soft) > 0.9) != (saliency > 0.9)
    assert np.abs(saliency[unlike] - 0.9).max(initial=0) < 1e-6
    unlike = (dequantise(soft) > 0.8) != (saliency > 0.8)
    assert 0 < np.abs(saliency[unlike] - 0.8).max() <= 1 / 510 + 1e-6


@pytest.mark.parametrize("threshold", [0.8, 0.3, 0.999, 0.0])
def test_it_is_the_store_that_a_build_with_that_threshold_gives(
    threshold: float, images: Path, parent: Path, tmp_path: Path
) -> None:
    summary = rethreshold_store(parent, index_of(images), tmp_path / "cut", threshold=threshold, num_workers=0)
    direct = build(images, tmp_path / "direct", threshold=threshold)
    assert summary["store_id"] == direct["store_id"]
    assert summary["status"] == direct["status"]
    assert tree(tmp_path / "cut") == tree(tmp_path / "direct")
    assert verify(tmp_path / "cut") == []


def test_masks_are_those_of_the_soft_maps(images: Path, parent: Path, tmp_path: Path) -> None:
    rethreshold_store(parent, index_of(images), tmp_path / "cut", threshold=0.5, num_workers=0)
    old, new = open_store(parent), open_store(tmp_path / "cut")
    assert new.status[UNREADABLE] == Status.DECODE_ERROR
    changed = 0
    for row in set(range(len(new))) - {UNREADABLE}:
        soft_HW = new.saliency(row)
        np.testing.assert_array_equal(soft_HW, old.saliency(row))
        np.testing.assert_array_equal(new.mask(row), soft_HW > 127)  # 127 / 255 < 0.5 < 128 / 255
        changed += not np.array_equal(new.mask(row), old.mask(row))
    assert changed > 5


def test_cutting_twice_is_cutting_once_and_workers_change_no_byte(images: Path, parent: Path, tmp_path: Path) -> None:
    index = index_of(images)
    rethreshold_store(parent, index, tmp_path / "a", threshold=0.5, num_workers=0)
    rethreshold_store(tmp_path / "a", index, tmp_path / "b", threshold=0.9, num_workers=1)
    assert tree(tmp_path / "b") == tree(parent)


def test_what_cannot_be_cut_again_is_refused(images: Path, parent: Path, tmp_path: Path) -> None:
    index = index_of(images)
    with pytest.raises(UserError, match="never changes"):
        rethreshold_store(parent, index, parent, threshold=0.5, num_workers=0)
    with pytest.raises(UserError, match=r"threshold=1.5 must be"):
        rethreshold_store(parent, index, tmp_path / "s", threshold=1.5, num_workers=0)
    with pytest.raises(UserError, match="was made otherwise"):
        rethreshold_store(small_store(tmp_path / "toy"), index, tmp_path / "s", threshold=0.5, num_workers=0)
    build(images, tmp_path / "hard", keeps_soft_maps=False)
    with pytest.raises(UserError, match="kept no soft maps"):
        rethreshold_store(tmp_path / "hard", index, tmp_path / "s", threshold=0.5, num_workers=0)
    other = Path(shutil.copytree(images, tmp_path / "other"))
    repair(other)
    with pytest.raises(UserError, match="names, sizes or classes differ"):
        rethreshold_store(parent, index_of(other), tmp_path / "s", threshold=0.5, num_workers=0)
    assert not (tmp_path / "s").exists()


def test_another_algorithm_version_is_refused_by_name(
    images: Path, parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backdrop.pipeline.build.tiled_background.ALGORITHM_VERSION", 99)
    with pytest.raises(UserError, match=r"background.algorithm_version: 99 here, 1 there"):
        rethreshold_store(parent, index_of(images), tmp_path / "s", threshold=0.5, num_workers=0)


def test_an_image_changed_under_its_name_is_named(images: Path, parent: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(images, tmp_path / "other"))
    file = other / key_of(6)
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=rf"row 6 \({key_of(6)}\): its image file is not the one"):
        rethreshold_store(parent, index_of(other), tmp_path / "s", threshold=0.5, num_workers=0)
    assert missing_parts(tmp_path / "s") == [1, 2]


def test_a_damaged_parent_is_not_passed_on(images: Path, parent: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(parent, tmp_path / "copy"))
    flip_bit(copy / "parts/part-00001", "saliency/c/0", 5)
    with pytest.raises(CorruptStore, match=r"saliency of row 4 \(a/004.jpg\) is damaged"):
        rethreshold_store(copy, index_of(images), tmp_path / "s", threshold=0.5, num_workers=0)


SCRIPT = """
import sys, time
from pathlib import Path
import backdrop.stores.format.writer
from backdrop.pipeline.build import rethreshold
from tests.material.small_images import index_of
publish = backdrop.stores.format.writer._publish
def slow(*arguments, **options):
    publish(*arguments, **options)
    time.sleep(0.3)
backdrop.stores.format.writer._publish = slow
rethreshold.rethreshold_store(
    Path(sys.argv[1]), index_of(Path(sys.argv[2])), Path(sys.argv[3]), threshold=0.5, num_workers=0
)
"""


def test_it_resumes_after_a_kill(images: Path, parent: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(parent), str(images), str(out)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (out / "parts/part-00000").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    left = missing_parts(out)
    assert 0 < len(left) < 3
    summary = rethreshold_store(parent, index_of(images), out, threshold=0.5, num_workers=0)
    assert 0 < summary["rows_built"] < 11
    build_store(
        index_of(images),
        FormulaDetector(),
        tmp_path / "direct",
        BuildSettings(threshold=0.5, keeps_soft_maps=True),
        num_workers=0,
    )
    assert tree(out) == tree(tmp_path / "direct")
