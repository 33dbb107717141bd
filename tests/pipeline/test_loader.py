"""The loader: equal to the plain one, the same for any threads, ranks, batches and restarts, loud about bad bytes."""

import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backdrop.errors import CorruptStore, UserError
from backdrop.pipeline.beton.plane_kernels import (
    close_decode_memory,
    decode_planes,
    make_decode_memory,
)
from backdrop.pipeline.beton.reader import BetonSettings, read_records
from backdrop.pipeline.beton.writer import export_beton, planes_bytes
from backdrop.pipeline.loader import _resize_kernels as kernels
from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.loader.reference_loader import ReferenceLoader, crop_image
from backdrop.pipeline.views import device_crops
from backdrop.pipeline.views.batch import Batch
from backdrop.pipeline.views.view_plan import Background, View, ViewPlan
from backdrop.stores.format.reader import Store
from backdrop.stores.format.schema import Status
from backdrop.stores.indexes.dataset_index import DatasetIndex
from tests.material import small_scenes
from tests.material.broken_betons import copy_of, damaged, seal, set_fields
from tests.material.planes import crop, plane_arrays, random_planes

MAX_SIDE_PX = 200
PLANES = BetonSettings(max_side_px=MAX_SIDE_PX, pixels="yuv420")
PLAN = ViewPlan(
    views=(
        View(size_px=64, min_foreground=0.2),
        View(size_px=50, min_foreground=0.2),
        View(size_px=21, scale=(0.05, 0.2), min_foreground=0.1, is_global=False),
    ),
    background=Background(name="swaps", probability=0.6, negative_probability=0.5),
)


@pytest.fixture(scope="module")
def store(built: tuple[Store, DatasetIndex]) -> Store:
    return built[0]


@pytest.fixture(scope="module")
def beton(built: tuple[Store, DatasetIndex], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_beton(*built, tmp_path_factory.mktemp("beton") / "small.beton", max_side_px=MAX_SIDE_PX)


@pytest.fixture(autouse=True)
def _leaves_no_thread() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def copied(batch: Batch) -> dict[int, tuple]:
    """Everything of a batch by row, out of the ring."""
    fields = []
    for view in batch.views:
        donor = None if view.donor_BHWC is None else view.donor_BHWC.numpy().copy()
        fields.append((view.image_BHWC.numpy().copy(), view.mask_BHP.numpy().copy(), donor, view.record_B.copy()))
    return {
        int(row): (
            int(batch.label_B[at]),
            [(i[at], m[at], None if d is None else d[at], r[at]) for i, m, d, r in fields],
        )
        for at, row in enumerate(batch.row_B)
    }


def samples(loader: Loader | ReferenceLoader, epoch: int = 1, first_batch: int = 0) -> dict[int, tuple]:
    found: dict[int, tuple] = {}
    for batch in loader.epoch(epoch, first_batch=first_batch):
        found.update(copied(batch))
    return found


def assert_same(ours: dict[int, tuple], theirs: dict[int, tuple], grey_levels: int = 0) -> None:
    assert list(ours) == list(theirs)
    for row, (label, views) in ours.items():
        assert label == theirs[row][0]
        for (image, mask, donor, record), (image_2, mask_2, donor_2, record_2) in zip(
            views, theirs[row][1], strict=True
        ):
            assert record.tobytes() == record_2.tobytes()
            assert (mask == mask_2).all()
            assert np.abs(image.astype(int) - image_2).max() <= grey_levels
            assert (donor is None) == (donor_2 is None)
            if donor is not None and record["has_background"]:
                assert np.abs(donor.astype(int) - donor_2).max() <= grey_levels


def test_views_equal_the_reference_loader(beton: Path, built: tuple[Store, DatasetIndex], store: Store) -> None:
    torch_threads = torch.get_num_threads()
    options = {"batch_size": 4, "seed": 3}
    reference = ReferenceLoader(
        store,
        built[1],
        PLAN,
        LoaderOptions(**options, drop_last=False),
        settings=BetonSettings(max_side_px=MAX_SIDE_PX),
    )
    with Loader(beton, PLAN, LoaderOptions(**options, num_threads=2, drop_last=False)) as loader:
        assert (loader.num_rows, loader.num_batches, loader.num_left_out) == (20, 5, 2)
        assert (reference.num_rows, reference.num_batches) == (20, 5)
        assert loader.store_id == store.store_id
        ours, theirs = samples(loader), samples(reference)
    assert len(ours) == loader.num_rows
    drawn = [record for _, views in ours.values() for *_, record in views]
    assert any(record["has_background"] for record in drawn)
    assert any(record["is_fallback"] == 0 and record["is_flipped"] for record in drawn)
    assert_same(ours, theirs, grey_levels=1)
    assert torch.get_num_threads() == torch_threads


def test_views_do_not_depend_on_threads_batches_ranks_or_restarts(beton: Path) -> None:
    with Loader(beton, PLAN, LoaderOptions(batch_size=4, seed=1, num_threads=1)) as loader:
        whole = samples(loader)
        resumed = samples(loader, first_batch=2)
        other_epoch = samples(loader, epoch=2)
    assert_same(resumed, dict(list(whole.items())[8:]))
    assert list(other_epoch) != list(whole)
    for options in ({"num_threads": 2, "batch_size": 4}, {"num_threads": 2, "batch_size": 10, "batches_ahead": 1}):
        with Loader(beton, PLAN, LoaderOptions(seed=1, **options)) as loader:
            assert_same(samples(loader), whole)
    halves = []
    for rank in range(2):
        with Loader(beton, PLAN, LoaderOptions(batch_size=2, seed=1, num_threads=1, rank=rank, world_size=2)) as loader:
            halves.append(samples(loader))
    assert not set(halves[0]) & set(halves[1])
    both = halves[0] | halves[1]
    assert_same({row: both[row] for row in whole}, whole)


def test_steps_count_through_the_run(beton: Path) -> None:
    with Loader(beton, PLAN, LoaderOptions(batch_size=6, seed=1, num_threads=1)) as loader:
        assert [(batch.epoch, batch.step) for batch in loader.epoch(2, first_batch=1)] == [(2, 7), (2, 8)]


def test_batches_stay_valid_while_further_ones_are_taken(beton: Path) -> None:
    with Loader(beton, PLAN, LoaderOptions(batch_size=2, seed=1, num_threads=2, batches_ahead=3)) as loader:
        expected = samples(loader)
        held: list[Batch] = []
        for batch in loader.epoch(1):
            held = [*held, batch][-3:]
            for each in held:
                assert_same(copied(each), {int(row): expected[int(row)] for row in each.row_B})
        again = loader.epoch(2)  # in the same memory, behind the last that was taken
        next(again)
        next(again)
        time.sleep(0.2)
        assert_same(copied(held[-1]), {int(row): expected[int(row)] for row in held[-1].row_B})
        again.close()


def test_only_the_wanted_rows_are_visited(beton: Path, store: Store) -> None:
    rows = np.array([1, 2, 7, 9, 11])
    with Loader(beton, PLAN, LoaderOptions(batch_size=2, seed=1, num_threads=1, rows=rows, drop_last=False)) as loader:
        usable = [row for row in rows if Status(int(store.status[row])).has_mask]
        assert sorted(samples(loader)) == usable
    with pytest.raises(UserError, match=r"rows 0 \.\. 21"):
        Loader(beton, PLAN, LoaderOptions(batch_size=2, seed=1, rows=np.array([22])))


def test_an_epoch_left_early_leaves_nothing_behind(beton: Path) -> None:
    with Loader(beton, PLAN, LoaderOptions(batch_size=2, seed=1, num_threads=2, batches_ahead=2)) as loader:
        next(iter(loader.epoch(0)))
        before = threading.active_count()
        for number in range(20):
            for _ in loader.epoch(number):
                break
            assert threading.active_count() == before


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("blob", ["image", "mask", "background"])
def test_bad_bytes_are_an_error_that_names_the_row(
    beton: Path, store: Store, tmp_path: Path, blob: str, hides: bool
) -> None:
    plan = replace(PLAN, background=Background(name="random", probability=1.0))
    row = int(np.flatnonzero(store.status == Status.OK)[7])
    copy = damaged(beton, tmp_path, row, blob, hides=hides)
    with Loader(copy, plan, LoaderOptions(batch_size=4, seed=1, num_threads=2)) as loader:
        # A background is read only where it was drawn: some later epoch.
        several = (batch for epoch in range(20) for batch in loader.epoch(epoch))
        with pytest.raises(CorruptStore, match=f"row {row}, {store.key(row)}: .*{blob}"):
            deque(several, maxlen=0)
        begin = time.monotonic()
        several.close()
        loader.close()
        assert time.monotonic() - begin < 1


def test_an_error_of_our_own_arrives_too(beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError("in the producing thread")

    with Loader(beton, PLAN, LoaderOptions(batch_size=2, seed=1, num_threads=2)) as loader:
        monkeypatch.setattr("backdrop.pipeline.loader.scene_decoder.fill_rows", fail)
        with pytest.raises(ZeroDivisionError, match="producing thread"):
            next(loader.epoch(0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "1 or more"),
        ({"batch_size": 500}, "smaller batch size"),
        ({"batch_size": 2, "rank": 2, "world_size": 2}, "rank is 2 of 2"),
        ({"batch_size": 2, "batches_ahead": 0}, "batches_ahead=0 must be 1 or more"),
    ],
)
def test_settings_out_of_range_are_refused(beton: Path, options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Loader(beton, PLAN, LoaderOptions(seed=0, **options))


def test_recombine_wants_a_file_that_says_how_large_foregrounds_are(beton: Path, tmp_path: Path) -> None:
    """Records of before they were counted have zeros there; every other background reads such a file."""
    plan = replace(PLAN, background=replace(PLAN.background, name="recombine"))
    options = LoaderOptions(batch_size=2, seed=0)
    before = copy_of(beton, tmp_path)
    for row in range(small_scenes.NUM_IMAGES):
        set_fields(before, row, foreground_pixels=0)
    seal(before)
    Loader(before, PLAN, options).close()
    Loader(beton, plan, options).close()
    with pytest.raises(UserError, match=r"recombine has to know how large.*export it again: python cli.py store"):
        Loader(before, plan, options)


def test_a_half_written_file_is_refused(beton: Path, tmp_path: Path) -> None:
    shutil.copy(beton, tmp_path / "x.beton")
    with pytest.raises(UserError, match="export did not finish"):
        Loader(tmp_path / "x.beton", PLAN, LoaderOptions(batch_size=2, seed=0))


@pytest.mark.parametrize(("size_px", "name"), [(12, "random"), (30, "random"), (12, "recombine")])
def test_shrinking_on_decoding_equals_the_reference_loader(
    beton: Path, built: tuple[Store, DatasetIndex], size_px: int, name: str
) -> None:
    """Views so small that most images are decoded 2 or 4 times smaller."""
    view = View(size_px=size_px, scale=(0.3, 1.0), min_foreground=0.2)
    plan = ViewPlan(views=(view, replace(view, size_px=size_px - 3)), background=replace(PLAN.background, name=name))
    options = {"batch_size": 4, "seed": 3, "drop_last": False, "shrink_on_decoding": True}
    reference = ReferenceLoader(*built, plan, LoaderOptions(**options), settings=BetonSettings(max_side_px=MAX_SIDE_PX))
    with Loader(beton, plan, LoaderOptions(**options, num_threads=2)) as loader:
        shrunk = samples(loader)
    assert_same(shrunk, samples(reference), grey_levels=1)
    with Loader(beton, plan, LoaderOptions(**{**options, "shrink_on_decoding": False}, num_threads=2)) as loader:
        whole = samples(loader)
    pairs = [(a[0], b[0]) for row in whole for a, b in zip(shrunk[row][1], whole[row][1], strict=True)]
    differences = [np.abs(a.astype(int) - b).mean() for a, b in pairs]
    assert np.count_nonzero(differences) > len(whole)
    assert np.mean(differences) < 3.5


def test_planes_give_the_views_of_the_jpegs(
    beton: Path, built: tuple[Store, DatasetIndex], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """All of these are 4:2:0 or grey: what is stored is what is decoded, bit by bit, in both geometries."""
    planes = export_beton(*built, tmp_path / "planes.beton", settings=PLANES)
    num_bytes = planes_bytes(built[0], PLANES)
    assert f"about {num_bytes / 1e9:,.2f} GB" in capsys.readouterr().err
    records = read_records(planes)
    assert 0.5 * num_bytes < records["image_bytes"].sum() + records["background_bytes"].sum() < 1.1 * num_bytes
    options = LoaderOptions(batch_size=4, seed=3, num_threads=1)
    with Loader(planes, PLAN, options) as ours, Loader(beton, PLAN, options) as theirs:
        views = samples(ours), samples(theirs)
    grey = [each.pop(small_scenes.GREY) for each in views]  # no colour is not quite colour of 0 in the last bit
    assert_same(*views)
    assert_same(*({small_scenes.GREY: each} for each in grey), grey_levels=1)
    assert export_beton(*built, planes, settings=PLANES) == planes
    with pytest.raises(UserError, match="other settings"):
        export_beton(*built, planes, max_side_px=MAX_SIDE_PX)
    whole = [list(map(_whole, _whole_batches(path))) for path in (planes, beton)]
    assert whole[0] == whole[1]


def _whole_batches(beton: Path) -> Iterator[Batch]:
    with Loader(beton, PLAN, LoaderOptions(batch_size=4, seed=3, geometry="device")) as loader:
        for batch in loader.epoch(1):
            yield device_crops.cut(batch, PLAN, torch.device("cpu"))


def _whole(batch: Batch) -> list[bytes]:
    return [view.image_BHWC.numpy().tobytes() for view in batch.views]


@pytest.mark.parametrize("blob", ["image", "background"])
def test_bad_planes_are_an_error_that_names_the_row(
    built: tuple[Store, DatasetIndex], store: Store, tmp_path: Path, blob: str
) -> None:
    planes = export_beton(*built, tmp_path / "planes.beton", settings=PLANES)
    row = int(np.flatnonzero(store.status == Status.OK)[7])
    (tmp_path / "copy").mkdir()
    copy = damaged(planes, tmp_path / "copy", row, blob, hides=False)
    plan = replace(PLAN, background=Background(name="random", probability=1.0))
    with Loader(copy, plan, LoaderOptions(batch_size=4, seed=1, num_threads=1)) as loader:
        several = (batch for epoch in range(20) for batch in loader.epoch(epoch))
        with pytest.raises(CorruptStore, match=f"row {row}, {store.key(row)}: .*{blob}"):
            deque(several, maxlen=0)
        several.close()


# --- the kernels -----------------------------------------------------------------------------------------------------


boxes = st.tuples(st.integers(1, 90), st.integers(1, 120), st.integers(0, 30), st.integers(0, 30))


@settings(deadline=None, max_examples=40)
@given(size_and_place=boxes, side=st.integers(1, 70), is_flipped=st.booleans(), seed=st.integers(0, 99))
def test_crops_of_grey_images_are_torchvisions(
    size_and_place: tuple[int, ...], side: int, is_flipped: bool, seed: int
) -> None:
    height, width, top, left = size_and_place
    planes = random_planes(height + top + 3, width + left + 2, (1, 1), False, seed)
    box = (top, left, height, width)
    image = torch.from_numpy(plane_arrays(planes)[0][0])[None]
    expected = functional.resized_crop(image, *box, [side, side], antialias=True).numpy()[0, :, :, None]
    expected = expected[:, ::-1] if is_flipped else expected
    assert np.abs(crop(planes, box, side, is_flipped) - expected).max() < 0.55


@settings(deadline=None, max_examples=60)
@given(
    size_and_place=boxes,
    side=st.integers(1, 70),
    is_flipped=st.booleans(),
    sub=st.sampled_from([(1, 1), (1, 2), (2, 2), (2, 1), (1, 4)]),
    shrink=st.sampled_from([1, 2]),
    seed=st.integers(0, 99),
)
def test_crops_are_those_of_float64(
    size_and_place: tuple[int, ...], side: int, is_flipped: bool, sub: tuple[int, int], shrink: int, seed: int
) -> None:
    """Every sampling of colour, odd sides, boxes at the edge and in the middle of a pixel of colour."""
    height, width, top, left = size_and_place
    planes = random_planes(height + top + 3, width + left + 2, sub, True, seed)
    box = (shrink * top, shrink * left + shrink - 1, shrink * height, shrink * width)
    expected = crop_image(plane_arrays(planes), box, shrink, side, is_flipped)
    assert np.abs(crop(planes, box, side, is_flipped, shrink).astype(int) - expected).max() <= 1


def test_compiled_and_plain_crops_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [
        (random_planes(40, 51, sub, has_colour, 0), box, side)
        for sub, has_colour in (((2, 2), True), ((1, 1), False))
        for box, side in (((2, 3, 30, 40), 16), ((0, 0, 40, 51), 33), ((39, 49, 1, 1), 3))
    ]
    compiled = [crop(*case, True) for case in cases]
    for name in ("crop_planes", "_filter_strip", "_colour_strip", "_part", "fill_taps", "_stretch", "copy_row"):
        monkeypatch.setattr(kernels, name, getattr(kernels, name).py_func)
    for case, expected in zip(cases, compiled, strict=True):
        assert (crop(*case, True) == expected).all()


@pytest.mark.parametrize("side", [16, 32, 48, 80, 100])
def test_crops_are_the_same_wherever_they_lie_in_memory(side: int) -> None:
    """Those of whole cache lines go past the caches, the others do not."""
    planes = random_planes(40, 51, (2, 2), True, 0)
    crops_of = [crop(planes, (2, 3, 30, 40), side, False, past_line=start) for start in (0, 1, 16, 63)]
    assert all((each == crops_of[0]).all() for each in crops_of)
    assert np.abs(crops_of[0].astype(int) - crop_image(plane_arrays(planes), (2, 3, 30, 40), 1, side, False)).max() <= 1


# Of views of photographs beside torchvision's of the same JPEGs, in grey levels: means, and the largest at any pixel.
# Theirs has colour that was first brought to full resolution; ours resizes it once.
MEAN_DISTANCE, MAX_DISTANCE = 0.7, 64


def test_views_of_photographs_are_near_torchvisions(shared_data: Path) -> None:
    paths = [path for folder in ("imagenette/train", "scenes-with-masks", "coco/train2017")
             for path in sorted((shared_data / folder).rglob("*.jp*g"), key=str)[:4]]  # fmt: skip
    assert len(paths) >= 8
    rng = np.random.default_rng(0)
    for path in paths:
        with Image.open(path) as image:
            rgb_HWC = np.array(image.convert("RGB"))
        height, width = rgb_HWC.shape[:2]
        memory = make_decode_memory(height, width)
        status, planes = decode_planes(memory, np.frombuffer(path.read_bytes(), np.uint8), height, width)
        assert status == 0
        for side in (224, 96):
            box_height, box_width = rng.integers(height // 3, height + 1), rng.integers(width // 3, width + 1)
            top, left = rng.integers(height - box_height + 1), rng.integers(width - box_width + 1)
            box = tuple(map(int, (top, left, box_height, box_width)))
            image_CHW = torch.from_numpy(rgb_HWC).permute(2, 0, 1).float()
            theirs = functional.resized_crop(image_CHW, *box, [side, side], antialias=True).permute(1, 2, 0).numpy()
            distance = np.abs(crop(planes, box, side, False) - theirs)
            assert distance.mean() < MEAN_DISTANCE, (path, box)
            assert distance.max() < MAX_DISTANCE, (path, box)
        close_decode_memory(memory)
