"""From another folder, with a method, backbone, data set, detector and background of one's own, on the command line.

One run, shared by all tests: it is built, trained, scored, shown and resumed with the files, and refused without them.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from backdrop import cli
from backdrop.open_sets import PLUGINS_VARIABLE
from tests.material.copied_plugins import copied

PLUGINS = ("simsiam", "tiny_vit", "csv_of_paths", "bright", "mean_colour")
KNN = ("evaluate", "knn", "--run", "run", "--data", "images", "--set", "k=1")
OF_RUN = ("simsiam", "tiny_vit", "mean_colour")
TRAINING = (
    "pretrain", "--method", "simsiam", "--bg", "mean_colour", "--backbone", "tiny_vit", "--store", "set.zarr",
    "--recipe", "smoke", "--set", "batch_size=8", "--out", "run",
)  # fmt: skip


def given(folder: Path, names: Sequence[str] = PLUGINS) -> list[str]:
    return [word for name in names for word in ("--plugin", str(folder / f"{name}.py"))]


def run(*words: str) -> Result:
    return CliRunner().invoke(cli.main, list(words))


def done(*words: str) -> Result:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result


def refused(*words: str) -> str:
    result = run(*words)
    assert result.exit_code == 2, result.output
    return " ".join(result.stderr.split())


def paint(folder: Path, splits: Sequence[str]) -> None:
    """Bright squares on dark noise, of two classes; as class folders and with a list."""
    rng, lines = np.random.default_rng(0), []
    for split in splits:
        for number in range(16):
            label = ("red", "green")[number % 2]
            image_HWC = rng.integers(0, 60, (40, 48, 3), dtype=np.uint8)
            image_HWC[8:30, 10:34, number % 2] = 250
            place = folder / split / label / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image_HWC).save(place)
            lines.append(f"{place.relative_to(folder)},{label}")
    (folder / "labels.csv").write_text("\n".join(lines[:16]) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plug-ins, the images and a run of two epochs."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in PLUGINS:
        copied(name, folder / "mine")
    paint(folder / "images", ("train", "val"))
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setenv(PLUGINS_VARIABLE, "")
        build = ("build-store", "--dataset", "csv-of-paths", "--root", "images", "--detector", "bright")
        done(*build, "--out", "set.zarr", "--workers", "1", *given(folder / "mine"))
        done(*TRAINING, "--set", "epochs=2", *given(folder / "mine"))
    return folder


@pytest.fixture(autouse=True)
def _in_that_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv(PLUGINS_VARIABLE, "")


def test_a_store_of_ones_own_data_set_and_detector_is_described_without_them() -> None:
    described = json.loads(done("store", "info", "set.zarr").stdout)
    assert (described["num_rows"], described["identity"]["detector"]["name"]) == (16, "bright")
    assert described["identity"]["dataset"] == "csv-of-paths"


def test_the_run_records_its_plug_ins(place: Path) -> None:
    recorded = json.loads(Path("run/run.json").read_text())
    assert [(each["set_name"], each["member"], each["source"]) for each in recorded["plugins"]] == [
        ("methods", "simsiam", "simsiam.py"),
        ("backgrounds", "mean_colour", "mean_colour.py"),
        ("backbones", "tiny_vit", "tiny_vit.py"),
    ]
    assert all(len(each["sha256"]) == 64 for each in recorded["plugins"])
    assert f"--plugin {place / 'mine/simsiam.py'}" in recorded["command"]


def test_it_is_scored_shown_and_resumed_with_them(place: Path) -> None:
    plugins = given(place / "mine")
    scored = json.loads(done(*KNN, "--json", *plugins).stdout)
    assert all(0 <= score <= 100 for score in scored["scores"].values())
    done("report", "run", *plugins)
    page = Path("run/report.html").read_text()
    assert "plugins.methods.simsiam" in page
    assert "Where the query looks" in page
    # One more epoch; the data set and the detector are the store's matter.
    resumed = json.loads(done(*TRAINING, "--set", "epochs=3", "--json", *given(place / "mine", OF_RUN)).stdout)
    assert (resumed["state"], resumed["steps"]) == ("finished", 6)


@pytest.mark.parametrize(
    ("missing", "member"),
    [("simsiam", "method 'simsiam'"), ("tiny_vit", "backbone 'tiny_vit'"), ("mean_colour", "background 'mean_colour'")],
)
def test_without_one_of_them_the_run_says_which(missing: str, member: str, place: Path) -> None:
    plugins = given(place / "mine", [name for name in OF_RUN if name != missing])
    words = f"the run in run uses the {member} of {missing}.py, which is not given: add --plugin PATH/{missing}.py"
    assert words in refused("evaluate", "knn", "--run", "run", "--data", "images", *plugins)
    assert words in refused("report", "run", *plugins)
    resumed = refused(*TRAINING, "--set", "epochs=3", "--resume", *plugins)
    assert member in resumed
    assert "--plugin FILE.py" in resumed


def test_a_file_that_changed_is_warned_of_and_not_resumed_with(place: Path) -> None:
    for name in OF_RUN:
        copied(name, place / "changed")
    with (place / "changed/simsiam.py").open("a") as file:
        file.write("# another text\n")
    plugins = given(place / "changed", OF_RUN)
    found = done("report", "run", *plugins)
    words = "the run in run uses the method 'simsiam' of simsiam.py, whose text is another one now (sha256 "
    assert words in " ".join(found.stderr.split())
    assert words in (resumed := refused(*TRAINING, "--set", "epochs=4", "--resume", *plugins))
    assert "give it as it was to go on with the run" in resumed
