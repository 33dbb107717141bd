"""The page about a run: its charts, its tables, its pictures, and what it says when something is missing."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pipeline.views.view_plan import VIEW_DTYPE
from stores.errors import UserError
from trainer.recipes import smoke
from trainer.report import curves, page
from trainer.report.contact_sheet import contact_sheet
from trainer.report.exhibits import Exhibit, ViewPicture, spread
from trainer.report.pictures import with_boxes, with_contour
from trainer.run.settings import to_json

RESULTS = """metric,value,evaluation,recipe,seed,commit,store_id
top1,62.5,knn,smoke,0,abc,def
bg_gap,4.0,knn,smoke,0,abc,def
top1,50.0,knn-untrained,smoke,0,abc,def
bg_gap,6.5,knn-untrained,smoke,0,abc,def
only_bg_t_top1,40.0,knn,smoke,0,abc,def
only_bg_t_top1,30.0,knn-untrained,smoke,0,abc,def
"""


class Checker(HTMLParser):
    """Counts what a page holds and insists that tags are closed in order and pictures have a text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.sources: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        attributes = dict(attrs)
        self.sources += [attributes[name] or "" for name in ("src", "href") if name in attributes]
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes["aria-label"]
        if tag not in ("img", "meta", "br", "line", "polyline", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps(to_json(smoke.settings("moco", "swaps", False))))
    provenance = {"recipe": "smoke", "seed": 0, "store_id": "0" * 64, "commit": "abc", "command": "python <cli.py>"}
    (folder / "run.json").write_text(json.dumps(provenance))
    return folder


def add_steps(run: Path, num_steps: int = 30) -> None:
    lines = [
        {"step": step, "epoch": step // 10, "lr": 0.1, "loss": 5.0 - step / 10, "images_per_s": 100.0,
         "view0/tries": 1.5, "view0/fallback": 0.25, "view0/no_foreground": 0.0, "view0/background": 0.2}
        for step in range(num_steps)
    ]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def exhibit(row: int = 3) -> Exhibit:
    rng = np.random.default_rng(row)
    record = np.zeros(1, VIEW_DTYPE)[0]
    for name, value in {"top": 4, "left": 5, "height": 20, "width": 30, "tries": 3, "donor_row": 7}.items():
        record[name] = value
    record["has_background"], record["foreground_fraction"], record["is_grey"] = 1, 0.5, 1
    views = tuple(
        ViewPicture(
            name=name,
            image_HWC=rng.integers(0, 256, (16, 16, 3), dtype=np.uint8),
            record=record,
            is_global=name != "view 3",
            donor_key="donors/<7>.jpg",
        )
        for name in ("query", "key", "view 3")
    )
    mask_HW = np.zeros((40, 60), np.uint8)
    mask_HW[10:30, 15:40] = 1
    return Exhibit(
        row=row,
        key=f"n01440764/<{row}>.JPEG",
        foreground_fraction=0.21,
        image_HWC=rng.integers(0, 256, (40, 60, 3), dtype=np.uint8),
        mask_HW=mask_HW,
        saliency_HW=mask_HW * 200,
        background_HWC=rng.integers(0, 256, (40, 60, 3), dtype=np.uint8),
        views=views,
        negative_HWC=rng.integers(0, 256, (16, 16, 3), dtype=np.uint8),
    )


def test_a_whole_page(run: Path) -> None:
    add_steps(run)
    (run / "results.csv").write_text(RESULTS)
    html = page.render(page.load(run), [exhibit(1), exhibit(2)], "")
    checked = Checker(html)
    assert checked.seen.count("svg") == 3  # loss, learning rate, images per second
    assert checked.seen.count("img") == 2 * (4 + 3 + 1)
    assert "script" not in checked.seen
    assert all(source.startswith(("#", "data:image/jpeg;base64,")) for source in checked.sources)
    assert "python &lt;cli.py&gt;" in html
    assert "n01440764/&lt;1&gt;.JPEG" in html
    assert "donors/&lt;7&gt;.jpg" in html
    assert "25.0%" in html, "the share of fallbacks"


def test_scores_stand_beside_the_untrained_backbone(run: Path) -> None:
    (run / "results.csv").write_text(RESULTS)
    html = page.render(page.load(run), [], "nothing to show")
    assert re.search(r"top-1 on val.*?62\.50.*?50\.00.*?class=\"better\">\+12\.50", html)
    assert re.search(r"only_bg_t.*?class=\"\">\+10\.00", html), "seeing more in a background is no merit"
    assert re.search(r"BG-Gap.*?4\.00.*?6\.50.*?class=\"better\">-2\.50", html), "a smaller gap is better"


def test_a_page_without_steps_scores_and_store_says_so(run: Path) -> None:
    html = page.write_report(run).read_text()
    Checker(html)
    for words in ("no recorded step", "not scored yet", "is not at hand", "no crop statistics"):
        assert words in html
    assert not (run / "gallery.png").exists()


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"settings\.json"):
        page.write_report(tmp_path)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0.11, 0.49, [0.2, 0.3, 0.4]), (-3, 5, [-2, 0, 2, 4]), (7, 7, [7])],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float]) -> None:
    np.testing.assert_allclose(curves.ticks(low, high), expected, atol=1e-9)


def test_smoothing_is_the_trailing_mean() -> None:
    values = np.arange(100, dtype=np.float64) ** 2
    expected = [values[max(0, end - 3) : end + 1].mean() for end in range(100)]  # 4 % of 100 are 4 values
    np.testing.assert_allclose(curves.smoothed(values), expected)


def test_chart_spans_its_axes_and_names_its_values() -> None:
    steps = np.arange(1000, dtype=np.float64)
    svg = curves.chart(curves.Curve(name="loss", unit="nats", steps=steps, values=10 - steps / 100))
    Checker(svg)
    points = [
        tuple(map(float, point.split(","))) for point in re.search(r'class="raw" points="([^"]*)"', svg)[1].split()
    ]
    x, y = np.array(points).T
    assert len(points) == 400
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) > 0).all(), "a falling loss goes down the page"
    assert x.min() >= 58
    assert x.max() <= curves.WIDTH_PX - 12
    assert y.min() >= 12
    assert y.max() <= curves.HEIGHT_PX - 36
    assert "loss over 1000 steps: 10 nats at the start" in svg


def test_chart_survives_gaps_single_values_and_constants() -> None:
    for values in ([1.0], [2.0, 2.0, 2.0], [1.0, float("nan"), 3.0], [0.0, -0.0]):
        steps = np.arange(len(values), dtype=np.float64)
        svg = curves.chart(curves.Curve(name="loss", unit="", steps=steps, values=np.array(values)))
        Checker(svg)
        assert "NaN" not in svg
        assert "nan," not in svg
    assert "1 values are not finite" in curves.chart(
        curves.Curve(name="loss", unit="", steps=np.arange(3.0), values=np.array([1.0, np.nan, 3.0]))
    )
    nothing = curves.Curve(name="loss", unit="", steps=np.zeros(1), values=np.array([np.nan]))
    assert "no finite value" in curves.chart(nothing)


def test_densities_span_their_axes_and_ours_lies_on_top() -> None:
    share_of = {"this run": np.array([0.0, 0.25, 0.5, 0.25]), "untrained": np.array([1.0, 0.0, 0.0, 0.0])}
    svg = curves.density_chart(share_of, "IoU")
    lines = re.findall(r'<polyline class="(\w+)" points="([^"]+)"', svg)
    assert [kind for kind, _ in lines] == ["raw", "raw", "smooth", "smooth"]
    points = np.array([[float(number) for number in point.split(",")] for point in lines[2][1].split()])
    width, height = curves.WIDTH_PX - 58 - 12, curves.HEIGHT_PX - 12 - 36
    # Bins of a quarter, drawn at their centres; a share of all is a density of 4, the axis' end, and 0.5 half of it.
    np.testing.assert_allclose(points[:, 0], 58 + width * np.array([0.125, 0.375, 0.625, 0.875]), atol=0.06)
    np.testing.assert_allclose(points[:, 1], 12 + height * (1 - np.array([0, 0.25, 0.5, 0.25])), atol=0.06)
    assert "this run is highest at 0.625; untrained is highest at 0.125" in svg
    assert 'xmlns="http://www.w3.org/2000/svg"><style>' in curves.standalone(svg)


def test_half_of_the_rows_are_altered_where_there_are_enough() -> None:
    many = np.arange(48) % 3 == 0
    assert many[spread(many)].sum() == 6
    few = np.zeros(48, dtype=bool)
    few[[5, 9]] = True
    assert few[spread(few)].sum() == 2
    assert len(set(spread(few).tolist())) == 12
    assert sorted(spread(np.ones(5, dtype=bool)).tolist()) == [0, 1, 2, 3, 4]


def test_overlays_mark_what_they_should() -> None:
    image_HWC = np.full((100, 200, 3), 100, np.uint8)
    boxed_HWC = with_boxes(image_HWC, [(10, 20, 50, 100)], [(255, 0, 0)])
    assert boxed_HWC[10, 60].tolist() == [255, 0, 0]
    assert boxed_HWC[35, 60].tolist() == [100, 100, 100]
    mask_HW = np.zeros((100, 200), np.uint8)
    mask_HW[30:70, 50:150] = 1
    outlined_HWC = with_contour(image_HWC, mask_HW)
    assert outlined_HWC[50, 100].tolist() == [100, 100, 100]
    assert outlined_HWC[5, 5].max() < 50
    assert (image_HWC == 100).all(), "the image itself stays"


def test_contact_sheet_has_a_row_each_and_a_column_per_picture() -> None:
    sheet = contact_sheet([exhibit(row) for row in range(8)], tile_px=40)
    assert sheet.size == (6 * 46 + 6, 26 + 6 * 46 + 6)  # six rows at most; the local view has no column
