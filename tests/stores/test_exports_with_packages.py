"""Exports that other packages read: cut-out foregrounds, and parquet as Hugging Face's `datasets` loads it."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backdrop.errors import UserError
from backdrop.pipeline.export_store import export_store
from backdrop.stores.exports import foregrounds, parquet
from backdrop.stores.format.reader import Store, open_store
from backdrop.stores.images.image_codec import decode_rgb
from backdrop.stores.indexes.dataset_index import DatasetIndex
from tests.material.small_store import NUM_ROWS, mask_of, small_store, tree


def test_foregrounds_are_cut_out_with_where_they_stood(scenes: Path, tmp_path: Path) -> None:
    store, images = open_store(scenes), scenes.parent / "images"
    out = export_store(scenes, "foregrounds", out=tmp_path / "cut", root=images)
    with (out / "sizes.csv").open(newline="") as file:
        sizes = list(csv.DictReader(file))
    assert [line["key"] for line in sizes] == [
        store.key(row) for row in range(store.num_rows) if store.foreground_fraction[row] > 0
    ]
    for line in sizes[:6]:
        row = store.row_of(line["key"])
        top, left, height, width = (int(line[name]) for name in ("top", "left", "height", "width"))
        rgba_HWC = np.asarray(Image.open(out / line["file"]))
        mask_HW = store.mask(row)[top : top + height, left : left + width]
        assert (rgba_HWC[..., 3] == 255 * mask_HW).all()
        image_HWC = decode_rgb((images / line["key"]).read_bytes())[top : top + height, left : left + width]
        assert (rgba_HWC[..., :3] == image_HWC * mask_HW[..., None]).all()
        assert (int(line["image_height"]), int(line["image_width"])) == (store.height[row], store.width[row])
    assert export_store(scenes, "foregrounds", out=tmp_path / "cut", root=images) == out  # kept


def test_foregrounds_go_on_after_a_kill(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_out, cut = foregrounds._cut_out, []

    def killed_at_the_fifth(store: Store, index: DatasetIndex, row: int) -> bytes:
        if len(cut) == 4:
            raise KeyboardInterrupt
        cut.append(row)
        return cut_out(store, index, row)

    monkeypatch.setattr(foregrounds, "_cut_out", killed_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        export_store(scenes, "foregrounds", out=tmp_path / "cut", root=scenes.parent / "images")
    assert not (tmp_path / "cut").exists()
    half = sorted((tmp_path / "cut.partial").rglob("*.png"))[0]
    half.write_bytes(half.read_bytes()[:-9])
    monkeypatch.setattr(foregrounds, "_cut_out", lambda *given: cut.append(given[2]) or cut_out(*given))
    out = export_store(scenes, "foregrounds", out=tmp_path / "cut", root=scenes.parent / "images")
    num_cut = len(list(out.rglob("*.png")))
    assert len(cut) == num_cut + 1, "those that were whole are not cut again, the half one is"
    fresh = export_store(scenes, "foregrounds", out=tmp_path / "fresh", root=scenes.parent / "images")
    assert tree(out) == tree(fresh)


def test_foregrounds_of_other_images_are_refused(scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes.parent / "images", tmp_path / "images")
    store = open_store(scenes)
    row = int(np.flatnonzero(store.foreground_fraction > 0)[0])
    image = tmp_path / "images" / store.key(row)
    image.write_bytes(image.read_bytes() + b"\0")
    with pytest.raises(UserError, match="the image is not the one"):
        export_store(scenes, "foregrounds", out=tmp_path / "cut", root=tmp_path / "images")
    assert not (tmp_path / "cut").exists()
    with pytest.raises(UserError, match="--root is for --format beton and foregrounds"):
        export_store(scenes, "png", root=tmp_path / "images")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of dill's, in datasets
def test_parquet_is_loaded_by_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    store = open_store(small_store(tmp_path / "toy.zarr"))
    out = parquet.export(store, tmp_path / "toy.parquet")
    rows = datasets.Dataset.from_parquet(sorted(map(str, out.glob("*.parquet"))))
    assert isinstance(rows.features["mask"], datasets.Image)
    assert rows["key"][:] == store.keys()
    for row in range(NUM_ROWS):
        found = rows[row]
        assert (found["mask"] is None) == (store.mask(row) is None)
        assert (found["background"] is None) == (store.background(row) is None)
        if found["mask"] is not None:
            np.testing.assert_array_equal(np.asarray(found["mask"]) // 255, mask_of(row) * (row != 5))
