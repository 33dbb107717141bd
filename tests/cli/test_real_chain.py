"""The whole chain on real photographs: stores from three layouts, every method with every background, a page."""

import json
from pathlib import Path

import pytest

import backdrop.pipeline.views.backgrounds
import backdrop.trainer.methods
from backdrop.errors import UserError
from backdrop.stores.format.reader import open_store
from tests.material.command_line import run

WITH_NEGATIVES = ("moco", "cast")
DEFAULT_BACKGROUND = {"moco": "swaps", "byol": "random"}
# By default each method with one background; the other pairs are slow together (test_methods.py has them on tiny runs).
PAIRS = [
    pytest.param(
        method,
        background,
        marks=[] if background == DEFAULT_BACKGROUND.get(method, "rm") else [pytest.mark.slow],
    )
    for method in backdrop.trainer.methods.NAMES
    for background in backdrop.pipeline.views.backgrounds.NAMES
]
SMALL = ("epochs=1", "batch_size=16")


def link_images(source: Path, target: Path, num_per_folder: int) -> None:
    """Make a small data set of the same layout: links to the first images of each folder."""
    for folder in sorted(path for path in source.rglob("*") if path.is_dir()) or [source]:
        images = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
        for image in images[:num_per_folder]:
            link = target / image.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(image)


@pytest.fixture(scope="module")
def imagenette(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imagenette")
    link_images(shared_data / "imagenette", root, num_per_folder=4)
    return root


@pytest.fixture(scope="module")
def store(imagenette: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "imagenette-train.zarr"
    run("build-store", "--dataset", "imagenet", "--root", imagenette, "--detector", "rbd", "--threshold", "0.5",
        "--soft-maps", "--out", path)  # fmt: skip
    return path


def test_store_of_imagenette_is_sound_and_labelled(store: Path) -> None:
    opened = open_store(store)
    assert opened.num_rows == 40
    # tench is the first wnid, English springer (n02102040) the 218th: ranks among the thousand, not among the ten.
    assert {int(label) for label in opened.label} >= {0, 217}
    assert 0.02 < opened.foreground_fraction.mean() < 0.6
    with pytest.raises(SystemExit) as end:
        run("store", "verify", store)
    assert end.value.code == 0


@pytest.mark.parametrize(
    ("dataset", "folder", "split"), [("coco", "coco", "val"), ("folder", "ecssd-dev/images", "train")]
)
def test_store_of_other_layouts(shared_data: Path, tmp_path: Path, dataset: str, folder: str, split: str) -> None:
    link_images(shared_data / folder, tmp_path / "images", num_per_folder=6)
    out = tmp_path / "store.zarr"
    run("build-store", "--dataset", dataset, "--root", tmp_path / "images", "--split", split, "--detector", "rbd",
        "--out", out)  # fmt: skip
    opened = open_store(out)
    assert opened.num_rows == 6
    assert set(opened.status) <= {0, 1}
    assert out.with_suffix(".beton").stat().st_size > 50_000


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("method", "background"), PAIRS)
def test_every_method_with_every_background(store: Path, tmp_path: Path, method: str, background: str) -> None:
    words = ["pretrain", "--method", method, "--bg", background, "--store", store, "--recipe", "smoke"]
    words += [word for setting in (*SMALL, "background.probability=0.5") for word in ("--set", setting)]
    if background == "swaps" and method not in WITH_NEGATIVES:
        with pytest.raises(Exception, match="negative"):
            run(*words, "--out", tmp_path / "run")
        return
    run(*words, "--out", tmp_path / "run")
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) == 40 // 16
    assert all(step["loss"] == step["loss"] for step in steps)


def test_score_and_page_of_a_real_run(store: Path, imagenette: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [word for setting in SMALL for word in ("--set", setting)]
    run("pretrain", "--method", "moco", "--bg", "random", "--store", store, "--recipe", "smoke", "--out", out, *words)
    run("evaluate", "knn", "--run", out, "--data", imagenette, "--json", tmp_path / "knn.json")
    assert "top1" in (tmp_path / "knn.json").read_text()
    run("report", out)
    page = (out / "report.html").read_text()
    assert 'src="http' not in page
    assert page.count("data:image/") >= 12


def test_a_store_of_masks_made_elsewhere(shared_data: Path, tmp_path: Path) -> None:
    link_images(shared_data / "sed2" / "images", tmp_path / "images", num_per_folder=5)
    out = tmp_path / "store.zarr"
    run("build-store", "--dataset", "folder", "--root", tmp_path / "images", "--threshold", "0.5",
        "--detector", f"masks:{shared_data / 'sed2' / 'masks'}", "--no-beton", "--out", out)  # fmt: skip
    assert list(open_store(out).status) == [0] * 5


def test_unknown_detector_is_a_clear_error(shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="rbd") as caught:
        run("build-store", "--dataset", "folder", "--root", shared_data / "sed2" / "images", "--detector", "u2net",
            "--out", tmp_path / "store.zarr")  # fmt: skip
    assert isinstance(caught.value.__cause__, UserError)
