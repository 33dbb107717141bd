"""The contract of a data set's file, for every file of the folder, and for one of a user's own."""

import inspect
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from backdrop.errors import UserError
from backdrop.open_sets import PLUGINS_VARIABLE
from backdrop.stores.datasets import DATASETS, DatasetFile, open_index, reopen_index, short_name
from backdrop.stores.drawn_sample.first_use import draw_at_first_use

PLUGIN = '''"""Squares: every .jpg of a folder called squares, all of one class."""

from pathlib import Path

from backdrop.stores.indexes.dataset_index import Listing, images_in

BACKDROP_SET = "datasets"
LAYOUT = "squares/*.jpg"
SOURCE = "a neighbour"
SPLITS = ()
ARGUMENT = ""
DEFAULT_ROOT = None


def images(root, split):
    return root / "squares"


def listing(root, split, argument):
    found = tuple(images_in(images(root, split), ""))
    return Listing(found=found, class_of=lambda key: 0, class_names=("square",))
'''


@pytest.fixture(params=DATASETS.built_in())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def lay_out(name: str, root: Path) -> str:
    """Put two images of two classes where a data set has them; what stands on the command line."""
    below = {"coco": "train2017", "imagenet": "train", "sample": "train"}.get(name, "")
    for number, place in enumerate(("n02102040/b.jpg", "n01440764/a.jpg")):
        file = root / below / (place.replace("/", "_") if name == "coco" else place)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * (number + 1))
    if name == "sample":
        (root / "sample.json").write_text("{}")
    if name == "tar":
        (root / "train").mkdir()
        with tarfile.open(root / "train" / "0.tar", "w") as shard:
            for folder in ("n02102040", "n01440764"):
                shard.add(root / folder, folder)
    if name == "huggingface":
        datasets = pytest.importorskip("datasets", reason="datasets is not installed")
        rows = [{"image": {"bytes": b"x" * size, "path": None}, "label": size} for size in (2, 1)]
        datasets.Dataset.from_list(rows).cast_column("image", datasets.Image()).save_to_disk(str(root / "train"))
    if name != "list":
        return name
    names = root.parent / f"{root.name}.csv"
    names.write_text("n02102040/b.jpg,dog\nn01440764/a.jpg,tench\n")
    return f"list:{names}"


def test_it_provides_what_the_protocol_says(name: str) -> None:
    member = DATASETS.load(name)
    assert member.__doc__
    assert all(isinstance(getattr(member, field), str) for field in ("LAYOUT", "SOURCE", "ARGUMENT"))
    assert all(isinstance(split, str) for split in member.SPLITS)
    assert member.DEFAULT_ROOT is None or isinstance(member.DEFAULT_ROOT, Path)
    for function in ("images", "listing"):
        wanted = [name for name in inspect.signature(getattr(DatasetFile, function)).parameters if name != "self"]
        assert list(inspect.signature(getattr(member, function)).parameters) == wanted


def test_rows_are_sorted_and_their_digest_is_of_the_content_alone(name: str, tmp_path: Path) -> None:
    first = open_index(lay_out(name, tmp_path / "here" / "set"), root=tmp_path / "here" / "set")
    assert (first.dataset, first.split, len(first)) == (name, "train", 2)
    assert list(first.keys) == sorted(first.keys)
    assert [first.read(row) for row in range(2)] == [b"xx", b"x"]
    assert all("\\" not in key and not key.startswith("/") for key in first.keys)
    there = tmp_path / "there" / "of another name"
    second = open_index(lay_out(name, there), root=there)
    assert second.digest == first.digest
    assert second.labels.tolist() == first.labels.tolist()
    shutil.rmtree(there)
    with pytest.raises(UserError):
        open_index(name if name != "list" else f"list:{there}.csv", root=there)


def test_what_is_not_there_is_one_error_with_layout_and_source(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKDROP_DATA", str(tmp_path / "nowhere"))
    member = DATASETS.load(name)
    with pytest.raises(UserError) as caught:
        open_index(f"{name}:names.csv" if member.ARGUMENT else name, root=None)
    message = str(caught.value)
    assert str(tmp_path / "nowhere" / name) in message
    assert member.LAYOUT.replace("{split}", "train") in message
    assert member.SOURCE in message
    assert "\n" not in message


def test_an_argument_is_given_where_it_is_taken_and_nowhere_else(name: str, tmp_path: Path) -> None:
    member = DATASETS.load(name)
    lay_out(name, tmp_path / "set")
    wrong = name if member.ARGUMENT else f"{name}:names.csv"
    with pytest.raises(UserError, match=f"give {name}"):
        open_index(wrong, root=tmp_path / "set")


def test_no_data_set_lies_where_the_environment_says_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BACKDROP_DATA", raising=False)
    if DATASETS.load(name).DEFAULT_ROOT is None:
        with pytest.raises(UserError, match=r"no folder was given.*BACKDROP_DATA"):
            open_index(f"{name}:x.csv" if name == "list" else name, root=None)


def test_an_unknown_name_is_refused_with_the_near_one() -> None:
    with pytest.raises(UserError, match=r"unknown dataset 'imagnet'.*Did you mean imagenet\?"):
        open_index("imagnet", root=None)


def test_files_are_called_after_the_data_set_and_its_argument() -> None:
    assert short_name("coco") == "coco"
    assert short_name("list:/some/where/birds.csv") == "list-birds"


def test_opening_never_draws_the_sample_and_says_what_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BACKDROP_DATA", raising=False)
    with pytest.raises(UserError, match=r"artifacts/sample/train does not exist.*build-store --dataset sample"):
        open_index("sample", root=None)
    assert not list(tmp_path.iterdir())
    draw_at_first_use("imagenet", None)
    draw_at_first_use(None, None)
    assert not list(tmp_path.iterdir())


def test_another_folder_is_no_sample(tmp_path: Path) -> None:
    lay_out("sample", tmp_path / "set")
    (tmp_path / "set" / "sample.json").unlink()
    with pytest.raises(UserError, match="something other than the sample"):
        open_index("sample", root=tmp_path / "set")
    with pytest.raises(UserError, match="something other than the sample"):
        draw_at_first_use("sample", tmp_path / "set")


def test_a_data_set_of_ones_own_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "squares_of_mine.py"
    file.write_text(PLUGIN)
    (tmp_path / "data" / "squares").mkdir(parents=True)
    (tmp_path / "data" / "squares" / "1.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="unknown dataset 'squares-of-mine'"):
        open_index("squares-of-mine", root=tmp_path / "data")
    monkeypatch.setenv(PLUGINS_VARIABLE, str(file))
    index = open_index("squares-of-mine", root=tmp_path / "data")
    assert (index.keys, index.labels.tolist(), index.class_names) == (("1.jpg",), [0], ("square",))
    with pytest.raises(UserError, match=r"squares/\*\.jpg .from a neighbour"):
        open_index("squares-of-mine", root=tmp_path)


def test_a_store_of_a_list_is_opened_again_without_the_list(tmp_path: Path) -> None:
    from PIL import Image

    from backdrop.pipeline.build.masks_and_backgrounds import BuildSettings, build_store
    from backdrop.stores.format.reader import open_store

    root, names = tmp_path / "data", tmp_path / "names.csv"
    for name, colour in (("b", "red"), ("a/c", "blue"), ("left out", "green")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), colour).save(root / f"{name}.png")
    names.write_text("path,label\nb.png,square\na/c.png,circle\n")
    index = open_index(f"list:{names}", root=root)
    build_store(index, "rbd", tmp_path / "s.zarr", BuildSettings(), num_workers=0)
    names.unlink()
    moved = root.rename(tmp_path / "moved")
    store = open_store(tmp_path / "s.zarr")
    again = reopen_index(store, moved)
    assert (again.digest, list(again.keys), again.root) == (index.digest, ["a/c.png", "b.png"], moved)
    assert str(tmp_path) not in json.dumps(json.loads((tmp_path / "s.zarr" / "zarr.json").read_text()))
    (moved / "b.png").unlink()
    with pytest.raises(UserError, match=r"b\.png does not exist, but .*s\.zarr names it"):
        reopen_index(store, moved)
