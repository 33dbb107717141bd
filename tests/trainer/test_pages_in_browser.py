"""The pages of runs, views and detectors in a real browser, from made-up material: console, names, contrast, width."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backdrop.saliency import ladder_page, report_page
from backdrop.saliency.deepusps2.training_log import read_training_log
from backdrop.saliency.scoring.ladder import measure_all
from backdrop.stores.datasets import open_index
from backdrop.trainer.recipes import smoke
from backdrop.trainer.report import page, views_page
from backdrop.trainer.report.loaded_run import load_all
from backdrop.trainer.settings import to_json
from tests.material.browser import PHONE_PX, Browser
from tests.material.page_material import attention, example, seen
from tests.material.scored_detectors import draw_set, write_run


def write_runs(folder: Path) -> list[Path]:
    runs = []
    for method, background in (("moco", "swaps"), ("cast", "random")):
        run = folder / f"{method}-{background}-with-a-name-that-is-long-enough-to-be-a-nuisance"
        run.mkdir()
        (run / "settings.json").write_text(json.dumps(to_json(smoke.settings(method, background, False))))
        provenance = {
            "recipe": "smoke",
            "seed": 0,
            "store_id": "0" * 64,
            "commit": "abc",
            "command": "python cli.py " + 40 * "word ",
        }
        (run / "run.json").write_text(json.dumps(provenance))
        steps = [
            {"step": step, "epoch": 0, "loss": 5 - step / 50, "lr": 0.1, "images_per_s": 90.0, "waited_s": 0.01,
             "view0/tries": 1.5}
            for step in range(50)
        ]  # fmt: skip
        (run / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
        results = "metric,value,evaluation\ntop1,62.5,knn\ntop1,60.0,knn-untrained\nbg_gap,3.0,knn\n"
        (run / "results.csv").write_text(results)
        runs.append(run)
    return runs


@pytest.mark.parametrize("num_runs", [1, 2])
def test_page_of_runs(num_runs: int, browser: Browser, tmp_path: Path) -> None:
    runs = load_all(write_runs(tmp_path)[:num_runs])
    shown = [seen(example(1)) for _ in runs]
    for each in shown:
        each.attention, each.spectra, each.why = [attention()], {"embedding": np.array([2.0, 1.0, 0.01])}, {}
    path = tmp_path / "page.html"
    path.write_text(page.render(runs, shown))
    browser.check(path)


def test_page_of_views(browser: Browser, tmp_path: Path) -> None:
    path, settings = tmp_path / "page.html", smoke.settings("cast", "swaps", False)
    settings = replace(settings, views=(*settings.views, settings.views[0]))  # as many as the examples have
    text = views_page.render(settings, [example(1), example(2)], epoch=0, recipe="smoke", store_id="0" * 64)
    path.write_text(text)
    browser.check(path)
    browser.open(path, width_px=1280)
    heights = browser.run("return [...document.querySelectorAll('article')].map(each => each.offsetHeight)")
    assert max(heights) <= 720, "a row fits a screen"
    cut = "return [...document.querySelectorAll('figcaption')].filter(c => c.scrollWidth > c.clientWidth).length"
    browser.open(path, width_px=PHONE_PX)
    assert browser.run(cut) == 0, "no caption is cut off on a phone"
    browser.run("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert browser.faults() == []


def test_page_of_detectors(browser: Browser, tmp_path: Path) -> None:
    data, path = draw_set(tmp_path / "set"), tmp_path / "page.html"
    index = open_index("folder", root=data / "images")
    measured = [report_page.measure(index, data / "masks", f"masks:{data / name}") for name in ("maps", "masks")]
    training = read_training_log(write_run(tmp_path / "run"))
    path.write_text(report_page.render(measured, [training], images=data / "images", size_px=None))
    browser.check(path)


def test_page_of_the_ladder(browser: Browser, tmp_path: Path) -> None:
    sets = [draw_set(tmp_path / name) for name in ("ecssd", "<mine>")]
    cells = measure_all(["rbd", f"masks:{sets[0] / 'maps'}"], sets, tmp_path / "cells")
    (tmp_path / "page.html").write_text(ladder_page.render(cells))
    browser.check(tmp_path / "page.html")
