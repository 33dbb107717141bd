"""Differences of two stores, against changes made by hand."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backdrop.errors import CorruptStore
from backdrop.stores.format.mask_codec import pack_rows
from backdrop.stores.format.reader import open_store
from backdrop.stores.format.schema import Status
from backdrop.stores.format.writer import StoreRow, finish, open_for_build, write_part
from backdrop.stores.maintenance.diff import diff
from tests.material.small_store import IDENTITY, NUM_ROWS, mask_of, row_of, small_store


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("store") / "toy.zarr")


def written(path: Path, rows: list[StoreRow], identity: dict, part_rows: int) -> Path:
    open_for_build(path, identity, len(rows), part_rows)
    for part, first in enumerate(range(0, len(rows), part_rows)):
        chosen = rows[first : first + part_rows]
        write_part(path, part, [replace(row, row=first + at) for at, row in enumerate(chosen)])
    finish(path)
    return path


def compare(a: Path, b: Path) -> dict:
    return diff(open_store(a, allow_partial=True), open_store(b, allow_partial=True))


def test_equal_stores(path: Path, tmp_path: Path) -> None:
    found = compare(path, path)
    assert (found["equal"], found["parts_not_read"], found["changed"]["num_rows"]) == (True, 3, 0)
    # The same rows in parts of another size: read, matched by their keys, and equal.
    found = compare(path, written(tmp_path / "s", [row_of(row) for row in range(NUM_ROWS)], IDENTITY, 6))
    assert (found["equal"], found["parts_not_read"]) == (True, 0)


def test_every_kind_of_change_is_counted(path: Path, tmp_path: Path) -> None:
    rows = [row_of(row) for row in range(NUM_ROWS)]
    mask_HW = mask_of(0)
    smaller_HW = mask_HW.copy()
    smaller_HW[: mask_HW.shape[0] // 2] = 0
    rows[0] = replace(rows[0], mask_packed=pack_rows(smaller_HW))
    empty_HW = np.zeros_like(mask_of(1))
    rows[1] = replace(rows[1], mask_packed=pack_rows(empty_HW), status=Status.NO_FOREGROUND)
    rows[2] = replace(rows[2], background_jpeg=b"", label=9)
    rows[8] = replace(rows[8], message="another reason")
    rows[9] = replace(rows[9], key="new/row.jpg")
    found = compare(path, written(tmp_path / "s", rows, {**IDENTITY, "threshold": 0.5}, 4))
    assert json.loads(json.dumps(found)) == found
    assert found["equal"] is False
    assert found["identity"] == ["threshold: '0.9' here, '0.5' there"]
    assert found["parts_not_read"] == 1  # rows 4 to 7
    assert found["only_in_a"] == {"num_rows": 1, "keys": [row_of(9).key]}
    assert found["only_in_b"] == {"num_rows": 1, "keys": ["new/row.jpg"]}
    changed = found["changed"]
    assert changed["num_rows"] == 4
    assert changed["fields"] == {"background": 1, "label": 1, "mask": 2, "message": 1, "status": 1}
    assert changed["status"] == {"ok -> no-foreground": 1}
    iou = smaller_HW.sum() / mask_HW.sum()
    assert changed["mask_iou"]["num_rows"] == 2
    assert changed["mask_iou"]["mean"] == pytest.approx(iou / 2, abs=1e-4)
    assert (changed["mask_iou"]["min"], sum(changed["mask_iou"]["rows_by_iou"].values())) == (0, 2)
    assert changed["examples"][0] == {
        "key": row_of(0).key,
        "mask_iou": pytest.approx(iou, abs=1e-4),
        "fields": ["mask"],
    }
    assert changed["examples"][2]["fields"] == ["background", "label"]


def test_a_mask_of_another_size_has_no_iou(path: Path, tmp_path: Path) -> None:
    rows = [row_of(row) for row in range(NUM_ROWS)]
    rows[0] = replace(rows[1], row=0, key=rows[0].key)
    changed = compare(path, written(tmp_path / "s", rows, IDENTITY, 4))["changed"]
    assert changed["mask_iou"] is None
    assert {"height", "width", "mask"} <= set(changed["examples"][0]["fields"])


def test_parts_that_agree_are_not_read_and_damage_is_not_hidden(path: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(path, tmp_path / "damaged"))
    (damaged / "parts/part-00000/arrays.zip").unlink()
    assert compare(path, damaged)["equal"] is True  # by its receipts; 'store verify' is what looks at the bytes
    other = [replace(row_of(row), label=5) for row in range(NUM_ROWS)]
    with pytest.raises(CorruptStore, match="part-00000"):
        compare(damaged, written(tmp_path / "s", other, IDENTITY, 4))


def test_half_built_stores_differ_by_the_rows_they_lack(path: Path, tmp_path: Path) -> None:
    half = Path(shutil.copytree(path, tmp_path / "half", ignore=shutil.ignore_patterns("MANIFEST.json", "part-00002")))
    found = compare(half, path)
    assert found["only_in_b"]["num_rows"] == 3
    assert found["a"]["store_id"] is None
