"""The contract of a detector's file, for every file of the folder, and for one of a user's own; identities stay."""

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from backdrop import cli
from backdrop.errors import UserError
from backdrop.open_sets import PLUGINS_VARIABLE, use_plugin
from backdrop.saliency.deepusps2.training_log import LOG_FILE, run_of
from backdrop.saliency.detector import Detector, MaskError, Threshold
from backdrop.saliency.detectors import DETECTORS, DetectorFile, detector_names, find, open_detector
from backdrop.saliency.inference import encode_png
from backdrop.saliency.networks.drn import DrnSegmenter
from backdrop.saliency.trained_detector.drn_detector import DetectorDescription, save_detector
from backdrop.stores.format.reader import open_store
from tests.material.published_vits import tiny_dino
from tests.material.small_images import make_images

PLUGIN = '''"""Corner: the upper left quarter of every image, shifted by what stands after `corner:`."""

import numpy as np

from backdrop.saliency.detector import Detector, Threshold

BACKDROP_SET = "detectors"
HELP = "corner, corner:ROWS (the upper left quarter)"


class Corner(Detector):
    threshold = Threshold(value=0.25, source="it is 0 or 1")

    def __init__(self, rows):
        self.rows = rows

    @property
    def identity(self):
        return {"name": "corner", "rows": self.rows}

    def __call__(self, image_HWC, key):
        height, width = image_HWC.shape[:2]
        map_HW = np.zeros((height, width), np.float32)
        map_HW[self.rows : self.rows + height // 2, : width // 2] = 1
        return map_HW


def names():
    return ("corner",)


def serves(name):
    return name.partition(":")[0] == "corner"


def open(name, device):
    return Corner(int(name.partition(":")[2] or 0))
'''


@pytest.fixture(autouse=True)
def _no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLUGINS_VARIABLE, "")


@pytest.fixture(params=DETECTORS.built_in())
def member(request: pytest.FixtureRequest) -> str:
    return request.param


def tiny_run(folder: Path) -> Path:
    """A run folder whose weights are the same on every machine."""
    model = DrnSegmenter("drn_d_tiny")
    model.load_state_dict(
        {
            name: (torch.arange(value.numel()).reshape(value.shape) % 7).to(value.dtype)
            for name, value in model.state_dict().items()
        }
    )
    folder.mkdir()
    description = DetectorDescription(
        architecture="drn_d_tiny", working_size_px=32, mean_RGB=(0.1, 0.2, 0.3), std_RGB=(1, 1, 1), crf_size_px=32
    )
    save_detector(folder, model, description)
    return folder


def name_served_by(member: str, folder: Path) -> str:
    """A name that a file of the folder opens."""
    if member == "classical":
        return "rbd"
    if member == "run_folder":
        return str(tiny_run(folder / "run"))
    if member in ("found", "lost", "maskcut", "selfmask", "tokencut"):
        return f"{member}:{tiny_dino(folder / 'dino.pth')}"
    (folder / "maps").mkdir()
    (folder / "maps" / "a.png").write_bytes(encode_png(np.full((40, 60), 51, np.uint8)))
    return f"masks:{folder / 'maps'}"


def test_it_provides_what_the_protocol_says(member: str) -> None:
    file = DETECTORS.load(member)
    assert file.__doc__
    assert isinstance(file.HELP, str)
    assert "\n" not in file.HELP
    assert all(isinstance(name, str) and file.serves(name) for name in file.names())
    assert not file.serves("no such detector")
    for function in ("names", "serves", "open"):
        wanted = [name for name in inspect.signature(getattr(DetectorFile, function)).parameters if name != "self"]
        assert list(inspect.signature(getattr(file, function)).parameters) == wanted


def test_it_opens_a_detector_that_keeps_its_contract(member: str, tmp_path: Path) -> None:
    name = name_served_by(member, tmp_path)
    detector = open_detector(name, device="cpu")
    assert find(name) is DETECTORS.load(member)
    assert isinstance(detector.uses_gpu, bool)
    assert detector.batch_size >= 1
    assert json.loads(json.dumps(detector.identity))["name"]
    assert str(tmp_path) not in json.dumps(detector.identity)
    assert 0 <= detector.threshold.value < 1
    assert detector.threshold.source
    image_HWC = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    map_HW = detector(image_HWC, "a.jpg")
    assert (map_HW.dtype, map_HW.shape) == (np.float32, (40, 60))
    assert 0 <= map_HW.min() <= map_HW.max() <= 1
    assert detector.maps([], []) == []
    (of_batch,) = detector.maps([image_HWC], ["a.jpg"])
    assert isinstance(of_batch, np.ndarray)
    np.testing.assert_array_equal(of_batch, map_HW)


def test_of_several_images_one_without_a_map_has_its_reason(tmp_path: Path) -> None:
    detector = open_detector(name_served_by("masks", tmp_path))
    image_HWC = np.zeros((40, 60, 3), np.uint8)
    there, absent = detector.maps([image_HWC, image_HWC], ["a.jpg", "b.jpg"])
    assert isinstance(there, np.ndarray)
    assert isinstance(absent, MaskError)


def test_what_fails_on_one_image_names_it() -> None:
    with pytest.raises(ValueError, match="rows") as caught:
        Failing().maps([np.zeros((4, 4, 3), np.uint8)], ["n01/a.jpg"])
    assert "n01/a.jpg" in caught.value.__notes__[0]


class Failing(Detector):
    """Has a fault of its own."""

    threshold = Threshold(value=0.5, source="none")

    @property
    def identity(self) -> dict:
        return {"name": "failing"}

    def __call__(self, image_HWC: np.ndarray, key: str = "") -> np.ndarray:
        raise ValueError("too few rows")


@pytest.mark.parametrize(("name", "version"), [("rbd", 1), ("mc", 1), ("dsr", 1), ("hs", 1), ("mean", 5)])
def test_stores_know_a_classical_detector_by_what_they_always_did(name: str, version: int) -> None:
    assert open_detector(name).identity == {"name": name, "algorithm_version": version}


def test_stores_know_a_folder_of_maps_by_what_they_always_did(tmp_path: Path) -> None:
    (tmp_path / "n").mkdir()
    for name in ("a.png", "n/b.png"):
        (tmp_path / name).write_bytes(b"\x89 not looked into: " + name.encode())
    digest = "0c759400f5b0c4651cc4bb15cfbf053859c1b136b89d8a10b0cd4fca03fb2dc5"
    expected = {"name": "masks", "algorithm_version": 1, "content_sha256": digest}
    assert open_detector(f"masks:{tmp_path}").identity == expected


def test_stores_know_a_trained_detector_by_what_they_always_did(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run")
    expected = {
        "name": "deepusps",
        "architecture": "drn_d_tiny",
        "algorithm_version": 2,
        "working_size_px": 32,
        "mean_RGB": [0.1, 0.2, 0.3],
        "std_RGB": [1, 1, 1],
        "crf": None,
        "crf_size_px": 32,
        "weights_sha256": "944b474034feedbd4d01a8ff618c012179cf83a05360deda97bdbc0796b039eb",
    }
    assert open_detector(str(run)).identity == expected
    assert open_detector(f"{run}:no-crf").identity == expected
    assert open_detector(str(run)).threshold.value == 0.9
    crf = {
        "spatial_sigma_px": 0.2222222222222222,
        "spatial_weight": 3.0,
        "bilateral_sigma_px": 5.925925925925926,
        "bilateral_sigma_rgb": 13.0,
        "bilateral_weight": 10.0,
        "iterations": 5,
    }
    assert open_detector(f"{run}:crf").identity == {**expected, "crf": crf}


def test_the_training_of_a_run_is_found_whatever_ends_its_name(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).touch()
    for name in (str(tmp_path), f"{tmp_path}:crf", f"{tmp_path}:no-crf"):
        assert run_of(name) == tmp_path
    assert run_of(f"{tmp_path}:maybe") is None
    assert run_of("crf") is None


def test_an_unknown_name_says_what_is_allowed_and_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no detector 'rdb'\. Did you mean rbd\? Allowed:\n  dsr, hs, mc, mean, rbd"):
        open_detector("rdb")
    with pytest.raises(UserError, match=r"no detector 'u2net'\. Allowed:[^?]*masks:DIR[^?]*RUN[^?]*--plugin FILE\.py"):
        open_detector("u2net")


def test_a_folder_cannot_take_the_place_of_a_listed_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rbd").mkdir()
    (tmp_path / "corner").mkdir()
    assert open_detector("rbd").identity["name"] == "rbd"
    use_plugin(written(tmp_path, "corner.py", PLUGIN))
    assert open_detector("corner").identity["name"] == "corner"


def test_built_in_detectors_are_asked_before_plugins(tmp_path: Path) -> None:
    use_plugin(written(tmp_path, "aaa.py", PLUGIN.replace('name.partition(":")[0] == "corner"', "True")))
    assert find(name_served_by("masks", tmp_path)) is DETECTORS.load("masks")
    assert open_detector("u2net:7").identity == {"name": "corner", "rows": 7}


@pytest.mark.parametrize("taken", ["rbd", "corner"])
def test_two_files_cannot_list_one_name(tmp_path: Path, taken: str) -> None:
    use_plugin(written(tmp_path, "corner.py", PLUGIN))
    use_plugin(written(tmp_path, "second.py", PLUGIN.replace('("corner",)', f'("{taken}",)')))
    with pytest.raises(UserError, match=rf"'{taken}' is served by .* and second: rename it in the plug-in"):
        open_detector(taken)


def test_two_plugins_cannot_serve_one_form(tmp_path: Path) -> None:
    for name in ("one.py", "two.py"):
        use_plugin(written(tmp_path, name, PLUGIN))
    with pytest.raises(UserError, match="'corner:3' is served by one and two"):
        open_detector("corner:3")


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_help_lists_a_plugin(tmp_path: Path) -> None:
    path = written(tmp_path, "corner.py", PLUGIN)
    for command in (["build-store"], ["saliency", "evaluate"], ["saliency", "train"]):
        said = " ".join(CliRunner().invoke(cli.main, [*command, "--plugin", str(path), "--help"]).output.split())
        assert "dsr, hs, mc, mean, rbd (no training needed);" in said
        assert "corner, corner:ROWS (the upper left quarter)" in said
        assert "corner" not in CliRunner().invoke(cli.main, [*command, "--help"]).output


def test_a_detector_of_ones_own_builds_a_store_in_its_workers(tmp_path: Path) -> None:
    plugin = ["--plugin", str(written(tmp_path, "corner.py", PLUGIN))]
    images = make_images(tmp_path / "images")
    for workers in ("1", "2"):
        store = tmp_path / f"{workers}.zarr"
        build = ["build-store", "--dataset", "folder", "--root", str(images), "--detector", "corner:1", "--no-beton"]
        cli.main([*build, "--out", str(store), "--workers", workers, *plugin], standalone_mode=False)
        built = open_store(store)
        assert built.identity["detector"] == {"name": "corner", "rows": 1}
        mask_HW = built.mask(0)
        assert mask_HW[1 : 1 + mask_HW.shape[0] // 2, : mask_HW.shape[1] // 2].all()
        assert not mask_HW[0].any()
    assert "corner" not in detector_names()


def test_the_pages_example_is_one(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[2] / "saliency" / "DETECTORS.md"
    (source,) = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    use_plugin(written(tmp_path, "middle.py", source))
    map_HW = open_detector("middle")(np.zeros((8, 12, 3), np.uint8), "key")
    assert (map_HW.dtype, map_HW.shape, map_HW.sum()) == (np.float32, (8, 12), 4 * 6)


@pytest.mark.slow
def test_a_detector_of_ones_own_labels_images_for_training(tmp_path: Path) -> None:
    plugin = ["--plugin", str(written(tmp_path, "corner.py", PLUGIN))]
    images, maps, run = make_images(tmp_path / "images"), tmp_path / "maps", tmp_path / "run"
    train = ["saliency", "train", "--images", str(images), "--preset", "tiny", "--source", "corner", "--out", str(run)]
    small = ["--set", "stage2_epochs=1", "--set", "stage1_epochs=1", "--set", "working_size_px=32"]
    cli.main([*train, *small, *plugin], standalone_mode=False)
    labels = json.loads((run / "settings.json").read_text())["first_labels"]
    assert {"name": "corner", "rows": 0} in labels
    cli.main(["saliency", "predict", "--images", str(images), "--detector", "corner", "--out", str(maps), *plugin],
             standalone_mode=False)  # fmt: skip
    assert len(list(maps.rglob("*.png"))) > 2
