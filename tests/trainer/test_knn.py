"""Nearest-neighbour evaluation: the vote against loops, and exact scores of a hand-made backbone on painted images."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from backdrop.errors import UserError
from backdrop.trainer.evaluation import knn
from backdrop.trainer.evaluation.data.transforms import resize_and_crop
from backdrop.trainer.parts import nearest_neighbours
from tests.reference.knn import knn_predictions

COLOURS = {"red": (220, 10, 10), "green": (10, 220, 10), "blue": (10, 10, 220)}


class MeanColour(nn.Module):
    """A backbone that sees the mean colour of the image and nothing else."""

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        return image_BCHW.mean(dim=(2, 3))


def features(feature_ND: np.ndarray, label_N: np.ndarray) -> nearest_neighbours.Features:
    unit_ND = nn.functional.normalize(torch.from_numpy(feature_ND.astype(np.float32)), dim=1)
    return nearest_neighbours.Features(
        feature_ND=unit_ND, label_N=torch.from_numpy(label_N.astype(np.int64)), corrupt=()
    )


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 9999), k=st.integers(1, 12), num_classes=st.integers(2, 7))
def test_scores_equal_the_loop_reference(seed: int, k: int, num_classes: int) -> None:
    rng = np.random.default_rng(seed)
    train, test = rng.normal(size=(23, 4)), rng.normal(size=(9, 4))
    train_label, test_label = rng.integers(0, num_classes, 23), rng.integers(0, num_classes, 9)
    ranking = knn_predictions(train, train_label, test, num_classes, k, 0.07)
    top1 = 100 * np.mean(ranking[:, 0] == test_label)
    top5 = 100 * np.mean((ranking[:, :5] == test_label[:, None]).any(axis=1))
    actual = nearest_neighbours.top_accuracies(
        features(train, train_label), features(test, test_label), num_classes=num_classes, k=(k,), temperature=0.07
    )
    assert actual == [pytest.approx((top1, top5))]


def test_equally_similar_neighbours_and_equal_votes_go_to_the_first() -> None:
    similarity = torch.tensor([[0.5, 0.9, 0.5, 0.5], [0.1, 0.1, 0.1, 0.1]])
    assert nearest_neighbours.nearest(similarity, 2).tolist() == [[0, 1], [0, 1]]
    assert nearest_neighbours.nearest(similarity, 4).tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]
    train = features(np.array([[1.0, 0], [1, 0]]), np.array([1, 0]))
    test = features(np.array([[1.0, 0]]), np.array([0]))
    assert nearest_neighbours.top_accuracies(train, test, num_classes=2, k=(2,), temperature=0.07)[0][0] == 100.0


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    train, test = (features(rng.normal(size=(n, 3)), rng.integers(0, 4, n)) for n in (40, 31))
    whole = nearest_neighbours.top_accuracies(train, test, num_classes=4, k=(5, 100), temperature=0.1)
    monkeypatch.setattr(nearest_neighbours, "_TEST_CHUNK", 7)
    monkeypatch.setattr(nearest_neighbours, "_TRAIN_CHUNK", 3)
    assert nearest_neighbours.top_accuracies(train, test, num_classes=4, k=(5, 100), temperature=0.1) == whole
    # Equal features in different chunks: the first rows are taken, as from one chunk.
    same = features(np.ones((10, 3)), np.arange(10))
    similarity, rows = nearest_neighbours.neighbours(same.chunk(0, 2, "cpu"), same, 4)
    assert rows.tolist() == [[0, 1, 2, 3]] * 2
    torch.testing.assert_close(similarity, torch.ones(2, 4))


def test_votes_equal_sklearns_classifier() -> None:
    """Half-precision features, k below and above the number of training images, classes that only the test set has."""
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(3)
    train_label, test_label = rng.integers(0, 5, 150), rng.integers(0, 7, 40)
    centre_CD = rng.normal(size=(7, 16))
    train, test = (
        features(centre_CD[label] + rng.normal(size=(len(label), 16)), label) for label in (train_label, test_label)
    )
    train, test = (replace(found, feature_ND=found.feature_ND.half()) for found in (train, test))
    for k in (1, 20, 200):
        theirs = neighbors.KNeighborsClassifier(
            min(k, 150), metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
        ).fit(train.feature_ND.double().numpy(), train_label)
        expected = 100 * np.mean(theirs.predict(test.feature_ND.double().numpy()) == test_label)
        actual = nearest_neighbours.top_accuracies(train, test, num_classes=7, k=(k,), temperature=0.07)[0][0]
        assert actual == pytest.approx(expected)


def paint(folder: Path, colour: tuple[int, int, int], num_images: int) -> None:
    """Write images of one colour, of several sizes and formats."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_images):
        image = Image.new("RGB", (40 + number, 30), colour)
        image.save(folder / f"{number}{('.png', '.JPEG')[number % 2]}")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    for name, colour in COLOURS.items():
        paint(tmp_path / "train" / name, colour, 4)
        paint(tmp_path / "val" / name, colour, 2)
    (tmp_path / "train" / "README.txt").write_text("not an image")
    return tmp_path


def score(data_dir: Path, backbone: nn.Module | None = None) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        return dict(
            knn.score_sets(
                backbone or MeanColour(), knn.open_sets(data_dir), knn.Options(k=3, other_k=()), image_size=16,
                device=torch.device("cpu"), folder=Path(folder),
            )
        )  # fmt: skip


def test_exact_score_of_a_known_backbone(data_dir: Path) -> None:
    assert score(data_dir) == {"top1": 100.0, "corrupt_images": 0.0}
    paint(data_dir / "val" / "green", COLOURS["red"], 1)  # one of six is now red in the folder of green
    assert score(data_dir)["top1"] == pytest.approx(500 / 6)


def test_top5_from_five_classes_on(data_dir: Path) -> None:
    for name, colour in {"black": (0, 0, 0), "white": (255, 255, 255), "yellow": (220, 220, 10)}.items():
        paint(data_dir / "train" / name, colour, 2)
    paint(data_dir / "val" / "black", COLOURS["red"], 1)
    result = score(data_dir)
    assert list(result)[:2] == ["top1", "top5"]
    assert result["top1"] == pytest.approx(600 / 7)


def test_variants_and_background_gap(data_dir: Path) -> None:
    """Mixed-same keeps every colour; mixed-rand gives green the colour of red; only_fg has a val/ folder of its own."""
    for name, colour in COLOURS.items():
        paint(data_dir / "variants" / "mixed_same" / name, colour, 2)
        paint(data_dir / "variants" / "mixed_rand" / name, COLOURS["red"] if name == "green" else colour, 2)
        paint(data_dir / "variants" / "only_fg" / "val" / name, COLOURS["blue"], 1)
    result = score(data_dir)
    assert list(result) == ["top1", "only_fg_top1", "mixed_same_top1", "mixed_rand_top1", "bg_gap", "corrupt_images"]
    assert result["mixed_same_top1"] == 100.0
    assert result["mixed_rand_top1"] == pytest.approx(200 / 3)
    assert result["only_fg_top1"] == pytest.approx(100 / 3)
    assert result["bg_gap"] == pytest.approx(100 / 3)


def test_corrupt_images_are_counted_and_named(data_dir: Path) -> None:
    whole = (data_dir / "train" / "red" / "1.JPEG").read_bytes()
    (data_dir / "train" / "red" / "1.JPEG").write_bytes(whole[:100])
    (data_dir / "val" / "blue" / "0.png").write_bytes(b"")
    result = score(data_dir)
    assert result["corrupt_images"] == 2.0
    assert {"corrupt_image/train/red/1.JPEG", "corrupt_image/val/blue/0.png"} < set(result)
    assert result["top1"] == 100.0


def test_what_is_missing_is_said_before_any_work(data_dir: Path, tmp_path: Path) -> None:
    class Untouchable(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise AssertionError("the backbone was run")

    with pytest.raises(UserError, match=r"no folder .*/nowhere/train.*val/<class>"):
        score(tmp_path / "nowhere", Untouchable())
    paint(data_dir / "val" / "purple", (200, 0, 200), 1)
    with pytest.raises(UserError, match="purple"):
        score(data_dir, Untouchable())
    paint(data_dir / "train", (1, 2, 3), 1)
    with pytest.raises(UserError, match="outside of class folders"):
        score(data_dir, Untouchable())


def test_a_diverged_backbone_is_named_and_the_mode_kept(data_dir: Path) -> None:
    class Diverged(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.mean(dim=(2, 3)) * float("nan")

    with pytest.raises(UserError, match="not finite"):
        score(data_dir, Diverged())
    backbone = MeanColour().train()
    score(data_dir, backbone)
    assert backbone.training


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (30, 31), (224, 224)])
def test_transform_equals_torchvision_on_pil(height: int, width: int) -> None:
    from torchvision import transforms

    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])(Image.fromarray(image))
    np.testing.assert_array_equal(resize_and_crop(image, 224), np.asarray(theirs))


def test_images_published_cut_stay_as_they_are() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    assert resize_and_crop(image, 24, is_cut=True) is image
    assert resize_and_crop(image, 24).shape == (24, 24, 3)
