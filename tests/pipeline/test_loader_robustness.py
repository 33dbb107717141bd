"""The loader under damage: odd and broken images, bad rows, failures, a thousand early ends, killed exports.

Wrong bytes in blobs, a failing thread and an epoch left early have their first tests in `test_loader.py`.
"""

import gc
import io
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import ModuleType

import numba
import numpy as np
import pytest
from PIL import Image
from tqdm._monitor import TMonitor

from backdrop.errors import CorruptStore, UserError
from backdrop.ffcv_types import _give_types
from backdrop.pipeline.beton.reader import read_records
from backdrop.pipeline.beton.writer import export_beton
from backdrop.pipeline.build.masks_and_backgrounds import BuildSettings, build_store
from backdrop.pipeline.loader import scene_decoder
from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.loader.reference_loader import ReferenceLoader
from backdrop.pipeline.views.random_streams import NO_VIEW, REPLACEMENT, integer
from backdrop.pipeline.views.view_plan import VIEW_DTYPE, Background, View, ViewPlan
from backdrop.stores.datasets import open_index
from backdrop.stores.format.reader import Store, open_store
from backdrop.stores.format.schema import Status
from backdrop.stores.indexes.dataset_index import DatasetIndex
from backdrop.trainer.run.recorder import crop_statistics
from tests.material import small_scenes
from tests.material.broken_betons import blob_of, copy_of, damaged, record_of, set_blob
from tests.material.loader_rows import all_rows

GLOBAL = View(size_px=32, min_foreground=0.2)
PLAN = ViewPlan(
    views=(GLOBAL, GLOBAL, View(size_px=15, scale=(0.05, 0.2), is_global=False)),
    background=Background(name="random", probability=0.5),
)
PROGRAMS = Path(__file__).parents[1] / "material" / "loader_programs.py"


@pytest.fixture(scope="module")
def beton(built: tuple[Store, DatasetIndex], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_beton(*built, tmp_path_factory.mktemp("beton") / "small.beton", max_side_px=200)


@pytest.fixture(autouse=True)
def _leaves_no_thread() -> Iterator[None]:
    before = num_threads()
    yield
    assert num_threads() == before


def num_threads() -> int:
    """Without that of progress bars, which tqdm keeps."""
    return sum(not isinstance(thread, TMonitor) for thread in threading.enumerate())


# --- odd images, from the folder to the view -------------------------------------------------------------------------

ODD_SIZES = {
    "pixel": (1, 1),
    "wide": (1, 5000),
    "tall": (5000, 1),
    "strip": (3, 900),
    "grey": (60, 80),
    "cmyk": (70, 50),
}
BROKEN = ("truncated", "junk", "empty")


def write_odd_folder(folder: Path) -> tuple[Path, Path]:
    """Images of every size and kind that ever broke a loader, their masks, and two ordinary ones."""
    images, masks = folder / "images" / "one", folder / "masks" / "one"
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    for number, (name, (height, width)) in enumerate({**ODD_SIZES, "plain": (90, 120), "other": (64, 64)}.items()):
        image = Image.fromarray(small_scenes.photograph(max(height, 8), max(width, 8), number)[:height, :width])
        image = image.convert({"grey": "L", "cmyk": "CMYK"}.get(name, "RGB"))
        image.save(images / f"{name}.jpg", quality=92)
        mask = np.zeros((height, width), np.uint8)
        mask[: (height + 1) // 2, : (width + 1) // 2] = 255
        Image.fromarray(mask).save(masks / f"{name}.png")
    whole = (images / "plain.jpg").read_bytes()
    for name, data in zip(BROKEN, (whole[: len(whole) // 2], bytes(range(256)) * 4, b""), strict=True):
        (images / f"{name}.jpg").write_bytes(data)
        Image.fromarray(np.zeros((90, 120), np.uint8)).save(masks / f"{name}.png")
    return folder / "images", folder / "masks"


def test_odd_images_go_all_the_way_and_broken_ones_are_counted(tmp_path: Path) -> None:
    images, masks = write_odd_folder(tmp_path)
    index = open_index("folder", root=images)
    build_store(index, f"masks:{masks}", tmp_path / "s.zarr", BuildSettings(), num_workers=1)
    store = open_store(tmp_path / "s.zarr")
    beton = export_beton(store, index, tmp_path / "s.beton")
    names = [Path(key).stem for key in index.keys]
    assert {name: Status(int(store.status[row])) for row, name in enumerate(names) if name in BROKEN} == dict.fromkeys(
        BROKEN, Status.DECODE_ERROR
    )
    options = {"batch_size": 4, "seed": 2}
    with Loader(beton, PLAN, LoaderOptions(**options, num_threads=2)) as loader:
        assert (loader.num_rows, loader.num_left_out) == (len(ODD_SIZES) + 2, len(BROKEN))
        ours = [row for epoch in range(5) for row in all_rows(loader, epoch=epoch)]
    assert {names[row] for row, _ in ours} == {*ODD_SIZES, "plain", "other"}
    reference = ReferenceLoader(store, index, PLAN, LoaderOptions(**options))
    theirs = [row for epoch in range(5) for row in all_rows(reference, epoch=epoch)]
    for (row, mine), (other_row, other) in zip(ours, theirs, strict=True):
        assert row == other_row
        for ours_of_view, of_view in zip(mine[1:], other[1:], strict=True):
            assert ours_of_view[1] == of_view[1]
            assert ours_of_view[3] == of_view[3]
            levels = [np.frombuffer(pixels[0], np.uint8).astype(int) for pixels in (ours_of_view, of_view)]
            assert np.abs(levels[0] - levels[1]).max() <= 1


# --- rows that cannot be read ----------------------------------------------------------------------------------------


def jpeg(pixels: np.ndarray, mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "JPEG", **{"quality": 20, **options})
    return out.getvalue()


def other_jpeg(beton: Path, row: int, change: Callable[[int, int], tuple[int, int]], mode: str = "RGB") -> bytes:
    """A decodable JPEG that is not the record's, small enough for its place."""
    record = record_of(beton, row)
    height, width = change(int(record["height"]), int(record["width"]))
    data = jpeg(np.full((height, width, 3), 200, np.uint8), mode)
    assert len(data) <= record["image_bytes"]
    return data


def padding_set(beton: Path, row: int) -> bytes:
    """The runs of a mask with one bit beyond the width."""
    record = record_of(beton, row)
    words_bits = -(-int(record["width"]) // 64) * 64
    assert record["width"] % 64
    return np.array([words_bits - 1, words_bits], np.uint32).tobytes()


WRONG = {
    "smaller": ("image", lambda beton, row: other_jpeg(beton, row, lambda h, w: (h - 1, w))),
    "half": ("image", lambda beton, row: other_jpeg(beton, row, lambda h, w: (h // 2, w // 2))),
    "larger": ("image", lambda beton, row: other_jpeg(beton, row, lambda h, w: (h, w + 1))),
    "CMYK": ("image", lambda beton, row: other_jpeg(beton, row, lambda h, w: (h, w), "CMYK")),
    "truncated": ("image", lambda beton, row: blob_of(beton, row, "image")[:-200]),
    "headless": ("image", lambda beton, row: blob_of(beton, row, "image")[:10]),
    "padding": ("mask", padding_set),
    "odd": ("mask", lambda beton, row: blob_of(beton, row, "mask")[:-4]),
    "long": ("mask", lambda beton, row: np.array([0, 2**32 - 1], np.uint32).tobytes()),
}


@pytest.mark.parametrize("geometry", ["host", "device"])
@pytest.mark.parametrize("wrong", sorted(WRONG))
def test_a_blob_of_something_else_is_an_error_that_names_the_row(
    beton: Path, store_of: Store, tmp_path: Path, wrong: str, geometry: str
) -> None:
    """Every checksum fits: what is read is what was written, but it is not this row's."""
    row = int(np.flatnonzero(store_of.status == Status.OK)[4])
    copy = copy_of(beton, tmp_path)
    blob, make = WRONG[wrong]
    set_blob(copy, row, blob, make(copy, row))
    plan = replace(PLAN, crop_proposal="centroid", crop_fallback="bbox")
    with Loader(copy, plan, LoaderOptions(batch_size=20, seed=1, num_threads=2, geometry=geometry)) as loader:
        begin = time.monotonic()
        with pytest.raises(CorruptStore, match=f"row {row}, {store_of.key(row)}: its {blob}"):
            next(loader.epoch(0))
        assert time.monotonic() - begin < 1


@pytest.fixture(scope="module")
def store_of(built: tuple[Store, DatasetIndex]) -> Store:
    return built[0]


def test_a_damaged_key_does_not_hide_the_row(beton: Path, tmp_path: Path) -> None:
    copy = damaged(beton, tmp_path, 4, "image", hides=False)
    set_blob(copy, 4, "key", b"\xff\xfe", hides=False)
    with (
        Loader(copy, PLAN, LoaderOptions(batch_size=20, seed=1, num_threads=1)) as loader,
        pytest.raises(CorruptStore, match=r"row 4, \(its key is damaged too\): the bytes of its image"),
    ):
        next(loader.epoch(0))


def test_a_damaged_row_whose_name_is_not_utf8_is_named(beton: Path, tmp_path: Path) -> None:
    copy = damaged(beton, tmp_path, 4, "image", hides=False)
    set_blob(copy, 4, "key", b"caf\xe9.jpg")
    with (
        Loader(copy, PLAN, LoaderOptions(batch_size=20, seed=1, num_threads=1)) as loader,
        pytest.raises(CorruptStore, match=r"row 4, caf\udce9\.jpg: the bytes of its image"),
    ):
        next(loader.epoch(0))


@pytest.fixture(scope="module")
def hurt(beton: Path, store_of: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A file with a wrong image, a wrong mask and a wrong background, and their rows."""
    rows = np.flatnonzero(store_of.status == Status.OK)[[2, 6, 9]].tolist()
    copy = beton
    for row, blob in zip(rows, ("image", "mask", "background"), strict=True):
        copy = damaged(copy, tmp_path_factory.mktemp("hurt"), row, blob, hides=False)
    return copy, rows


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("world_size", [1, 3])
def test_bad_rows_give_way_and_nothing_else_changes(
    beton: Path, hurt: tuple[Path, list[int]], store_of: Store, threads: int, world_size: int
) -> None:
    copy, (bad_image, bad_mask, bad_background) = hurt
    options = {"seed": 7, "num_threads": threads}
    with Loader(beton, PLAN, LoaderOptions(batch_size=20, **options)) as loader:
        rows, sound = loader.num_rows, {epoch: all_rows(loader, epoch=epoch) for epoch in range(4)}
    trainable = np.flatnonzero(np.isin(store_of.status, [s for s in Status if s.has_mask]))
    names = tuple(f"row {bad}, {store_of.key(bad)}: " for bad in (bad_image, bad_mask, bad_background))
    skipped, unchanged, num_logged = 0, 0, 0.0
    for rank in range(world_size):
        with Loader(
            copy, PLAN, LoaderOptions(batch_size=3, bad_rows="skip", rank=rank, world_size=world_size, **options)
        ) as loader:
            assert loader.num_rows == rows
            for epoch, whole in sound.items():
                batches = list(loader.epoch(epoch))
                assert [len(batch.row_B) for batch in batches] == [3] * loader.num_batches, "batches stay full"
                messages = [message for batch in batches for message in batch.skipped]
                assert all(batch.epoch == epoch for batch in batches)
                num_logged += sum(crop_statistics(batch)["skipped_rows"] for batch in batches)
                ours, everything = all_rows(loader, epoch=epoch), dict(whole)
                num_replaced = 0
                for (row, views), (wanted, expected) in zip(ours, whole[rank::world_size], strict=False):
                    assert views == everything[row], "what is handed over is the row's own"
                    records = [np.frombuffer(view[3], VIEW_DTYPE)[0] for view in expected[1:]]
                    is_bad = wanted in (bad_image, bad_mask) or any(
                        record["has_background"] and record["donor_row"] == bad_background for record in records
                    )
                    assert (row != wanted) == is_bad
                    num_replaced += is_bad
                    unchanged += not is_bad
                    tries = [trainable[integer(7, epoch, wanted, NO_VIEW, REPLACEMENT + n, len(trainable))]
                             for n in range(16)]  # fmt: skip
                    assert row == wanted or row in tries
                assert len(messages) == num_replaced
                assert all(message.startswith(names) for message in messages)
                skipped += num_replaced
    assert skipped == num_logged >= 8
    assert unchanged > 40


def test_a_file_of_bad_rows_is_an_error_all_the_same(
    beton: Path, store_of: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = copy_of(beton, tmp_path_factory.mktemp("all"))
    for row in np.flatnonzero(read_records(beton)["image_bytes"]):
        set_blob(copy, int(row), "image", b"\0" * 16, hides=False)
    with Loader(copy, PLAN, LoaderOptions(batch_size=4, seed=0, num_threads=2, bad_rows="skip")) as loader:
        begin = time.monotonic()
        with pytest.raises(CorruptStore, match=r"row \d+, .*jpg: the bytes of its image .* export the .beton again"):
            next(loader.epoch(0))
        assert time.monotonic() - begin < 1


def test_an_unknown_policy_is_named(beton: Path) -> None:
    with pytest.raises(UserError, match="bad_rows='ignore' is unknown; allowed: error, skip"):
        Loader(beton, PLAN, LoaderOptions(batch_size=4, seed=0, bad_rows="ignore"))


# --- failures and ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [MemoryError, SystemExit, KeyError])
def test_a_failing_thread_is_heard_within_a_second(
    beton: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """In the middle of an epoch, while the other thread is busy."""
    calls = iter(range(1000))
    real = scene_decoder.fill_rows

    def fail_later(*arguments: object) -> tuple:
        if next(calls) == 7:
            raise error("in the producing thread")
        time.sleep(0.05)
        return real(*arguments)

    with Loader(beton, PLAN, LoaderOptions(batch_size=4, seed=0, num_threads=2, batches_ahead=1)) as loader:
        monkeypatch.setattr(scene_decoder, "fill_rows", fail_later)
        taken = [time.monotonic()]
        with pytest.raises(error, match="in the producing thread"):
            taken.extend(time.monotonic() for _ in loader.epoch(0))
        assert time.monotonic() - taken[-1] < 1


def test_a_closed_loader_does_not_hang(beton: Path) -> None:
    """Closed at any moment: between batches, in the middle of one, with work that no thread has begun."""
    for pause_ms in range(12):
        loader = Loader(beton, PLAN, LoaderOptions(batch_size=2, seed=0, num_threads=3, batches_ahead=1))
        epoch = loader.epoch(0)
        next(epoch)
        time.sleep(pause_ms / 2000)
        loader.close()
        errors: list[RuntimeError] = []
        taking = threading.Thread(target=take_all, args=(epoch, errors), daemon=True)  # one that hangs ends with us
        taking.start()
        taking.join(5)
        assert not taking.is_alive()
        assert errors


def take_all(epoch: Iterator, errors: list[RuntimeError]) -> None:
    try:
        for _ in epoch:
            pass
    except RuntimeError as error:
        errors.append(error)


def test_a_forked_process_is_told_off(beton: Path) -> None:
    """Its threads stayed in the parent: without the check it would wait for them for ever."""

    def read_there() -> None:
        try:
            next(loader.epoch(0))
        except UserError:
            os._exit(7)

    with Loader(beton, PLAN, LoaderOptions(batch_size=2, seed=0, num_threads=1)) as loader:
        next(loader.epoch(0))
        process = multiprocessing.get_context("fork").Process(target=read_there)
        process.start()
        process.join(5)
        code = process.exitcode
        process.kill()
        process.join()
        process.close()
    assert code == 7


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def held() -> tuple[int, int]:
    gc.collect()
    return num_threads(), len(os.listdir("/proc/self/fd"))


def growth_bytes(cycle: Callable[[int], None], num: int) -> int:
    """Growth of memory over `num` cycles after a tenth as many more; threads and files must be as before."""
    for number in range(num // 10):
        cycle(number)
    before, memory = held(), rss_bytes()
    for number in range(num):
        cycle(number)
    assert held() == before
    return rss_bytes() - memory


@pytest.mark.parametrize("num", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_epochs_left_early_leak_nothing(beton: Path, num: int) -> None:
    plan = ViewPlan(views=(View(size_px=16),))
    with Loader(beton, plan, LoaderOptions(batch_size=1, seed=0, num_threads=2, batches_ahead=1)) as loader:

        def cycle(number: int) -> None:
            epoch = loader.epoch(number)
            for _ in islice(epoch, number % 3):
                pass
            epoch.close()

        assert growth_bytes(cycle, num) < 4 << 20


@pytest.mark.parametrize("num", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_loaders_opened_and_left_leak_nothing(beton: Path, num: int) -> None:
    """A decoder and its tables are some 300 KB each: a tenth of them kept would show."""

    def cycle(number: int) -> None:
        with Loader(beton, PLAN, LoaderOptions(batch_size=2, seed=0, num_threads=2, batches_ahead=1)) as loader:
            for _ in islice(loader.epoch(number), number % 3):
                pass

    assert growth_bytes(cycle, num) < 4 << 20


def test_thirty_epochs_do_not_grow(beton: Path) -> None:
    with Loader(beton, PLAN, LoaderOptions(batch_size=4, seed=0, num_threads=2)) as loader:

        def epochs(number: int) -> None:
            for _ in loader.epoch(number):
                pass

        assert growth_bytes(epochs, 30) < 4 << 20


# --- programs of their own -------------------------------------------------------------------------------------------


def run_program(name: str, *arguments: object, timeout_s: float = 240) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.material.loader_programs", name, *map(str, arguments)],
        cwd=PROGRAMS.parents[2], capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_two_loaders_and_a_dataloader_live_in_one_process(beton: Path, start_method: str) -> None:
    assert run_program("side_by_side", beton, start_method).split()[-1] == "done"


@pytest.mark.parametrize("module_name", ["ffcv.memory_managers.os_cache", "ffcv.memory_managers.process_cache.manager"])
def test_what_ffcv_does_to_its_types_changes_none_of_ours(module_name: str) -> None:
    """As its modules do it: the type that all kernels share would have another hash."""
    module = ModuleType(module_name)
    vars(module)["nb"] = numba
    before = hash(numba.uint8[::1])
    _give_types(module)
    module.nb.uint8[::1].mutable = False
    assert numba.uint8[::1].mutable
    assert hash(numba.uint8[::1]) == before
    assert not module.nb.uint8[::1].mutable


@pytest.mark.slow
@pytest.mark.parametrize("order", ["ours,ffcv,ours", "ffcv,ours,ffcv,ours,ffcv"])
def test_ffcvs_own_loader_may_run_in_the_same_process(beton: Path, tmp_path: Path, order: str) -> None:
    """It changed the types of kernels that were compiled before, `decode_jpeg` for one."""
    for number in range(12):
        Image.fromarray(small_scenes.photograph(60, 80, number)).save(tmp_path / f"{number:02d}.jpg")
    assert run_program("beside_ffcv", beton, tmp_path, order).split()[-1] == "equal"


@pytest.mark.slow
def test_a_program_may_end_in_the_middle_of_an_epoch(beton: Path) -> None:
    assert run_program("end_early", beton, timeout_s=60).split()[-1] == "done"


@pytest.mark.slow
def test_the_first_batch_comes_soon(beton: Path) -> None:
    """Kernels come from numba's cache; the bound is for a machine that is busy, 3 s are asked of an idle one."""
    run_program("first_batch", beton)
    imports_s, first_s = map(float, run_program("first_batch", beton).split()[-2:])
    print(f"imports {imports_s:.2f} s, open to first batch {first_s:.2f} s")
    assert first_s < 6
    assert imports_s < 30


@pytest.mark.slow
def test_memory_does_not_grow_with_the_largest_image_times_the_batch(tmp_path: Path) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    (images / "one").mkdir(parents=True)
    (masks / "one").mkdir(parents=True)
    for number in range(20):
        size = (3000, 4000) if number == 0 else (64, 80)
        Image.fromarray(small_scenes.photograph(*size, number)).save(images / "one" / f"{number:02d}.jpg")
        Image.fromarray(small_scenes.mask_of(*size, 1)).save(masks / "one" / f"{number:02d}.png")
    index = open_index("folder", root=images)
    build_store(index, f"masks:{masks}", tmp_path / "s.zarr", BuildSettings(), num_workers=1)
    beton = export_beton(open_store(tmp_path / "s.zarr"), index, tmp_path / "s.beton", max_side_px=4096)
    image_bytes = 3 * 3000 * 4000
    grown = [int(run_program("memory", beton, batch_size).split()[-1]) for batch_size in (2, 20)]
    print(f"growth at batches of 2 and 20 with eight views: {grown[0] >> 20} and {grown[1] >> 20} MiB")
    assert max(grown) < 2 * image_bytes + (24 << 20), "one thread: a decoded image, a mask, tables"
    assert abs(grown[1] - grown[0]) < 16 << 20
