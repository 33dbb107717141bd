"""The page of what a run would be fed: it shows the views that the run's first step gets, and all that was drawn."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from backdrop import cli
from backdrop.errors import UserError
from backdrop.pipeline.beton.beton_of_store import StoreSource
from backdrop.pipeline.views.device_stage import DeviceStage
from backdrop.pipeline.views.view_plan import VIEW_DTYPE
from backdrop.trainer.report import views_page
from backdrop.trainer.report.examples import denormalised
from backdrop.trainer.report.gallery import PARAMETERS, full_example_html
from backdrop.trainer.run import loop
from backdrop.trainer.run.loop import RunRequest
from tests.material.page_material import Checker, example

TINY = ["batch_size=8", "epochs=2", "algorithm.queue_size=32", "algorithm.shuffle_bn_group=4", "views.size_px=48"]


def given(store: Path, method: str, background: str) -> tuple[RunRequest, StoreSource]:
    overrides = [*TINY, "background.probability=0.9"] if background != "none" else TINY
    request = RunRequest(method=method, background=background, recipe="smoke", overrides=overrides)
    return request, StoreSource(store=store)


@pytest.mark.parametrize(("method", "background"), [("moco", "swaps"), ("cast", "random")])
def test_the_page_shows_what_the_run_is_fed(
    method: str, background: str, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the loader that `pretrain` itself opens: its training is replaced by keeping the first batch's views."""
    fed, shown = [], []

    def keep_views(settings, loader, out, **arguments) -> None:
        batch = next(loader.epoch(0))
        fed.append((DeviceStage(settings.plan, device="cpu")(batch), [record_B.copy() for record_B in batch.records]))

    render = views_page.render
    monkeypatch.setattr(loop, "train", keep_views)
    monkeypatch.setattr(views_page, "render", lambda *a, **k: shown.append(a[1]) or render(*a, **k))
    arguments = given(scenes, method, background)
    loop.pretrain(*arguments, out=tmp_path / "run")
    html = views_page.write_views_page(tmp_path / "new" / "page.html", *arguments, epoch=0).read_text()
    (views, record_VB), (examples,) = fed[0], shown
    assert len(examples) > 8, "more than one batch is shown"
    for place, each in enumerate(examples[: len(views.row_B)]):
        assert each.row == int(views.row_B[place])
        for number, view in enumerate(each.views):
            np.testing.assert_array_equal(view.image_HWC, denormalised(views.images[number][place]))
            np.testing.assert_array_equal(view.mask_HW, views.masks[number][place, 0].numpy())
            assert all(view.record[name] == record_VB[number][place][name] for name in PARAMETERS)
            assert (view.donor is not None) == bool(view.record["has_background"])
        if background == "swaps":
            (negative,) = each.negatives
            np.testing.assert_array_equal(negative.image_HWC, denormalised(views.negative[place]))
        assert (each.views[1].masked_HWC is not None) == (method == "cast")
    assert not (tmp_path / "run").exists()
    Checker(html)
    assert html.count("<article") == len(examples)
    assert html.count("masked key: what CAST") == (len(examples) if method == "cast" else 0)


def test_every_number_drawn_is_explained_and_shown() -> None:
    assert set(PARAMETERS) == set(VIEW_DTYPE.names) - {"padding"}
    each = example()
    html = full_example_html(each, "swaps")
    Checker(html)
    for name in PARAMETERS:
        assert f"<code>{name}</code>" in html
    row = re.search(r"<code>donor_row</code></th>(.*?)</tr>", html)[1]
    assert row.count(">7<") == len(each.views)
    assert "donors/&lt;7&gt;.jpg" in html
    assert "&lt;n&gt;" in html, "where an extra negative comes from"
    assert not re.search(r"<(n|7)>", html)


def test_the_option_trains_nothing_and_says_what_is_wrong(scenes: Path, tmp_path: Path) -> None:
    page = tmp_path / "views.html"
    words = ["pretrain", "--method", "byol", "--bg", "rm", "--store", str(scenes), "--recipe", "smoke"]
    words += ["--set", "batch_size=8", "--set", "epochs=2", "--set", "views.size_px=32", "--show-views", str(page)]
    words += ["--out", str(tmp_path / "run"), "--views-epoch"]
    result = CliRunner().invoke(cli.main, [*words, "1"])
    assert result.exit_code == 0, result.output
    assert "the first of epoch 1" in page.read_text()
    assert not (tmp_path / "run").exists()
    wrong = CliRunner().invoke(cli.main, [*words, "2"])
    assert wrong.exit_code == 2
    assert "2 epochs, 0 to 1" in wrong.stderr


def test_a_batch_that_the_store_cannot_fill_is_refused_as_in_the_run(scenes: Path, tmp_path: Path) -> None:
    request, source = given(scenes, "byol", "none")
    with pytest.raises(UserError, match="do not fill one batch of 512"):
        views_page.write_views_page(
            tmp_path / "page.html", replace(request, overrides=["batch_size=512"]), source, epoch=0
        )
