"""Data sets to rows: every layout, the order, the digest, and messages for folders that are not what they should be."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from backdrop.errors import UserError
from backdrop.stores.datasets import open_index
from backdrop.stores.images.image_codec import decode_rgb
from backdrop.stores.indexes.dataset_index import DatasetIndex
from backdrop.stores.indexes.imagenet_classes import WNIDS, class_of_wnid


def put(root: Path, *keys: str) -> Path:
    for number, key in enumerate(keys):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(b"x" * (number + 1))
    return root


def test_the_1000_classes(shared_data: Path) -> None:
    assert (shared_data / "labels" / "imagenet_synsets.txt").read_text().split() == list(WNIDS)


def test_classes_are_ranks_of_sorted_wnids() -> None:
    assert len(set(WNIDS)) == 1000
    assert list(WNIDS) == sorted(WNIDS)
    assert [class_of_wnid(wnid) for wnid in ("n01440764", "n02102040", "n15075141")] == [0, 217, 999]
    with pytest.raises(UserError, match="'n00000001' is not one of the 1,000"):
        class_of_wnid("n00000001")


def test_imagenet_layout(tmp_path: Path) -> None:
    root = put(tmp_path, "train/n15075141/b.JPEG", "train/n01440764/a.jpeg", "train/n01440764/Z.JPEG", "val/x.JPEG")
    put(
        tmp_path, "train/README.txt", "train/n01440764/notes.txt", "train/n01440764/.hidden.JPEG", "train/.cache/a.JPEG"
    )
    index = open_index("imagenet", root=root)
    assert index.keys == ("n01440764/Z.JPEG", "n01440764/a.jpeg", "n15075141/b.JPEG")
    assert index.labels.tolist() == [0, 0, 999]
    assert index.labels.dtype == np.int32
    assert index.sizes_bytes.tolist() == [3, 2, 1]
    assert index.class_names == WNIDS
    assert index.path(2) == root / "train/n15075141/b.JPEG"
    assert index.read(1) == b"xx"


def test_imagenet_refuses_what_is_no_class(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'cats' is not one of the 1,000"):
        open_index("imagenet", root=put(tmp_path, "train/cats/a.JPEG"))


def test_imagenet_val_that_was_not_sorted_into_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no image found.*val/<wnid>/\*.JPEG"):
        open_index("imagenet", root=put(tmp_path, "val/ILSVRC2012_val_00000001.JPEG"), split="val")


def annotations(root: Path, split: str, instances: list[dict]) -> None:
    (root / "annotations").mkdir()
    content = {
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}, {"id": 9, "file_name": "c.jpg"}],
        "annotations": instances,
    }
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def test_coco_label_is_the_category_of_the_largest_instance(tmp_path: Path) -> None:
    root = put(tmp_path, "val2017/a.jpg", "val2017/b.jpg", "val2017/c.jpg")
    dog = {"id": 1, "image_id": 7, "category_id": 18, "area": 50.5}
    person = {"id": 2, "image_id": 7, "category_id": 1, "area": 50.0}
    crowd = {"id": 3, "image_id": 7, "category_id": 90, "area": 900.0, "iscrowd": 1}
    brush = {"id": 4, "image_id": 9, "category_id": 90, "area": 1.0}
    annotations(root, "val", [person, dog, crowd, brush])
    index = open_index("coco", root=root, split="val")
    assert index.labels.tolist() == [1, -1, 2]
    assert index.class_names == ("person", "dog", "toothbrush")


def test_coco_without_annotations_and_with_broken_ones(tmp_path: Path) -> None:
    root = put(tmp_path, "train2017/a.jpg")
    index = open_index("coco", root=root)
    assert (index.labels.tolist(), index.class_names) == ([-1], ())
    annotations(root, "train", [{"id": 1, "image_id": 7}])
    with pytest.raises(UserError, match="not a COCO instances file"):
        open_index("coco", root=root)


def test_folder_has_classes_only_where_every_image_lies_in_one(tmp_path: Path) -> None:
    root = put(tmp_path, "dogs/deep/er/a.PNG", "cats/b.webp", "cats/notes.md")
    assert open_index("folder", root=root).labels.tolist() == [0, 1]
    assert open_index("msra-b", root=root).class_names == ("cats", "dogs")
    index = open_index("folder", root=put(tmp_path, "c.jpg"))
    assert index.keys == ("c.jpg", "cats/b.webp", "dogs/deep/er/a.PNG")
    assert (index.labels.tolist(), index.class_names) == ([-1, -1, -1], ())


def test_links(tmp_path: Path) -> None:
    root = put(tmp_path / "set", "in/a.jpg")
    put(tmp_path / "elsewhere", "b.jpg")
    (root / "there").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    (root / "in" / "dangling.jpg").symlink_to(tmp_path / "nothing.jpg")
    index = open_index("folder", root=root)
    assert index.keys == ("in/a.jpg", "in/dangling.jpg", "there/b.jpg")
    assert index.sizes_bytes.tolist() == [1, 0, 1]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")).write_bytes(b"x")
    index = open_index("folder", root=tmp_path)
    assert index.read(0) == b"x"
    assert len(index.digest) == 64


def test_digest_depends_on_keys_labels_and_sizes_but_not_on_the_place(tmp_path: Path) -> None:
    def digest_of(name: str, *keys: str) -> str:
        return open_index("folder", root=put(tmp_path / name, *keys)).digest

    first = digest_of("1", "a/x.jpg", "b/y.jpg")
    assert digest_of("2", "a/x.jpg", "b/y.jpg") == first
    others = {digest_of("3", "a/x.jpg", "b/z.jpg"), digest_of("4", "b/y.jpg", "a/x.jpg"), digest_of("5", "a/x.jpg")}
    assert len({first, *others}) == 4
    index = open_index("folder", root=tmp_path / "1")
    relabelled = DatasetIndex("folder", "train", index.root, index.keys, index.labels[::-1], index.sizes_bytes, ())
    assert relabelled.digest != first


@pytest.mark.parametrize("dataset", ["imagenet", "coco", "folder", "msra-b"])
@pytest.mark.parametrize("make", [False, True])
def test_missing_and_empty_folders_name_both_ways_out(
    dataset: str, make: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "nowhere"
    if make:
        for name in ("train", "train2017"):
            (root / name).mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        open_index(dataset, root=root)
    message = str(caught.value)
    assert "--root" in message
    assert f"BACKDROP_DATA/{dataset}" in message
    assert str(root) in message
    assert ("no image found" if make else "does not exist") in message
    monkeypatch.delenv("BACKDROP_DATA", raising=False)
    with pytest.raises(UserError, match=rf"no folder .*--root, or set BACKDROP_DATA.*BACKDROP_DATA/{dataset}"):
        open_index(dataset, root=None)


def test_backdrop_data_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "msra-b/a.jpg")
    monkeypatch.setenv("BACKDROP_DATA", str(tmp_path))
    assert open_index("msra-b", root=None).keys == ("a.jpg",)
    for dataset, split in (("../x", "train"), ("coco", "../train"), ("", "train")):
        with pytest.raises(UserError, match="is no name of a"):
            open_index(dataset, root=None, split=split)


def test_real_data(shared_data: Path) -> None:
    index = open_index("imagenet", root=shared_data / "imagenette", split="val")
    assert len(index) == 300
    assert sorted(set(index.labels.tolist())) == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
    assert decode_rgb(index.read(299)).shape == (224, 224, 3)
    coco = open_index("coco", root=shared_data / "coco", split="train")
    assert (len(coco), len(coco.class_names)) == (128, 80)
    assert -1 <= coco.labels.min() < coco.labels.max() < 80


def test_an_image_that_is_gone_is_not_one_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "a.jpg").write_bytes(b"a")
    (tmp_path / "n" / "nowhere.jpg").symlink_to(tmp_path / "nothing")
    index = open_index("folder", root=tmp_path)
    (tmp_path / "n" / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"a\.jpg was there when the data set was listed and is gone"):
        index.read(0)
    with pytest.raises(FileNotFoundError):  # it was so when it was listed: its row says so
        index.read(1)
    shutil.rmtree(tmp_path / "n")
    (tmp_path / "n").touch()
    with pytest.raises(UserError, match=r"is gone \(Not a directory\)"):
        index.read(0)


def test_a_true_mask_beside_its_image_is_no_image_of_msra_b(tmp_path: Path) -> None:
    """As the set is published; a .png alone is an image."""
    for name in ("a.jpg", "a.png", "b.jpg", "b.png", "c.png", "Parameters/train_names.txt"):
        put(tmp_path, f"msra-b/{name}")
    (tmp_path / "msra-b" / "Parameters" / "train_names.txt").unlink()
    root = tmp_path / "msra-b"
    assert open_index("msra-b", root=root).keys == ("a.jpg", "b.jpg", "c.png")
    assert open_index("msra-b", root=root, split="test").keys == ("a.jpg", "b.jpg", "c.png")


def test_the_split_lists_of_msra_b_say_which_images(tmp_path: Path) -> None:
    for name in ("1_a.jpg", "1_a.png", "1_b.jpg", "1_c.jpg"):
        put(tmp_path, f"msra-b/{name}")
    root = tmp_path / "msra-b"
    (root / "train_names.txt").write_text("1_a.jpg\n1_c\n")
    (root / "Parameters").mkdir()
    (root / "Parameters" / "test_names.txt").write_text("1_b.png\n")
    assert open_index("msra-b", root=root).keys == ("1_a.jpg", "1_c.jpg")
    assert open_index("msra-b", root=root, split="test").keys == ("1_b.jpg",)
    with pytest.raises(UserError, match=r"lists of the splits train, test, and none of 'val'"):
        open_index("msra-b", root=root, split="val")
    (root / "val_names.txt").write_text("1_z.jpg\n")
    with pytest.raises(UserError, match=r"names 1 images that are not there, e\.g\. 1_z\.jpg"):
        open_index("msra-b", root=root, split="val")
