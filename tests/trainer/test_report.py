"""The page about a run: its charts, its tables, its pictures, and what it says when something is missing."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from backdrop.errors import UserError
from backdrop.stores.pages import curves, pictures
from backdrop.stores.pages.pictures import with_boxes, with_contour, with_heat
from backdrop.trainer.recipes import smoke
from backdrop.trainer.report import page, training_charts
from backdrop.trainer.report.contact_sheet import contact_sheet
from backdrop.trainer.report.examples import spread
from backdrop.trainer.report.loaded_run import labels, load, load_all
from backdrop.trainer.report.score_table import scores_section
from backdrop.trainer.report.settings_table import differing
from backdrop.trainer.report.spectrum import effective_rank, singular_values
from backdrop.trainer.settings import to_json
from tests.material.page_material import Checker, attention, example, seen

RESULTS = """metric,value,evaluation,recipe,seed,commit,store_id
top1,62.5,knn,smoke,0,abc,def
bg_gap,4.0,knn,smoke,0,abc,def
top1,50.0,knn-untrained,smoke,0,abc,def
bg_gap,6.5,knn-untrained,smoke,0,abc,def
only_bg_t_top1,40.0,knn,smoke,0,abc,def
only_bg_t_top1,30.0,knn-untrained,smoke,0,abc,def
"""


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


def test_a_whole_page(run: Path) -> None:
    add_steps(run)
    (run / "results.csv").write_text(RESULTS)
    shown = seen(example(1), example(2))
    shown.attention, shown.spectra = [attention()], {"embedding": np.array([2.0, 1.0, 0.5])}
    html = page.render([load(run)], [shown])
    checked = Checker(html)
    assert checked.seen.count("svg") == 4  # loss, learning rate, images per second, spectrum
    assert checked.seen.count("img") == 2 * (4 + 3 + 1) + 6
    assert "script" not in checked.seen
    assert all(source.startswith(("#", "data:,", "data:image/jpeg;base64,")) for source in checked.sources)
    assert "python &lt;cli.py&gt;" in html
    assert "n01440764/&lt;1&gt;.JPEG" in html
    assert "donors/&lt;7&gt;.jpg" in html
    assert ">25.0<" in html, "the share of fallbacks"
    assert "&lt;a&gt;.jpg" in html
    assert "masked key: IoU 0.25" in html
    assert not re.search(r"<(n|a|7|1|cli)[>.]", html), "what users wrote is escaped"


def test_scores_stand_beside_the_untrained_backbone(run: Path) -> None:
    (run / "results.csv").write_text(RESULTS)
    html = page.render([load(run)], [seen()])
    assert re.search(r"top-1 on val.*?62\.50.*?50\.00.*?class=\"better\">\+12\.50", html)
    assert re.search(r"only_bg_t.*?class=\"\">\+10\.00", html), "seeing more in a background is no merit"
    assert re.search(r"BG-Gap.*?4\.00.*?6\.50.*?class=\"better\">-2\.50", html), "a smaller gap is better"


def test_a_page_without_steps_scores_and_store_says_so(run: Path) -> None:
    html = page.write_report([run]).read_text()
    Checker(html)
    for words in ("no recorded step", "not scored yet", "is not at hand", "No crop statistics"):
        assert words in html
    assert not (run / "gallery.png").exists()


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"settings\.json"):
        page.write_report([tmp_path])


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
    line = curves.Line(x_N=steps, y_N=10 - steps / 100, is_noisy=True)
    svg = curves.chart(curves.Chart(name="loss", unit="nats", lines=(line,)))
    Checker(svg)
    points = [
        tuple(map(float, point.split(","))) for point in re.search(r'class="raw" points="([^"]*)"', svg)[1].split()
    ]
    x, y = np.array(points).T
    assert len(points) == 400
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) > 0).all(), "a falling loss goes down the page"
    assert x.min() >= 58
    assert x.max() <= curves.WIDTH_PX - 14
    assert y.min() >= 12
    assert y.max() <= curves.HEIGHT_PX - 36
    assert "loss by step, 1000 points: 10 nats at the start" in svg


def chart_of(*values: float, **changes: object) -> str:
    line = curves.Line(x_N=np.arange(len(values), dtype=np.float64), y_N=np.array(values), is_noisy=True)
    return curves.chart(curves.Chart(name="loss", lines=(line,), **changes))


def test_chart_survives_gaps_single_values_and_constants() -> None:
    nan = float("nan")
    for values in ([1.0], [2.0, 2.0, 2.0], [1.0, nan, 3.0], [0.0, -0.0]):
        svg = chart_of(*values)
        Checker(svg)
        assert "NaN" not in svg
        assert "nan," not in svg
    assert "1 values are not finite" in chart_of(1.0, nan, 3.0)
    assert "no finite value" in chart_of(nan)


def test_logarithmic_axis_places_powers_evenly_and_leaves_zeros_out() -> None:
    line = curves.Line(x_N=np.arange(5.0), y_N=np.array([1.0, 0.1, 0.01, 0.001, 0.0]))
    svg = curves.chart(curves.Chart(name="s", lines=(line,), has_log_axis=True))
    points = [point.split(",") for point in re.search(r'class="line s0" points="([^"]*)"', svg)[1].split()]
    heights = np.array([float(y) for _, y in points])
    assert len(heights) == 4
    np.testing.assert_allclose(np.diff(heights), heights[1] - heights[0], atol=0.11)
    assert re.findall(r'text-anchor="end">([0-9.e-]+)</text>', svg) == ["0.001", "0.01", "0.1", "1"]


def test_several_lines_have_a_legend_and_styles_of_their_own() -> None:
    lines = tuple(
        curves.Line(x_N=np.arange(3.0), y_N=np.arange(3.0) * slope, label=f"<{slope}>", style=slope) for slope in (1, 2)
    )
    html = curves.figure(curves.Chart(name="loss", lines=lines), "")
    Checker(html)
    assert html.count('class="line s1"') == html.count('class="line s2"') == 2  # in the chart and in the legend
    assert "&lt;1&gt;" in html
    assert 'class="raw"' not in html


def test_densities_span_their_axes_and_ours_lies_on_top() -> None:
    share_of = {"this run": np.array([0.0, 0.25, 0.5, 0.25]), "untrained": np.array([1.0, 0.0, 0.0, 0.0])}
    svg = curves.density_chart(share_of, "IoU")
    lines = re.findall(r'<polyline class="line (\w+)" points="([^"]+)"', svg)
    assert [kind for kind, _ in lines] == ["s1", "s0", "s0", "s1"]  # ours on top; then the legend, ours first
    points = np.array([[float(number) for number in point.split(",")] for point in lines[1][1].split()])
    width, height = curves.WIDTH_PX - 58 - 14, curves.HEIGHT_PX - 12 - 36
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
    height, width = outlined_HWC.shape[:2]
    assert outlined_HWC[height // 2, width // 2].tolist() == [100, 100, 100]
    assert outlined_HWC[5, 5].max() < 50
    assert (image_HWC == 100).all(), "the image itself stays"
    red, _, blue = with_heat(image_HWC, np.ones((100, 200), np.float32))[0, 0].astype(int)
    assert red > blue, "what counts most is red"


def test_a_small_views_outline_is_a_line_and_no_blob() -> None:
    mask_HW = np.zeros((32, 32), np.uint8)
    mask_HW[10:20, 10:20] = 1
    outlined_HWC = with_contour(np.full((32, 32, 3), 100, np.uint8), mask_HW)
    assert max(outlined_HWC.shape) == pictures.THUMBNAIL_PX
    grey = (outlined_HWC == 100).all(axis=2).mean(), (outlined_HWC == 40).all(axis=2).mean()
    assert grey[0] > 0.07, "of the foreground's 10 %"
    assert grey[1] > 0.85, "of the background's 90 %"


def test_contact_sheet_has_a_row_each_and_a_column_per_picture() -> None:
    sheet = contact_sheet([example(row) for row in range(8)], tile_px=40)
    assert sheet.size == (6 * 46 + 6, 26 + 6 * 46 + 6)  # six rows at most; the local view has no column


# ------------------------------------------------------------------------------------------------- several runs


@pytest.fixture
def two_runs(run: Path, tmp_path: Path) -> list[Path]:
    other = tmp_path / "<other>"
    other.mkdir()
    settings = smoke.settings("moco", "random", True)
    (other / "settings.json").write_text(json.dumps(to_json(settings)))
    (other / "run.json").write_text((run / "run.json").read_text().replace("abc", "def"))
    add_steps(run)
    add_steps(other, 12)
    with (other / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "epoch": 1, "knn<b>": 3.5}\n')
    (run / "results.csv").write_text(RESULTS)
    (other / "results.csv").write_text(RESULTS.replace("62.5", "58.0").replace("bg_gap,4.0", "bg_gap,3.0"))
    return [run, other]


def test_what_differs_is_found_and_nothing_else(two_runs: list[Path]) -> None:
    found = differing(load_all(two_runs))
    assert found["background.name"] == ["swaps", "random"]
    assert found["commit"] == ["abc", "def"]
    assert "cast.weight" in found
    assert "seed" not in found
    assert "algorithm.momentum" not in found
    assert not differing(load_all(two_runs[:1]))


def test_runs_beside_each_other(two_runs: list[Path], tmp_path: Path) -> None:
    html = page.write_report(two_runs, tmp_path / "new folder" / "page.html").read_text()
    Checker(html)
    assert "&lt;other&gt;" in html
    assert "<other>" not in html
    assert "<mark>swaps</mark>" in html
    assert "knn&lt;b&gt;" in html, "a metric that only one run recorded, once, is drawn too"
    assert re.search(r"top-1 on val.*?<b>62\.50</b>.*?58\.00.*?\+8\.00", html), "the best of a line is bold"
    assert re.search(r"BG-Gap.*?4\.00.*?<b>3\.00</b>", html), "of the gap the smallest is best"
    assert re.search(r"only_bg_t.*?>40\.00 .*?40\.00", html)
    assert html.count("is not at hand") >= 2 * 3, "examples, attention and spectra of both"


def test_lower_errors_are_better_and_leanings_neither(two_runs: list[Path]) -> None:
    """As `evaluate` names them: kNN's names end in _top1, those of ImageNet-9 do not."""
    names = ("mce", "only_fg", "no_fg", "only_bg_b", "only_bg_t", "shape_bias", "shape_decisions", "texture_decisions")
    for folder, value in zip(two_runs, (60.0, 70.0), strict=True):
        rows = [
            f"{name},{number},robust{end},smoke,0,abc,def"
            for name in names
            for number, end in ((value, ""), (65.0, "-untrained"))
        ]
        (folder / "results.csv").write_text("\n".join([RESULTS.splitlines()[0], *rows]))
    html = scores_section({"low": two_runs[0], "high": two_runs[1]})
    low, high = (
        dict(zip(names, re.findall(pattern, html), strict=True))
        for pattern in (
            r'</th><td></td><td class="n">(.*?)</td>',
            r'</th><td></td><td class="n">.*?</td><td class="n">(.*?)</td>',
        )
    )
    for name, better, worse in (("mce", low, high), ("only_fg", high, low)):
        assert "<b>" in better[name]
        assert 'class="better"' in better[name]
        assert "<b>" not in worse[name]
        assert 'class="worse"' in worse[name]
    for name in names[2:]:
        assert "<b>" not in low[name] + high[name], name
        assert (low[name] + high[name]).count('class=""') == 2, name


def test_several_runs_need_a_place_and_none_stands_twice(two_runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--out"):
        page.write_report(two_runs)
    with pytest.raises(UserError, match="twice"):
        page.write_report([two_runs[0], two_runs[0]], tmp_path / "page.html")


def test_labels_are_the_shortest_ends_that_tell_runs_apart() -> None:
    assert labels([Path("/a/x"), Path("/a/y")]) == ["x", "y"]
    assert labels([Path("/a/x"), Path("/b/x"), Path("/b/z")]) == ["a/x", "b/x", "z"]
    assert labels([Path("/a/x")]) == [""]


def test_every_metric_in_the_file_is_charted(run: Path) -> None:
    add_steps(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "epoch": 3, "knn_top1": 40.0, "note": "text"}\n')
    assert training_charts.metric_names([load(run)]) == ["loss", "images_per_s", "knn_top1", "lr"]


# ---------------------------------------------------------------------------------------------------- spectrum


def test_spectrum_by_hand() -> None:
    """Unit vectors (1, 0), (-1, 0), (0, 1), (0, -1): mean 0, so the Gram matrix is 2 I and both values are sqrt 2."""
    vector_ND = np.array([[3.0, 0.0], [-0.5, 0.0], [0.0, 2.0], [0.0, -1.0]])
    np.testing.assert_allclose(singular_values(vector_ND), [np.sqrt(2), np.sqrt(2)])
    assert effective_rank(singular_values(vector_ND)) == pytest.approx(2.0)


def test_spectrum_of_collapsed_vectors() -> None:
    same_ND = np.tile([[1.0, 2.0, 3.0]], (5, 1)) * np.arange(1, 6)[:, None]
    np.testing.assert_allclose(singular_values(same_ND), 0, atol=1e-12)
    assert effective_rank(np.zeros(3)) == 0.0
    line_ND = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(singular_values(line_ND), [np.sqrt(2), 0], atol=1e-12)
    assert effective_rank(singular_values(line_ND)) == pytest.approx(1.0)


def test_effective_rank_of_unequal_values() -> None:
    """Shares 3/4 and 1/4: exp(3/4 ln(4/3) + 1/4 ln 4)."""
    assert effective_rank(np.array([3.0, 1.0, 0.0])) == pytest.approx(np.exp(0.75 * np.log(4 / 3) + 0.25 * np.log(4)))
