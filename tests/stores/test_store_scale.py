"""A store of the size of ImageNet, 1 281 167 rows in 1252 parts, through opening, status, verification and merging.

The rows are empty (no image could be decoded), for it is parts, files and columns that are counted here.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import backdrop.stores.format.writer
from backdrop.stores.format.schema import Status
from backdrop.stores.format.writer import (
    StoreRow,
    encode_row,
    num_parts,
    open_for_build,
    part_files,
    read_attributes,
    rows_of_part,
)
from tests.material.small_store import IDENTITY

NUM_ROWS, PART_ROWS = 1_281_167, 1024
REPOSITORY = Path(__file__).resolve().parents[2]
# Prints the seconds of a call, and the most memory its process ever had, modules included.
SCRIPT = """
import json, sys, time
from pathlib import Path
from backdrop.stores.maintenance.build_status import status
from backdrop.stores.maintenance.merge import merge
from backdrop.stores.format.reader import open_store
from backdrop.stores.maintenance.verify import verify
work, paths = sys.argv[1], [Path(name) for name in sys.argv[2:]]
begin = time.perf_counter()
found = {
    "open": lambda: open_store(paths[0]).store_id,
    "open partial": lambda: open_store(paths[0], allow_partial=True).is_complete,
    "labels": lambda: len(open_store(paths[0]).label),
    "status": lambda: status(paths[0])["rows"],
    "verify quick": lambda: len(verify(paths[0], full=False)),
    "merge": lambda: merge(paths[:-1], paths[-1]),
}[work]()
seconds = time.perf_counter() - begin
# Not ru_maxrss, which begins with what the process that started this one had.
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
megabytes = int(peak) / 1024
print(json.dumps({"work": work, "found": found, "seconds": round(seconds, 4), "megabytes": round(megabytes)}))
"""


def empty_rows(num_rows: int) -> dict[str, bytes]:
    rows = [
        StoreRow(
            row=row,
            key=f"n01440764/n01440764_{row:05d}.JPEG",
            label=row % 1000,
            height=0,
            width=0,
            status=Status.DECODE_ERROR,
            mask_packed=None,
        )
        for row in range(num_rows)
    ]
    return part_files([encode_row(row) for row in rows])


def write_half(path: Path, half: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with the even or the odd parts."""
    open_for_build(path, IDENTITY, NUM_ROWS, PART_ROWS)
    attributes = read_attributes(path)
    contents = {num_rows: empty_rows(num_rows) for num_rows in (PART_ROWS, NUM_ROWS % PART_ROWS)}
    with monkeypatch.context() as patched:
        patched.setattr(backdrop.stores.format.writer, "sync", lambda path: None)  # 30 000 files that nobody will miss
        for part in range(half, num_parts(attributes), 2):
            num_rows = len(rows_of_part(attributes, part))
            counts = {status.label: num_rows * (status == Status.DECODE_ERROR) for status in Status}
            backdrop.stores.format.writer.write_part_files(path, part, contents[num_rows], counts)
    return path


def measured(work: str, *paths: Path) -> dict:
    command = [sys.executable, "-c", SCRIPT, work, *map(str, paths)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True, text=True)
    print(done.stdout.strip())
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_store_of_the_size_of_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halves = [write_half(tmp_path / f"half-{half}.zarr", half, monkeypatch) for half in range(2)]
    half, out = measured("status", halves[0]), tmp_path / "out.zarr"
    assert half["found"] == {"total": NUM_ROWS, "done": 626 * PART_ROWS, "missing": NUM_ROWS - 626 * PART_ROWS}
    merged = measured("merge", *halves, out)
    opened = measured("open", out)
    assert opened["found"] == merged["found"]
    partial, labels = measured("open partial", halves[0]), measured("labels", out)
    whole, sound = measured("status", out), measured("verify quick", out)
    assert (partial["found"], labels["found"], whole["found"]["missing"], sound["found"]) == (False, NUM_ROWS, 0, 0)
    for result in (half, merged, labels, whole, sound):
        assert result["megabytes"] <= 1000, result
    for result in (opened, partial):
        assert result["megabytes"] <= 200, result
        assert result["seconds"] <= 0.3, result
    shutil.rmtree(out / "parts/part-01000")
    assert measured("verify quick", out)["found"] > 0
    shutil.rmtree(tmp_path)  # 600 MB, which pytest would keep
