"""A plan foretells the bytes of the store that is then built, and stays small at the size of ImageNet."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backdrop.errors import UserError
from backdrop.pipeline.build.first_look import sampled_rows
from backdrop.pipeline.build.masks_and_backgrounds import BuildSettings
from backdrop.pipeline.build.plan import plan_store
from backdrop.stores.format.schema import MANIFEST
from backdrop.stores.format.writer import missing_parts
from tests.material.small_images import (
    NUM_IMAGES,
    PART_ROWS,
    FormulaDetector,
    build,
    index_of,
    make_images,
    parts_of_few_rows,
)
from tests.material.small_store import tree

REPOSITORY = Path(__file__).resolve().parents[2]
SETTINGS = BuildSettings(keeps_soft_maps=True)


@pytest.fixture(scope="module", autouse=True)
def small_parts():
    with parts_of_few_rows():
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


def test_all_rows_sampled_foretell_every_byte(images: Path, tmp_path: Path) -> None:
    plan = plan_store(index_of(images), FormulaDetector(), tmp_path / "s", SETTINGS, num_workers=0)
    assert not (tmp_path / "s").exists()
    assert (plan["num_rows"], plan["num_parts"], plan["part_rows"]) == (NUM_IMAGES, 3, PART_ROWS)
    assert (plan["rows_sampled"], plan["rows_left"], plan["parts_left"]) == (NUM_IMAGES, NUM_IMAGES, 3)
    summary = build(images, tmp_path / "s")
    assert plan["status"] == summary["status"]
    totals = json.loads((tmp_path / "s" / MANIFEST).read_bytes())["totals"]
    # Metadata of arrays hold their sizes in digits, which differ by a few bytes from part to part, and a part without
    # messages has a file of theirs less. Its name alone is a part in two hundred of these small ones.
    assert abs(plan["store_bytes"] - totals["bytes"]) < 0.01 * totals["bytes"]


def test_a_few_rows_foretell_it_roughly(images: Path, tmp_path: Path) -> None:
    plan = plan_store(index_of(images), FormulaDetector(), tmp_path / "s", SETTINGS, num_sampled=5, num_workers=0)
    build(images, tmp_path / "s")
    totals = json.loads((tmp_path / "s" / MANIFEST).read_bytes())["totals"]
    assert abs(plan["store_bytes"] - totals["bytes"]) < 0.1 * totals["bytes"]
    assert 0 < plan["bytes_error_fraction"] < 0.5
    seconds = plan["seconds"]
    assert list(seconds) == ["1", "2", "4", "8"]
    assert seconds["1"] >= seconds["2"] >= seconds["4"] == seconds["8"]  # three parts keep three processes busy
    assert plan["memory_bytes"] > 30e6  # of this process here, whatever it did before


def test_of_a_store_begun_the_rest_is_planned(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    build(images, out)
    (out / MANIFEST).unlink()
    (out / "parts/part-00002").rename(tmp_path / "away")
    before = tree(tmp_path)
    plan = plan_store(index_of(images), FormulaDetector(), out, SETTINGS, num_workers=0)
    assert (plan["rows_left"], plan["parts_left"], missing_parts(out)) == (3, 1, [2])
    assert tree(tmp_path) == before
    with pytest.raises(UserError, match=r"mask\.threshold"):
        plan_store(index_of(images), FormulaDetector(), out, BuildSettings(threshold=0.1), num_workers=0)
    with pytest.raises(UserError, match="0 rows to measure"):
        plan_store(index_of(images), FormulaDetector(), out, SETTINGS, num_sampled=0)


def test_rows_are_spread_evenly() -> None:
    assert sampled_rows(11, 32) == tuple(range(11))
    assert sampled_rows(1, 32) == (0,)
    assert sampled_rows(101, 5) == (0, 25, 50, 75, 100)


SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from backdrop.pipeline.build.masks_and_backgrounds import BuildSettings
from backdrop.pipeline.build.plan import _peak_memory_bytes, plan_store
from backdrop.stores.indexes.dataset_index import DatasetIndex
from tests.material.small_images import FormulaDetector, NUM_IMAGES, key_of
if __name__ == "__main__":
    images, root = Path(sys.argv[1]), Path(sys.argv[2])
    num_rows = 1_281_167
    keys = tuple(f"n{row // 1281:08d}/n{row // 1281:08d}_{row}.JPEG" for row in range(num_rows))
    sizes = np.random.default_rng(0).integers(10_000, 300_000, num_rows)
    for number, row in enumerate(sampled_rows(num_rows, 32)):
        file = root / keys[row]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((images / key_of(number % NUM_IMAGES)).read_bytes())
        sizes[row] = file.stat().st_size
    index = DatasetIndex("imagenet", "train", root, keys, np.arange(num_rows, dtype=np.int32) // 1281, sizes, ())
    plan = plan_store(index, FormulaDetector(), root / "s.zarr", BuildSettings())
    print(json.dumps({**plan, "parent_bytes": _peak_memory_bytes()}))
"""


@pytest.mark.slow
def test_imagenet_is_planned_in_little_memory(images: Path, tmp_path: Path) -> None:
    script = tmp_path / "plan.py"
    script.write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, str(script), str(images), str(tmp_path / "root")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=True,
        capture_output=True,
        timeout=280,
    )
    plan = json.loads(result.stdout)
    print(plan)
    assert (plan["num_parts"], plan["part_rows"], plan["rows_sampled"]) == (1252, 1024, 32)
    assert plan["parent_bytes"] < 1e9
    assert plan["memory_bytes"] < 1e9
    assert plan["spec_bytes"] < 12e6
