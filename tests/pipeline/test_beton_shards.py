"""A .beton of many rows: shards that are written side by side, gone on with, and read as one file."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backdrop.errors import CorruptStore, UserError
from backdrop.pipeline.beton import shards, writer
from backdrop.pipeline.beton.beton_of_store import find_beton
from backdrop.pipeline.beton.hashed_images import CLOCKS_APART_S, HashedImages
from backdrop.pipeline.beton.reader import Beton, BetonSettings, open_beton, read_blob, read_sidecar
from backdrop.pipeline.beton.scene import BLOBS, FIELD_NAME
from backdrop.pipeline.beton.writer import ExportWork, export_beton
from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.views.view_plan import View, ViewPlan
from backdrop.stores.format.reader import Store
from backdrop.stores.indexes.dataset_index import DatasetIndex
from tests.material import pretend_slurm

# Three shards of the 22 rows.
SETTINGS = BetonSettings(shard_rows=8)
HERE = ExportWork(num_workers=0)  # in this process


@pytest.fixture(scope="module")
def whole(built: tuple[Store, DatasetIndex], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_beton(*built, tmp_path_factory.mktemp("shards") / "s.beton", settings=SETTINGS, work=HERE)


def copy_of(whole: Path, folder: Path) -> Path:
    """A copy whose shards are links: they are replaced here, never written to."""
    return Path(shutil.copytree(whole, folder / whole.name, copy_function=os.link))


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def blobs(opened: Beton) -> list[list[bytes]]:
    return [[read_blob(opened.file_bytes, record, name) for name in BLOBS] for record in opened.records]


def test_shards_hold_what_one_file_holds(whole: Path, scenes: Path) -> None:
    assert sorted(file.name for file in whole.iterdir()) == [
        "records",
        *(f"s-0000{number}-of-00003.beton{end}" for number in range(3) for end in ("", ".json")),
        "shards.json",
    ]
    one, several = open_beton(scenes.with_suffix(".beton")), open_beton(whole)
    assert blobs(several) == blobs(one)
    for name in one.records.dtype.names or ():
        assert name.endswith("_ptr") or (one.records[name] == several.records[name]).all(), name


def test_views_of_shards_are_those_of_one_file(whole: Path, scenes: Path) -> None:
    plan = ViewPlan(views=(View(size_px=24), View(size_px=24)))
    options = LoaderOptions(batch_size=5, seed=3, num_threads=1)
    batches = []
    for beton in (scenes.with_suffix(".beton"), whole):
        with Loader(beton, plan, options) as loader:
            batches.append([view.image_BHWC.clone() for batch in loader.epoch(0) for view in batch.views])
    assert len(batches[0]) > 4
    assert all((a == b).all() for a, b in zip(*batches, strict=True))


def test_ffcv_itself_reads_a_shard(whole: Path) -> None:
    pytest.importorskip("ffcv")
    from ffcv.reader import Reader

    from backdrop.pipeline.beton.ffcv_field import SceneField

    shard = whole / shards.shard_name("s", 1, 3)
    reader = Reader(str(shard), {FIELD_NAME: SceneField})
    records = reader.metadata["f0"]
    assert records["row"].tolist() == list(range(8, 16))
    sizes = {(int(sample), int(at)): int(size) for sample, at, size in reader.alloc_table}
    stated = {
        (row, int(record[f"{name}_ptr"])): int(record[f"{name}_bytes"])
        for row, record in enumerate(records) for name in BLOBS if record[f"{name}_bytes"]
    }  # fmt: skip
    assert {place: -(-size // 8) * 8 for place, size in stated.items()} == sizes


def spec(built: tuple[Store, DatasetIndex], folder: Path) -> writer._Shards:
    images = HashedImages(store=built[0], root=built[1].root)
    return writer._Shards(folder=folder, images=images, settings=SETTINGS, num_threads=2)


def test_what_a_worker_holds_does_not_grow_with_the_rows(built: tuple[Store, DatasetIndex], tmp_path: Path) -> None:
    assert len(pickle.dumps(spec(built, tmp_path))) < 2000, "no keys, no columns"
    opened = pickle.loads(pickle.dumps(built[0]))
    writer.scene_of_row(HashedImages(store=opened, root=built[1].root), 3, **SETTINGS.of_scenes)
    arrays = [value for value in vars(opened).values() if isinstance(value, np.ndarray)]
    assert not arrays, "no column over all rows is read for one row"
    shared: writer._Shards = pickle.loads(pickle.dumps(spec(built, tmp_path)))
    before = dict(vars(shared.images.store))
    writer.write_shard(shared, 2, lambda num_rows: None)
    assert vars(shared.images.store) == before, "nothing of a shard is kept for the next"
    assert not shared.images.store._parts


def test_neither_order_nor_threads_nor_a_restart_change_a_byte(
    whole: Path, built: tuple[Store, DatasetIndex], tmp_path: Path
) -> None:
    out = tmp_path / whole.name
    out.mkdir()
    for number in (2, 1):
        writer.write_shard(spec(built, out), number, lambda num_rows: None)
    (out / "s-00000-of-00003.beton.partial").write_bytes(b"half a shard, of a kill")
    (out / "s-00000-of-00003.beton").write_bytes(b"named, and killed before its sidecar was written")
    kept = {number: (out / shards.shard_name("s", number, 3)).stat().st_mtime_ns for number in (1, 2)}
    assert "did not finish" in refusal(out)
    export_beton(*built, out, settings=SETTINGS, work=HERE)
    assert content(out) == content(whole)
    assert kept == {number: (out / shards.shard_name("s", number, 3)).stat().st_mtime_ns for number in kept}


def refusal(beton: Path) -> str:
    with pytest.raises(UserError) as raised:
        open_beton(beton)
    return str(raised.value)


def test_a_missing_shard_is_named_and_written_alone(
    whole: Path, built: tuple[Store, DatasetIndex], tmp_path: Path
) -> None:
    copy = copy_of(whole, tmp_path)
    lost = copy / shards.shard_name("s", 1, 3)
    lost.unlink()
    assert f"{copy} lacks {lost.name}" in refusal(copy)
    before = {file.name: file.stat().st_ino for file in copy.glob("*.beton")}
    export_beton(*built, copy, settings=SETTINGS, work=HERE)
    after = {file.name: file.stat().st_ino for file in copy.glob("*.beton")}
    assert before.items() < after.items()
    assert content(copy) == content(whole)


def test_a_foreign_shard_is_named(whole: Path, built: tuple[Store, DatasetIndex], tmp_path: Path) -> None:
    copy = copy_of(whole, tmp_path)
    place, other = copy / shards.shard_name("s", 0, 3), copy / shards.shard_name("s", 1, 3)
    data = bytearray(other.read_bytes())
    place.unlink()
    place.write_bytes(
        data[: read_sidecar(whole)["shards"][0]["num_bytes"]].ljust(whole.joinpath(place.name).stat().st_size)
    )
    assert f"{place} is of another export" in refusal(copy)
    place.write_bytes(data[:1000])
    assert f"{place} has 1000 bytes" in refusal(copy)


def test_a_changed_table_of_records_is_noticed(whole: Path, tmp_path: Path) -> None:
    copy = copy_of(whole, tmp_path)
    data = bytearray((copy / shards.RECORDS).read_bytes())
    data[500] ^= 1
    (copy / shards.RECORDS).unlink()
    (copy / shards.RECORDS).write_bytes(data)
    with pytest.raises(CorruptStore, match="records is not as it was written"):
        open_beton(copy)


def test_a_folder_and_a_pattern_mean_all_shards_and_one_shard_is_refused(whole: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    copy_of(whole, tmp_path).rename(moved)
    for given in (whole, moved, whole / "s-*.beton", moved / "s-*-of-00003.beton"):
        assert find_beton(given) in (whole, moved), given
        assert len(open_beton(find_beton(given)).records) == 22
    assert "shard 1 of 3" in refusal(whole / shards.shard_name("s", 1, 3))


def test_other_settings_are_refused_until_they_may_be_written_over(
    whole: Path, built: tuple[Store, DatasetIndex], tmp_path: Path
) -> None:
    copy = copy_of(whole, tmp_path)
    (copy / shards.SIDECAR).unlink()  # half written is the work of hours, too
    planes = replace(SETTINGS, pixels="yuv420")
    with pytest.raises(UserError, match="--overwrite"):
        export_beton(*built, copy, settings=planes, work=HERE)
    again = replace(HERE, overwrite=True)
    export_beton(*built, copy, settings=planes, work=again)
    assert open_beton(copy).sidecar["settings"]["pixels"] == "yuv420"
    (copy / "mine.txt").write_text("not of an export")
    with pytest.raises(UserError, match="other files"):
        export_beton(*built, copy, settings=SETTINGS, work=again)
    assert (copy / "mine.txt").exists()


def test_one_file_of_all_rows_is_as_good_as_shards(scenes: Path, built: tuple[Store, DatasetIndex]) -> None:
    """Files of before there were shards are read on."""
    beton = scenes.with_suffix(".beton")
    assert export_beton(*built, beton, settings=SETTINGS, work=HERE) == beton
    assert beton.is_file()


def test_images_are_hashed_again_only_where_they_were_touched(
    built: tuple[Store, DatasetIndex], tmp_path: Path
) -> None:
    store, index = built
    root = Path(shutil.copytree(index.root, tmp_path / "images"))
    path = root / store.key(1)
    path.write_bytes(path.read_bytes()[::-1])  # another content under an old time
    os.utime(path, (0, 0))
    for hashed_since in (None, time.time(), time.time() + CLOCKS_APART_S / 2):
        with pytest.raises(UserError, match=r"row 1, .* is not the one"):
            HashedImages(store=store, root=root, hashed_since=hashed_since).read(1)
    # As if the build that hashed it had begun long after the last change.
    assert HashedImages(store=store, root=root, hashed_since=time.time() + 2 * CLOCKS_APART_S).read(1)


class InOneFile:
    """An archive: images that are no files of their own."""

    def __init__(self, images: dict[str, bytes]) -> None:
        self._images = images

    def read(self, key: str) -> bytes:
        return self._images[key]


def test_images_may_be_no_files_of_their_own(whole: Path, built: tuple[Store, DatasetIndex], tmp_path: Path) -> None:
    store, index = built
    archive = InOneFile({key: index.read(row) for row, key in enumerate(index.keys)})
    elsewhere = replace(index, root=tmp_path / "nowhere", archive=archive)
    beton = export_beton(store, elsewhere, tmp_path / whole.name, settings=SETTINGS, work=HERE)
    assert content(beton) == content(whole)


PROGRAM = """
import sys
from pathlib import Path
from backdrop.pipeline.beton.reader import BetonSettings
from backdrop.pipeline.beton.writer import ExportWork, export_beton
from backdrop.stores.datasets import open_index
from backdrop.stores.format.reader import open_store
if __name__ == "__main__":
    store = open_store(sys.argv[1])
    index = open_index("folder", root=Path(sys.argv[2]))
    work = ExportWork(num_workers=int(sys.argv[4]))
    export_beton(store, index, Path(sys.argv[3]), settings=BetonSettings(shard_rows=int(sys.argv[5])), work=work)
"""


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_killed_export_goes_on_at_its_shards(
    num_workers: int, scenes: Path, built: tuple[Store, DatasetIndex], tmp_path: Path
) -> None:
    """kill -9 again and again until it is done; and whatever the number of workers, the same bytes."""
    (tmp_path / "program.py").write_text(PROGRAM)
    out = tmp_path / "s.beton"
    command = [sys.executable, tmp_path / "program.py", scenes, scenes.parent / "images", out, str(num_workers), "3"]
    num_kills = 0
    for at in range(1, 4):
        process = subprocess.Popen([str(word) for word in command], stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(out.glob("*.beton.json"))) < 2 * at:
            time.sleep(0.01)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            num_kills += 1
        process.wait()
    assert num_kills >= 2
    done = {file.name: file.stat().st_mtime_ns for file in out.glob("*.beton.json")}
    subprocess.run([str(word) for word in command], check=True)
    assert {name: (out / name).stat().st_mtime_ns for name in done} == done
    whole = export_beton(*built, tmp_path / "2" / "s.beton", settings=BetonSettings(shard_rows=3), work=HERE)
    assert content(out) == content(whole)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "slurm"])
def test_other_engines_write_the_same_shards(
    engine: str,
    whole: Path,
    built: tuple[Store, DatasetIndex],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if engine == "slurm":
        monkeypatch.setenv("PATH", f"{pretend_slurm.install(tmp_path / 'commands')}:{os.environ['PATH']}")
        monkeypatch.chdir(tmp_path)
    out = tmp_path / engine / whole.name
    try:
        export_beton(*built, out, settings=SETTINGS, work=ExportWork(engine=engine, num_workers=2))
    finally:
        if engine == "ray":
            import ray

            ray.shutdown()
    assert content(out) == content(whole)
