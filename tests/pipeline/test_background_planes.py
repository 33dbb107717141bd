"""Backgrounds in a .beton are small planes: what they are made of, what that does to views, and files of before."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backdrop.errors import CorruptStore, UserError
from backdrop.pipeline.beton.plane_blobs import planes_blob, rgb_of_blob
from backdrop.pipeline.beton.reader import BetonSettings, read_blob, read_records, read_sidecar, sidecar_path
from backdrop.pipeline.beton.scene import background_blob
from backdrop.pipeline.beton.writer import export_beton
from backdrop.pipeline.loader.loader import Loader
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.loader.reference_loader import ReferenceLoader, blob_planes, crop_image
from backdrop.pipeline.views.batch import Batch
from backdrop.pipeline.views.view_plan import Background, View, ViewPlan
from backdrop.stores.format.provenance import identity_digest
from backdrop.stores.format.reader import Store
from backdrop.stores.images.image_codec import decode_rgb, encode_jpeg
from backdrop.stores.indexes.dataset_index import DatasetIndex
from tests.material import small_scenes

SETTINGS = BetonSettings(max_side_px=200, background_side_px=60)
JPEGS = replace(SETTINGS, background_side_px=0)
PLAN = ViewPlan(
    views=(View(size_px=40, min_foreground=0.2), View(size_px=24)),
    background=Background(name="random", probability=0.9),
)
OPTIONS = LoaderOptions(batch_size=4, seed=3, num_threads=1)
# Of views of 224 pixels out of photographs' backgrounds of 384, in grey levels: the mean over all views, and over the
# worst of them.
MEAN_DISTANCE, WORST_MEAN_DISTANCE = 5.0, 16.0


@pytest.fixture(scope="module")
def jpegs(built: tuple[Store, DatasetIndex], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_beton(*built, tmp_path_factory.mktemp("jpegs") / "s.beton", settings=JPEGS)


def donors(batches: list[Batch]) -> list[np.ndarray]:
    """Every background that was drawn, view by view."""
    return [
        view.donor_BHWC[np.flatnonzero(view.record_B["has_background"])].numpy().copy()
        for batch in batches
        for view in batch.views
        if view.donor_BHWC is not None
    ]


def drawn(beton: Path) -> list[np.ndarray]:
    with Loader(beton, PLAN, OPTIONS) as loader:
        return [each for batch in loader.epoch(0) for each in donors([batch])]


def test_shrunk_backgrounds_equal_the_reference_loaders(built: tuple[Store, DatasetIndex], tmp_path: Path) -> None:
    beton = export_beton(*built, tmp_path / "s.beton", settings=SETTINGS)
    reference = ReferenceLoader(*built, PLAN, OPTIONS, settings=SETTINGS)
    ours, theirs = drawn(beton), donors(list(reference.epoch(0)))
    assert sum(map(len, ours)) > 10
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
    records = read_records(beton)
    assert max(records["background_height"].max(), records["background_width"].max()) == 60


def test_those_that_are_small_already_give_the_views_of_the_jpegs(
    built: tuple[Store, DatasetIndex], jpegs: Path, tmp_path: Path
) -> None:
    beton = export_beton(*built, tmp_path / "s.beton", settings=replace(SETTINGS, background_side_px=384))
    pairs = list(zip(drawn(beton), drawn(jpegs), strict=True))
    assert sum(len(one) for one, _ in pairs) > 10
    # 1: a grey one has no colour, which is not quite colour of 0 in the last bit.
    assert max(np.abs(one.astype(int) - other).max() for one, other in pairs if one.size) <= 1
    assert np.mean([(one == other).mean() for one, other in pairs if one.size]) > 0.9


def test_jpegs_are_kept_as_the_store_has_them_where_that_is_wanted(
    built: tuple[Store, DatasetIndex], jpegs: Path
) -> None:
    records, file_bytes = read_records(jpegs), np.fromfile(jpegs, np.uint8)
    found = [read_blob(file_bytes, record, "background") for record in records]
    assert found == [built[0].background_jpeg(row) for row in range(len(records))]
    assert read_sidecar(jpegs)["format_version"] == 2


def test_a_file_of_before_is_kept_with_its_jpegs(
    built: tuple[Store, DatasetIndex], jpegs: Path, tmp_path: Path
) -> None:
    old = tmp_path / "s.beton"
    old.write_bytes(jpegs.read_bytes())
    content = json.loads(sidecar_path(jpegs).read_text())
    del content["settings"]["background_side_px"], content["digest"]
    sidecar_path(old).write_text(json.dumps({**content, "digest": identity_digest(content)}))
    before = old.read_bytes()
    assert export_beton(*built, old, settings=SETTINGS) == old
    assert old.read_bytes() == before
    for one, other in zip(drawn(old), drawn(jpegs), strict=True):
        assert (one == other).all()
    with pytest.raises(UserError, match="other settings"):  # one that says what it is
        export_beton(*built, jpegs, settings=SETTINGS)


def test_a_background_that_is_none_or_broken() -> None:
    assert background_blob(b"", 224) == (b"", (0, 0))
    for side_px in (0, 8, 224):
        with pytest.raises(CorruptStore, match="cannot be decoded"):
            background_blob(encode_jpeg(small_scenes.photograph(30, 40, 1))[:-200], side_px)


@pytest.mark.parametrize("size", [(40, 60), (31, 45), (1, 1), (9, 10)])
def test_pictures_of_planes_are_those_of_the_jpeg(size: tuple[int, int]) -> None:
    jpeg = encode_jpeg(small_scenes.photograph(*size, 1))
    ours, theirs = rgb_of_blob(planes_blob(jpeg, size), size), rgb_of_blob(jpeg, size)
    assert ours.shape == (*size, 3)
    assert (theirs == decode_rgb(jpeg)).all()
    assert np.abs(ours.astype(int) - theirs).mean() < 2


def test_views_of_shrunk_backgrounds_stay_near(shared_data: Path) -> None:
    """The same box out of the background of 384 pixels and of the default; what LOADER.md says of it."""
    means, side_px = [], BetonSettings.background_side_px
    for number, path in enumerate(sorted((shared_data / "coco" / "val2017").glob("*.jpg"))[:12]):
        rng = np.random.default_rng(number)
        image_HWC = decode_rgb(path.read_bytes())
        big, size = background_blob(encode_jpeg(image_HWC), 384)
        small, small_size = background_blob(encode_jpeg(image_HWC), side_px)
        share = np.sqrt(rng.uniform(0.2, 1.0))
        start = [int(rng.random() * (1 - share) * side) for side in small_size]
        box = (*start, *(int(share * side) for side in small_size))
        big_box = tuple(
            round(at * length / small_length)
            for at, length, small_length in zip(box, size * 2, small_size * 2, strict=True)
        )
        views = [
            crop_image(blob_planes(blob, of, 1)[0], where, 1, 224, False)
            for blob, of, where in ((big, size, big_box), (small, small_size, box))
        ]
        means.append(np.abs(views[0].astype(int) - views[1]).mean())
    assert 0.5 < np.mean(means) < MEAN_DISTANCE
    assert max(means) < WORST_MEAN_DISTANCE
