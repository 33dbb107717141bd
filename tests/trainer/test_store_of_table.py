"""A recipe of a paper says before it starts in what the store is not that of its table."""

from pathlib import Path

import pytest

from backdrop.pipeline.beton.beton_of_store import StoreSource
from backdrop.pipeline.beton.reader import read_sidecar
from backdrop.trainer.report import views_page
from backdrop.trainer.run import loop, run_folder, training
from backdrop.trainer.run.loop import RunRequest, pretrain, resolve_settings
from backdrop.trainer.run.store_of_table import departures
from backdrop.trainer.run.trained_store import TrainedStore, trained_store
from tests.bench.photographs import write_beton


def store(dataset: str, max_side_px: int, threshold: float | None = None, detector: str | None = None) -> TrainedStore:
    """As `trained_store` finds it; without a detector, of a .beton alone."""
    identity = {"mask": {"threshold": str(threshold)}, "detector": {"name": detector}}
    sidecar = {"dataset": dataset, "num_rows": 100, "settings": {"max_side_px": max_side_px}}
    return trained_store(sidecar, identity if detector else None)


CAST_STORE = store("coco", 640, 0.5, "deepusps")
RYALI_STORE = store("imagenet", 512, 0.9, "deepusps")


@pytest.mark.parametrize(
    ("recipe", "method", "background", "store", "words"),
    [
        ("cast_coco", "cast", "none", CAST_STORE, []),
        ("cast_coco", "cast", "none", store("coco", 640, 0.5, "masks"), []),
        ("cast_coco", "cast", "none", store("coco", 640, 0.9, "deepusps"), ["cut at 0.5, these at 0.9"]),
        ("cast_coco", "cast", "none", store("coco", 640, 0.5, "rbd"), ["these of rbd"]),
        ("cast_coco", "cast", "none", store("coco", 512, 0.5, "deepusps"), ["640 px, these 512"]),
        ("cast_coco", "cast", "none", store("sample", 512), ["is coco, this one is sample"]),
        # The baselines know no mask.
        ("supervised_coco", "supervised", "none", store("coco", 640, 0.9, "rbd"), []),
        ("moco_coco", "moco", "none", store("coco", 640, 0.9, "rbd"), []),
        ("moco_v2_220", "moco", "none", store("imagenet", 512, 0.3, "rbd"), []),
        ("moco_v2_220", "moco", "swaps", RYALI_STORE, []),
        ("moco_v2_220", "moco", "swaps", store("imagenet", 512, 0.3, "rbd"), ["these at 0.3", "these of rbd"]),
        ("smoke", "moco", "swaps", store("sample", 512, 0.3, "rbd"), []),
        ("a_plugin", "moco", "swaps", store("sample", 512, 0.3, "rbd"), []),
    ],
)
def test_what_a_store_is_not(recipe: str, method: str, background: str, store: TrainedStore, words: list[str]) -> None:
    settings = resolve_settings("smoke" if recipe == "a_plugin" else recipe, method, background, False, [])
    found = departures(recipe, settings, store)
    assert len(found) == len(words)
    for said, word in zip(found, words, strict=True):
        assert word in said


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a store s.zarr beside it, eight photographs with masks from a folder."""
    return write_beton(tmp_path_factory.mktemp("photographs"), 8)[0]


def test_it_is_said_before_the_run_starts(
    beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Enough(Exception):
        """It is said before any network is built."""

    def stop(*_: object, **__: object) -> None:
        raise Enough

    monkeypatch.setattr(training, "start", stop)
    request = RunRequest(method="moco", background="none", recipe="moco_coco", overrides=["batch_size=8"])
    with pytest.raises(Enough):
        pretrain(request, StoreSource(store=beton), out=tmp_path / "run")
    assert "recipe moco_coco on this store is no row of its paper's tables" in capsys.readouterr().err


def test_it_is_said_of_a_beton_alone_and_of_the_views_page(
    beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Enough(Exception):
        """It is said before anything is drawn."""

    def stop(*_: object) -> None:
        raise Enough

    monkeypatch.setattr(views_page, "Scenes", stop)
    overrides = ["batch_size=8", "algorithm.queue_size=8", "algorithm.shuffle_bn_group=4", "views.size_px=32"]
    request = RunRequest(method="moco", background="swaps", recipe="moco_v2_220", overrides=overrides)
    with pytest.raises(Enough):
        views_page.write_views_page(tmp_path / "views.html", request, StoreSource(store=beton), epoch=0)
    assert "its masks are cut at 0.9, these at 0.5" in capsys.readouterr().err


def test_a_run_keeps_what_it_was_trained_on(beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data set, number of images, their size, whose masks and where they are cut, also of a .beton alone."""
    origins = []
    monkeypatch.setattr(loop, "train", lambda *_, origin, **__: origins.append(origin))
    request = RunRequest(method="moco", background="none", recipe="smoke", overrides=["batch_size=8"])
    for source in (beton, beton.with_suffix(".zarr")):
        pretrain(request, StoreSource(store=source), out=tmp_path / "run")
    alone, whole = (origin.store for origin in origins)
    assert alone == whole
    older = {name: value for name, value in read_sidecar(beton).items() if name != "masks"}
    assert trained_store(older, None) == TrainedStore(dataset="folder", num_rows=8, max_side_px=512)
    assert whole == TrainedStore(dataset="folder", num_rows=8, max_side_px=512, detector="masks", threshold=0.5)
    run_folder.open_folder(
        tmp_path / "run",
        request.resolved(),
        origin=run_folder.Origin(recipe="smoke", store=whole),
        store_id="s",
        resume=False,
    )
    assert run_folder.read_store(tmp_path / "run") == whole
