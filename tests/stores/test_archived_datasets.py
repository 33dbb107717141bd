"""Data sets whose images are in shards or tables: rows, classes, a build and the export of its images."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backdrop.errors import UserError
from backdrop.stores.datasets import open_index
from tests.material.small_images import FormulaDetector

NUM_IMAGES = 5


def jpeg(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def write_shard(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards as WebDataset writes them: an image and its class side by side."""
    for shard, numbers in enumerate((range(3), range(3, NUM_IMAGES))):
        members: dict[str, bytes] = {}
        for number in numbers:
            members |= {f"{number:03d}.jpg": jpeg(number), f"{number:03d}.cls": b"%d\n" % (number % 2)}
        write_shard(tmp_path / "shards" / "train" / f"{shard:04d}.tar", members)
    return tmp_path / "shards"


def test_rows_of_shards(shards: Path) -> None:
    index = open_index("tar", root=shards)
    assert index.keys[2:4] == ("0000.tar/002.jpg", "0001.tar/003.jpg")
    assert index.labels.tolist() == [0, 1, 0, 1, 0]
    assert [pickle.loads(pickle.dumps(index)).read(row) for row in range(NUM_IMAGES)] == [*map(jpeg, range(NUM_IMAGES))]


def test_what_is_wrong_with_a_shard_is_said(shards: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "a" / "train" / "0.tar", {"1.jpg": jpeg(1), "1.cls": b"cat"})
    with pytest.raises(UserError, match=r"1\.cls says 'cat': a class is a number"):
        open_index("tar", root=tmp_path / "a")
    (tmp_path / "b" / "train").mkdir(parents=True)
    (tmp_path / "b" / "train" / "0.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UserError, match=r"0\.tar cannot be read as a tar file"):
        open_index("tar", root=tmp_path / "b")
    index = open_index("tar", root=shards)
    with pytest.raises(UserError, match=r"has no 9\.jpg any more"):
        index.archive.read("0000.tar/9.jpg")


def test_the_gallery_reads_images_in_shards(shards: Path, tmp_path: Path) -> None:
    from backdrop.errors import ImageError
    from backdrop.pipeline.build.masks_and_backgrounds import build_store
    from backdrop.pipeline.gallery.source_images import find_images
    from backdrop.stores.format.reader import open_store
    from backdrop.stores.images.image_codec import decode_rgb

    build_store(open_index("tar", root=shards), FormulaDetector(), tmp_path / "x.zarr", num_workers=0)
    images = find_images(open_store(tmp_path / "x.zarr"), shards)
    assert (images.where, images.missing) == ("the data set's shards or tables", "")
    assert all(np.array_equal(images.read(row, 0), decode_rgb(jpeg(row))) for row in range(NUM_IMAGES))
    shard = shards / "train" / "0001.tar"
    shard.write_bytes(shard.read_bytes().replace(jpeg(3), jpeg(3)[:-3] + b"..."))
    with pytest.raises(ImageError, match="another image under this key"):
        images.read(3, 0)


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in the Hub's form."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    pytest.importorskip("datasets", reason="datasets is not installed")
    import pyarrow
    import pyarrow.parquet

    rows = [{"picture": {"bytes": jpeg(n), "path": f"{n}.jpg"}, "kind": n % 2} for n in range(NUM_IMAGES)]
    features = {"picture": {"_type": "Image"}, "kind": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    (tmp_path / "hub" / "data").mkdir(parents=True)
    table = pyarrow.Table.from_pylist(rows)
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    return tmp_path / "hub"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of dill's, in datasets
def test_rows_of_parquet(parquet: Path) -> None:
    index = open_index("huggingface", root=parquet)
    assert (index.labels.tolist(), index.class_names) == ([0, 1, 0, 1, 0], ("cat", "dog"))
    assert [pickle.loads(pickle.dumps(index)).read(row) for row in range(NUM_IMAGES)] == [*map(jpeg, range(NUM_IMAGES))]
    with pytest.raises(UserError, match=r"neither val-\*.parquet"):
        open_index("huggingface", root=parquet, split="val")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "place"), [("tar", "shards"), ("huggingface", "parquet")])
def test_a_store_is_built_and_exported_from_it(
    name: str, place: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from backdrop.pipeline.beton.reader import open_beton, read_blob
    from backdrop.pipeline.build.masks_and_backgrounds import build_store
    from backdrop.pipeline.export_store import export_store
    from backdrop.stores.format.reader import open_store

    root = request.getfixturevalue(place)
    build_store(open_index(name, root=root), FormulaDetector(), tmp_path / "x.zarr", num_workers=2)
    store = open_store(tmp_path / "x.zarr")
    assert store.label.tolist() == [0, 1, 0, 1, 0]
    beton = open_beton(export_store(tmp_path / "x.zarr", root=root))
    assert [read_blob(beton.file_bytes, record, "image") for record in beton.records] == [*map(jpeg, range(NUM_IMAGES))]
