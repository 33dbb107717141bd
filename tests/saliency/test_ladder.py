"""The ladder: its cells against `saliency evaluate`, kept and resumed; its tables; what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from backdrop import cli
from backdrop.errors import UserError
from backdrop.saliency import ladder_page
from backdrop.saliency.deepusps2.deepusps import train
from backdrop.saliency.deepusps2.settings import PRESETS
from backdrop.saliency.inference import encode_png
from backdrop.saliency.scoring import ladder, metrics
from backdrop.saliency.scoring.ladder import Cell, measure_all, sets_with_masks
from backdrop.saliency.scoring.literature import LITERATURE, PROTOCOLS, published_set
from backdrop.saliency.scoring.metrics import evaluate_folder
from backdrop.saliency.scoring.needs import needs_of
from backdrop.saliency.scoring.threshold_calibration import calibrate
from backdrop.stores.datasets import open_index
from backdrop.stores.images.image_codec import decode_grey
from tests.ladder import tables
from tests.material.page_material import Checker
from tests.material.published_vits import tiny_dino
from tests.material.scored_detectors import draw_set


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of data sets, of which two have true masks."""
    root = tmp_path / "data"
    for name in ("ECSSD-dev", "mine"):
        draw_set(root / name)
    (root / "photographs").mkdir()
    monkeypatch.setenv("BACKDROP_DATA", str(root))
    monkeypatch.chdir(tmp_path)
    return root


def test_a_cell_is_what_evaluate_and_calibrate_say(data: Path, tmp_path: Path) -> None:
    cells = measure_all(["rbd"], sets_with_masks(), tmp_path / "cells")
    assert [(cell.detector, cell.set_name, cell.num_images) for cell in cells] == [
        ("rbd", "ECSSD-dev", 8),
        ("rbd", "mine", 8),
    ]
    folders = (data / "mine" / "images", data / "mine" / "masks")
    expected = evaluate_folder(*folders, "rbd")
    assert cells[1].scores == {name: expected[name] for name in cells[1].scores}
    assert cells[1].iou == pytest.approx(calibrate(*folders, "rbd")["stated"]["iou"])
    assert cells[1].threshold == calibrate(*folders, "rbd")["stated"]["threshold"] != 0.5
    assert cells[1].images_per_s > 0


def test_what_was_measured_is_measured_again_only_where_something_changed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps, measured, original = f"masks:{data / 'mine' / 'maps'}", [], ladder.scored_images

    def counted(index: object, masks: Path, detector: object) -> object:
        measured.append(masks.parent.name)
        return original(index, masks, detector)  # type: ignore[arg-type]

    monkeypatch.setattr(ladder, "scored_images", counted)
    sets = sets_with_masks()
    first = measure_all([maps], sets[1:], tmp_path / "cells")
    assert measured == ["mine"]
    assert measure_all([maps], sets[1:], tmp_path / "cells") == first
    assert measured == ["mine"]
    measure_all([maps, "mc"], sets[1:], tmp_path / "cells")  # another detector
    assert measured == ["mine", "mine"]
    (data / "mine" / "masks" / "<0>.png").write_bytes(
        encode_png(255 - decode_grey((data / "mine" / "masks" / "<1>.png").read_bytes()))
    )
    second = measure_all([maps], sets[1:], tmp_path / "cells")  # another true mask
    assert measured == ["mine"] * 3
    assert second[0].scores["mae"] != first[0].scores["mae"]
    for kept in (tmp_path / "cells").glob("*.json"):
        kept.write_text("{")
    with pytest.raises(UserError, match="remove it"):
        measure_all([maps], sets[1:], tmp_path / "cells")


def test_the_command_writes_page_and_tables(data: Path, tmp_path: Path) -> None:
    words = ["saliency", "ladder", "--detector", "rbd", "--detector", f"masks:{data / 'mine' / 'masks'}"]
    result = CliRunner().invoke(cli.main, words)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 1 + 2 * 2, "a head, and two detectors on two sets"
    assert lines[2].split()[:4] == ["ECSSD-dev", f"masks:{data / 'mine' / 'masks'}", ".000", "1.000"]
    html = (tmp_path / "artifacts" / "ladder" / "ladder.html").read_text()
    Checker(html)
    markdown = (tmp_path / "artifacts" / "ladder" / "ladder.md").read_text()
    of_ecssd, of_mine = markdown.split("mine, 8 images")
    for text in (of_ecssd, html):
        assert "SelfMask with bilateral solver" in text
        assert "max F .684, IoU .517 (SelfMask)" in text, "beside rbd's own"
    assert ladder_page.NOT_MEASURED in of_ecssd
    assert ">above</td>" in html
    assert ">no</td>" in html, "of those that were not measured here"
    assert ladder_page.NOT_MEASURED not in of_mine, "nobody published anything about it"
    assert "published" in of_ecssd
    assert "published" not in of_mine
    cells = json.loads(CliRunner().invoke(cli.main, [*words, "--quiet", "--json"]).stdout)["cells"]
    assert len(cells) == 4


def ladder_cells(*detectors: str) -> list[dict]:
    """What the command measures, or has measured, on the set `mine`."""
    words = ["saliency", "ladder", "--on", "data/mine", "--json", "--quiet"]
    result = CliRunner().invoke(cli.main, [*words, *(word for name in detectors for word in ("--detector", name))])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["cells"]


def test_detectors_on_weights_are_measured_kept_and_resumed(data: Path, tmp_path: Path) -> None:
    weights = tiny_dino(tmp_path / "vit.pth")
    names = [f"tokencut:{weights}", f"tokencut:{weights}:solver", f"masks:{data / 'mine' / 'maps'}"]
    cells = ladder_cells(*names)
    assert [cell["detector"] for cell in cells] == names
    assert [cell["needs"] for cell in cells] == [
        *["a ViT with public self-supervised weights"] * 2,
        "maps made elsewhere",
    ]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "artifacts" / "ladder" / "cells").iterdir()}
    assert len(kept) == 3
    assert ladder_cells(names[1], names[0]) == [cells[1], cells[0]], "in the order asked for"
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.slow
def test_a_trained_detector_is_measured_at_its_own_threshold(data: Path, tmp_path: Path) -> None:
    settings = replace(
        PRESETS["tiny"], working_size_px=32, max_images=None, stage1_epochs=1, averaged_epochs=1, stage2_epochs=1
    )
    run = tmp_path / "artifacts" / "detector"
    train(open_index("folder", root=data / "mine" / "images"), run, settings, validation=data / "mine")
    (cell,) = ladder_cells(str(run))
    assert cell["needs"] == "8 unlabelled images of folder; drn_d_tiny from random weights"
    assert cell["threshold"] == json.loads((run / "sanity.json").read_bytes())["own"]["threshold"]
    assert ladder_cells(f"{run}:crf", str(run))[1] == cell
    assert [cell["detector"] for cell in ladder_cells()][-1] == "artifacts/detector", "taken without being named"


def test_a_training_that_does_not_tell_is_a_training_all_the_same(tmp_path: Path) -> None:
    assert needs_of(str(tmp_path)) == needs_of(f"{tmp_path}:no-crf") == needs_of(f"found:{tmp_path}:single")
    assert needs_of(str(tmp_path)) == "its training"
    (tmp_path / "settings.json").write_text('{"dataset": {"num_images": 1200, "name": "msra-b"}, "backbone": {}}')
    assert needs_of(f"found:{tmp_path}") == (
        "1,200 unlabelled images of msra-b; a ViT with public self-supervised weights"
    )
    assert needs_of("rbd") == "nothing"
    assert needs_of("a-plug-ins") == needs_of("plug:in") == ""


def made_up(detector: str, set_name: str = "duts-te") -> Cell:
    scores = dict.fromkeys((*metrics.COLUMNS.values(), *metrics.NATIVE_COLUMNS.values()), 0.25)
    return Cell(
        detector=detector,
        needs="its training",
        set_name=set_name,
        num_images=9,
        threshold=0.2,
        scores=scores,
        iou=None,
        images_per_s=2.0,
        where="here",
    )


def test_published_figures_stand_beside_what_is_measured_or_alone() -> None:
    rows = {row[0]: row for row in ladder_page.rows_of([made_up("found:vit.pth"), made_up("artifacts/detector")])}
    assert all(len(row) == len(ladder_page.HEAD) for row in rows.values())
    both = "FOUND, single: max F .733, IoU .637 (SelfMask, not confirmed); FOUND, multi: max F .715, IoU .645"
    assert rows["found:vit.pth"][2].startswith(both)
    assert rows["artifacts/detector"][1:4] == ("its training", "", ".250")
    assert "FOUND, single" not in rows, "measured here"
    assert rows["LOST"][3] == ladder_page.NOT_MEASURED
    assert rows["DeepUSPS, as A2S measured it"][2] == "F .730, MAE .072 (A2S)"
    assert "DeepUSPS2" not in rows, "nothing on this set"


def test_every_protocol_has_a_column() -> None:
    cell = made_up("rbd")
    scores = dict(zip(cell.scores, range(100, 100 + len(cell.scores)), strict=True))
    head, row = ladder_page.HEAD, ladder_page.rows_of([replace(cell, scores=scores)])[0]
    for name, key in (
        ("MAE", "mae"),
        ("F(.5)", "f_fixed"),
        ("max F", "f_max"),
        ("max F (TokenCut)", "tokencut_max_f"),
        ("max F (SelfMask, FOUND)", "found_max_f"),
        ("F (A2S)", "a2s_f"),
    ):
        assert row[head.index(name)] == f"{scores[key]:.3f}", name


def test_the_page_has_numbers_and_words_of_each_set_apart() -> None:
    page = ladder_page.render([made_up("rbd"), made_up("mine", set_name="mine")])
    numbers, words = page.split("What each needs, and what was published on all of DUTS-TE")
    words, mine = words.split("mine, 9 images")[0], words.split("mine, 9 images")[1]
    assert "LOST" not in numbers
    assert "its training" not in numbers
    not_here = sum("DUTS-TE" in each.figures for each in LITERATURE if each.family != "rbd")
    assert words.count("<tr>") == 2 + not_here
    assert words.count("<td>no</td>") == not_here
    assert words.count("<td>above</td>") == 1
    assert "measured here" not in mine.partition('id="words"')[0]


def test_measured_cells_are_kept_for_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "KEPT", tmp_path / "kept.json")
    (tmp_path / "kept.json").write_text("[]")
    tables.keep([made_up("rbd"), made_up("runs/1")], {"runs/1": "saliency train"})
    tables.keep([replace(made_up("runs/2"), iou=0.5)], {"runs/2": "saliency train"})
    assert [(cell.detector, cell.iou) for cell in tables.kept_cells()] == [("rbd", None), ("saliency train", 0.5)]
    text = f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter"
    assert tables.between_marks(text, "new") == f"before\n{tables.BEGIN}\n\nnew\n\n{tables.END}\nafter"
    with pytest.raises(AssertionError, match="is gone"):
        tables.between_marks("old", "new")


def test_what_ran_where_is_told() -> None:
    cells = [made_up("rbd"), made_up("mc")]
    assert "measured on here)" in ladder_page.markdown(cells)
    elsewhere = replace(made_up("run"), where="a GPU")
    assert "(rbd, mc on here; run on a GPU)" in ladder_page.markdown([*cells, elsewhere])


def test_the_literature_is_whole() -> None:
    assert {each.protocol for each in LITERATURE} == set(PROTOCOLS)
    assert published_set("ecssd-dev") == published_set("ECSSD") == "ECSSD"
    assert published_set("sed2") == ""
    assert len({(each.name, each.protocol) for each in LITERATURE}) == len(LITERATURE)


def test_sets_without_masks_are_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"photographs does not hold images/ and masks/"):
        sets_with_masks([data / "mine", data / "photographs"])
    for root in (tmp_path / "nowhere", data / "photographs"):
        monkeypatch.setenv("BACKDROP_DATA", str(root))
        with pytest.raises(UserError, match="--on DIR"):
            sets_with_masks()
