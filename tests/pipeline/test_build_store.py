"""Building a store: statuses, identity, and the same bytes whatever the workers and the interruptions."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import backdrop.stores.format.writer
from backdrop.errors import UserError
from backdrop.pipeline.build.masks_and_backgrounds import BuildSettings, build_store, specify, store_identity
from backdrop.pipeline.build.tiled_background import encode_background
from backdrop.saliency.detectors import open_detector
from backdrop.stores.datasets import open_index
from backdrop.stores.format.reader import describe, open_store
from backdrop.stores.format.schema import Status
from backdrop.stores.format.writer import missing_parts, staging_folder
from backdrop.stores.images.image_codec import decode_rgb, sha256
from backdrop.stores.indexes.dataset_index import DatasetIndex
from backdrop.stores.maintenance.gc import gc
from backdrop.stores.maintenance.verify import verify
from tests.material.small_store import tree

NUM_IMAGES = 100
REPOSITORY = Path(__file__).resolve().parents[2]


def make_images(root: Path) -> None:
    """100 small images in two classes with masks; 3 is no image, 4 truncated, 5 has no mask, 6 one of another size."""
    rng = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        key = f"{'ab'[number % 2]}/{number:03d}"
        height, width = 40 + number % 7, 50 + number % 5
        image_HWC = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        mask_HW = np.zeros((height, width), np.uint8)
        mask_HW[10:20, 12 : 20 + number % 9] = 255
        mask_HW[:] = {7: 0, 8: 255}.get(number, mask_HW)
        for folder in (root / "images", root / "masks"):
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image_HWC).save(root / "images" / f"{key}.jpg", quality=90)
        if number != 5:
            Image.fromarray(mask_HW[:-1] if number == 6 else mask_HW).save(root / "masks" / f"{key}.png")
    (root / "images/b/003.jpg").write_bytes(b"this is no image")
    whole = (root / "images/a/004.jpg").read_bytes()
    (root / "images/a/004.jpg").write_bytes(whole[: len(whole) // 2])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_images(root)
    return root


def index_of(data: Path) -> DatasetIndex:
    return open_index("folder", root=data / "images")


def build(data: Path, out: Path, *, num_workers: int = 0, **settings: object) -> dict:
    return build_store(
        index_of(data), f"masks:{data / 'masks'}", out, BuildSettings(**settings), num_workers=num_workers
    )


@pytest.fixture(scope="module")
def built(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "store.zarr"
    build(data, out)
    return out


def row_of(data: Path, number: int) -> int:
    return index_of(data).keys.index(f"{'ab'[number % 2]}/{number:03d}.jpg")


def test_rows_hold_what_the_detector_and_the_fill_give(data: Path, built: Path) -> None:
    store, index = open_store(built), index_of(data)
    detector = open_detector(f"masks:{data / 'masks'}")
    assert store.keys() == list(index.keys)
    np.testing.assert_array_equal(store.label, index.labels)
    for number in (0, 42, 99):
        row = row_of(data, number)
        image_HWC = decode_rgb(index.read(row))
        mask_HW = detector(image_HWC, index.keys[row]) > 0.5
        np.testing.assert_array_equal(store.mask(row), mask_HW)
        assert store.background_jpeg(row) == encode_background(image_HWC, mask_HW.astype(np.uint8), "tile", 256, 90)
        assert store.source_sha256(row) == sha256(index.read(row))
        assert store.saliency(row) is None
    assert verify(built) == []


def test_every_image_gets_its_status_and_its_reason(data: Path, built: Path) -> None:
    store = open_store(built)
    expected = {3: Status.DECODE_ERROR, 4: Status.DECODE_ERROR, 5: Status.MASK_ERROR, 6: Status.MASK_ERROR}
    expected |= {7: Status.NO_FOREGROUND, 8: Status.ALL_FOREGROUND}
    for number in range(NUM_IMAGES):
        row = row_of(data, number)
        assert store.status[row] == expected.get(number, Status.OK)
        assert bool(store.message(row)) == (number in (3, 4, 5, 6))
        assert bool(store.background_jpeg(row)) == (number not in (3, 4, 5, 6, 8))
    assert "not an image" in store.message(row_of(data, 3))
    assert "truncated" in store.message(row_of(data, 4))
    assert (store.height[row_of(data, 4)], store.height[row_of(data, 5)]) == (0, 45)
    assert describe(open_store(built))["status"] == {
        "ok": 94, "no-foreground": 1, "all-foreground": 1, "decode-error": 2, "mask-error": 2,
    }  # fmt: skip


def test_soft_maps_and_threshold(data: Path, tmp_path: Path) -> None:
    images, maps = tmp_path / "images", tmp_path / "maps"
    images.mkdir()
    maps.mkdir()
    soft_HW = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (16, 1))
    Image.fromarray(np.zeros((16, 64, 3), np.uint8)).save(images / "x.png")
    Image.fromarray(soft_HW).save(maps / "x.png")
    settings = BuildSettings(threshold=0.5, keeps_soft_maps=True)
    build_store(open_index("folder", root=images), f"masks:{maps}", tmp_path / "s", settings, num_workers=0)
    store = open_store(tmp_path / "s")
    np.testing.assert_array_equal(store.saliency(0), soft_HW)
    np.testing.assert_array_equal(store.mask(0), soft_HW / 255 > 0.5)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_number_of_workers_changes_no_byte(num_workers: int, data: Path, built: Path, tmp_path: Path) -> None:
    summary = build(data, tmp_path / "other.zarr", num_workers=num_workers)
    assert tree(tmp_path / "other.zarr") == tree(built)
    assert summary["store_id"] == open_store(built).store_id
    assert (summary["num_rows"], summary["rows_built"], sum(summary["status"].values())) == (100, 100, 100)


def test_a_finished_store_is_not_built_again(data: Path, built: Path) -> None:
    before = tree(built)
    summary = build(data, built)
    assert (summary["rows_built"], summary["num_rows"]) == (0, 100)
    assert tree(built) == before


def test_identity_names_what_differs(data: Path, built: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mask.threshold: '0.4' here, '0.5' there"):
        build(data, built, threshold=0.4)
    with pytest.raises(UserError, match=r"background.fill: 'ns' here, 'tile' there"):
        build(data, built, fill="ns")
    changed = Path(shutil.copytree(data, tmp_path / "data"))
    (changed / "images/a/000.jpg").write_bytes((changed / "images/a/002.jpg").read_bytes() + b"\0")
    with pytest.raises(UserError, match="index_sha256"):
        build(changed, built)


def test_a_moved_data_set_gives_the_same_store(data: Path, built: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(data, tmp_path / "moved" / "elsewhere"))
    assert build(moved, built)["rows_built"] == 0
    build(moved, tmp_path / "s.zarr")
    assert tree(tmp_path / "s.zarr") == tree(built)
    assert not [name for name, content in tree(built).items() if str(data).encode() in content]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fill": "magic"}, "fill='magic' is unknown; allowed: tile"),
        ({"threshold": 1.0}, "threshold"),
        ({"background_quality": 0}, "quality"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_written(
    settings: dict, message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        build(data, tmp_path / "s", **settings)
    with pytest.raises(UserError, match="unknown engine 'abacus'"):
        build_store(index_of(data), "rbd", tmp_path / "s", BuildSettings(), num_workers=0, engine="abacus")
    assert not list(tmp_path.iterdir())


def test_an_image_changed_under_the_build_stops_it(data: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(data, tmp_path / "data"))
    index = index_of(changed)
    (changed / "images/a/010.jpg").write_bytes(b"changed")
    with pytest.raises(
        UserError, match=r"a/010.jpg has 7 bytes where the index has .*changed while its store was built"
    ):
        build_store(index, f"masks:{changed / 'masks'}", tmp_path / "s", BuildSettings(), num_workers=0)


def test_an_image_that_vanished_or_may_not_be_read_is_a_row_error(data: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(data, tmp_path / "data"))
    (changed / "images/a/gone.jpg").symlink_to(tmp_path / "nothing")
    build(changed, tmp_path / "s")
    store = open_store(tmp_path / "s")
    row = store.keys().index("a/gone.jpg")
    assert store.status[row] == Status.DECODE_ERROR
    assert store.message(row) == "cannot be read: No such file or directory"


def test_a_full_disk_resumes(data: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = backdrop.stores.format.writer._write, []

    def full(file: Path, content: bytes) -> None:
        written.append(file)
        if len(written) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        write(file, content)

    out = tmp_path / "s.zarr"
    with monkeypatch.context() as patched:
        patched.setattr(backdrop.stores.format.writer, "_write", full)
        with pytest.raises(UserError, match=r"is full .* the same command again: it resumes"):
            build(data, out)
    assert 0 < len(missing_parts(out)) < 4
    build(data, out)
    assert tree(out) == tree(built)


def test_the_log_lies_beside_the_store(built: Path) -> None:
    lines = [json.loads(line) for line in Path(f"{built}.build.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines[:2]] == ["started", "finished"]
    assert lines[0]["versions"]["numpy"] == np.__version__


SCRIPT = """
import sys
from pathlib import Path
from backdrop.pipeline.build.masks_and_backgrounds import BuildSettings, build_store
from backdrop.stores.datasets import open_index
if __name__ == "__main__":
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    index = open_index("folder", root=data / "images")
    num_workers = int(sys.argv[3]) if len(sys.argv) > 3 else 2
    build_store(index, f"masks:{data / 'masks'}", out, BuildSettings(), num_workers=num_workers)
"""


def num_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))  # unlike glob, walks on when a folder vanishes


def killed_builds(data: Path, folder: Path, num_kills: int) -> Path:
    """Start the same build again and again, killing each at a random moment, then let it finish."""
    script, out = folder / "build.py", folder / "killed.zarr"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(data), str(out)]
    rng = random.Random(0)
    for _ in range(num_kills):
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        before = num_files(folder)
        while num_files(folder) <= before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.25))
        if rng.random() < 0.5:
            with suppress(ProcessLookupError):  # it may just have finished
                os.killpg(process.pid, signal.SIGKILL)  # builder and workers, as the end of a job does
        process.kill()  # the builder alone: its workers find out
        process.wait()
    result = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=True, capture_output=True, timeout=120
    )
    assert b"100/100" in result.stderr
    return out


def test_killed_builds_end_in_the_same_bytes(data: Path, built: Path, tmp_path: Path) -> None:
    out = killed_builds(data, tmp_path, 3)
    assert tree(out) == tree(built)
    assert not (tmp_path / "killed.zarr.staging").exists()


class Builder:
    """A process that builds the store, in a group of its own; even ones do without workers."""

    def __init__(self, number: int, script: Path, data: Path, out: Path) -> None:
        self._command = [sys.executable, str(script), str(data), str(out), str(2 * (number % 2))]
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        self.process = subprocess.Popen(
            self._command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def kill(self, with_workers: bool) -> bool:
        """Kill it, and its workers or not; whether it was still at work."""
        if with_workers:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        return self.process.wait() == -signal.SIGKILL


def race_under_fire(data: Path, folder: Path, rng: random.Random, max_kills: int) -> tuple[Path, int]:
    """Two builders of one store, one or the other killed at random moments and started again, until it is finished."""
    script, out, num_kills = folder / "build.py", folder / "raced.zarr", 0
    script.write_text(SCRIPT)
    builders = [Builder(number, script, data, out) for number in range(2)]
    while any(builder.process.poll() is None for builder in builders):
        before, deadline = num_files(folder), time.monotonic() + 60
        while num_files(folder) == before and any(builder.process.poll() is None for builder in builders):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.15))
        victim = rng.choice(builders)
        if num_kills < max_kills and victim.kill(with_workers=rng.random() < 0.5):
            num_kills += 1
            victim.start()
        assert not (out / "MANIFEST.json").exists() or verify(out, full=False) == []
    assert all(builder.process.returncode in (0, -signal.SIGKILL) for builder in builders)
    return out, num_kills


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_racing_builders_killed_fifty_times_lose_nothing(data: Path, built: Path, tmp_path: Path) -> None:
    expected, rng, num_kills, num_stores = tree(built), random.Random(0), 0, 0
    while num_kills < 50:
        folder = tmp_path / str(num_stores)
        folder.mkdir()
        out, kills = race_under_fire(data, folder, rng, max_kills=min(10, 50 - num_kills))
        build(data, out)  # resumes where all were killed at last; changes nothing where one came through
        assert tree(out) == expected
        assert verify(out) == []
        gc(out, min_age_s=0)
        assert not staging_folder(out).exists()
        num_kills, num_stores = num_kills + kills, num_stores + 1
    print(f"{num_kills} kills over {num_stores} stores")


@pytest.mark.slow
def test_a_real_data_set_with_a_real_detector(shared_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    for file in sorted((shared_data / "sed2/images").iterdir())[:3]:
        shutil.copy(file, root)
    settings = BuildSettings(threshold=0.5)
    build_store(open_index("folder", root=root), "rbd", tmp_path / "s", settings, num_workers=1)
    store = open_store(tmp_path / "s")
    assert (store.status == Status.OK).all()
    assert ((store.foreground_fraction > 0.005) & (store.foreground_fraction < 0.8)).all()
    assert store.identity["detector"]["name"] == "rbd"


def test_where_the_threshold_is_from_is_logged_and_changes_no_byte(data: Path, tmp_path: Path) -> None:
    own = build(data, tmp_path / "own.zarr")
    given = build(data, tmp_path / "given.zarr", threshold=0.5)
    assert (own["threshold"], given["threshold"]) == (0.5, 0.5)
    assert (own["threshold_source"], given["threshold_source"]) == (
        "the middle of 0 and 255; masks are the same at any",
        "given",
    )
    assert open_store(tmp_path / "own.zarr").identity["mask"]["threshold"] == "0.5"
    assert tree(tmp_path / "own.zarr") == tree(tmp_path / "given.zarr")
    for name, summary in (("own", own), ("given", given)):
        started = json.loads((tmp_path / f"{name}.zarr.build.jsonl").read_text().splitlines()[0])
        assert {key: started[key] for key in ("threshold", "threshold_source")} == {
            key: summary[key] for key in ("threshold", "threshold_source")
        }


def test_a_detector_is_cut_at_its_own_threshold_unless_told(data: Path, tmp_path: Path) -> None:
    own = open_detector("rbd").threshold.value
    for given, cut_at in ((None, own), (0.9, 0.9)):
        spec = specify(index_of(data), "rbd", tmp_path, BuildSettings(threshold=given))
        assert store_identity(spec)["mask"]["threshold"] == cut_at
    with pytest.raises(UserError, match="threshold"):
        specify(index_of(data), "rbd", tmp_path, BuildSettings(threshold=1.0))
