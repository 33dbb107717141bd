"""A recipe of a paper says before it starts in what the store is not that of its table."""

from pathlib import Path
from typing import Any

import pytest

from backdrop.pipeline.beton.beton_of_store import StoreSource
from backdrop.trainer.run import loop
from backdrop.trainer.run.loop import RunRequest, pretrain, resolve_settings
from backdrop.trainer.run.store_of_table import departures
from tests.bench.photographs import write_beton


def sidecar(dataset: str, max_side_px: int) -> dict[str, Any]:
    return {"dataset": dataset, "settings": {"max_side_px": max_side_px}}


def identity(threshold: float, detector: str) -> dict[str, Any]:
    return {"mask": {"threshold": str(threshold)}, "detector": {"name": detector}}


CAST_STORE = (sidecar("coco", 640), identity(0.5, "deepusps"))
RYALI_STORE = (sidecar("imagenet", 512), identity(0.9, "deepusps"))


@pytest.mark.parametrize(
    ("recipe", "method", "background", "store", "words"),
    [
        ("cast_coco", "cast", "none", CAST_STORE, []),
        ("cast_coco", "cast", "none", (CAST_STORE[0], identity(0.5, "masks")), []),
        ("cast_coco", "cast", "none", (CAST_STORE[0], identity(0.9, "deepusps")), ["cut at 0.5, these at 0.9"]),
        ("cast_coco", "cast", "none", (CAST_STORE[0], identity(0.5, "rbd")), ["these of rbd"]),
        ("cast_coco", "cast", "none", (sidecar("coco", 512), identity(0.5, "deepusps")), ["640 px, these 512"]),
        ("cast_coco", "cast", "none", (sidecar("sample", 512), None), ["is coco, this one is sample"]),
        # The baselines know no mask.
        ("moco_coco", "moco", "none", (CAST_STORE[0], identity(0.9, "rbd")), []),
        ("moco_v2_220", "moco", "none", (RYALI_STORE[0], identity(0.3, "rbd")), []),
        ("moco_v2_220", "moco", "swaps", RYALI_STORE, []),
        ("moco_v2_220", "moco", "swaps", (RYALI_STORE[0], identity(0.3, "rbd")), ["these at 0.3", "these of rbd"]),
        ("smoke", "moco", "swaps", (sidecar("sample", 512), identity(0.3, "rbd")), []),
        ("a_plugin", "moco", "swaps", (sidecar("sample", 512), identity(0.3, "rbd")), []),
    ],
)
def test_what_a_store_is_not(recipe: str, method: str, background: str, store: tuple, words: list[str]) -> None:
    settings = resolve_settings("smoke" if recipe == "a_plugin" else recipe, method, background, False, [])
    found = departures(recipe, settings, *store)
    assert len(found) == len(words)
    for said, word in zip(found, words, strict=True):
        assert word in said


def test_it_is_said_before_the_run_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    beton, _ = write_beton(tmp_path, 8)
    monkeypatch.setattr(loop, "train", lambda *_, **__: None)
    request = RunRequest(method="moco", background="none", recipe="moco_coco", overrides=["batch_size=8"])
    pretrain(request, StoreSource(store=beton), out=tmp_path / "run")
    assert "recipe moco_coco on this store is no row of its paper's tables" in capsys.readouterr().err
